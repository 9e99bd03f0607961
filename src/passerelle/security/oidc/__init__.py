"""Login with OpenID Connect: metadata of a provider, its tokens, and logins in progress; no I/O."""
