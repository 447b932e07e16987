"""The built-in strategies, one a file."""
