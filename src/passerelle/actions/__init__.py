"""What the gateway does on a route without a service: redirects, fixed responses, and files."""
