"""The second level of the cache, in Redis."""
