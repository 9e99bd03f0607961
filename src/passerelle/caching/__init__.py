"""Shared cache (RFC 9111): caching decisions as pure functions, and the stores for cached responses."""
