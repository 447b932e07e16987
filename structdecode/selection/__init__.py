"""Choosing among finished answers: selectors, and what they would choose from fewer of the same samples."""
