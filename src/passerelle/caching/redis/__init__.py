"""Second cache level, in Redis."""
