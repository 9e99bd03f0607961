"""API keys, sessions and client certificates, and where they are kept."""
