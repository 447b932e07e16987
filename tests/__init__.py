import structdecode as structdecode  # before transformers: beside a CPU build of torch, torchvision imports only behind it
