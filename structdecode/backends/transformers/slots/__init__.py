"""All open requests in one batch: slots, shared prefixes by reference, a prefix cache."""
