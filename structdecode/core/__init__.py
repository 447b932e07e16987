"""The kernel: what a search is made of. Imports no other room."""
