"""API keys, sessions and client certificates, and their stores."""
