"""Security: authentication, authorization, rate limits, addresses, CORS and header rules; one guard per module."""
