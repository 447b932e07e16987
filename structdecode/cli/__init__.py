"""The command line, a file for each command or tight group. Heavy imports wait until a command needs them."""
