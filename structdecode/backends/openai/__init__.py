"""OpenAI-compatible chat APIs, through the official client."""
