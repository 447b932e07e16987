"""Other harnesses that run structdecode as a model."""
