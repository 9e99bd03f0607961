"""Who may ask for what: keys, tokens, sessions, limits, addresses."""
