"""The cache at work: lookup, coalescing, fetch, invalidation, second level."""
