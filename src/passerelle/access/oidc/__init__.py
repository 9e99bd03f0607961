"""Login with OpenID Connect: requests to the provider, the guard that begins logins, and the handlers of its routes."""
