"""Recorded searches: what a model was asked and what it wrote, kept so that other searches can be replayed without it."""
