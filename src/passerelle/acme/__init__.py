"""Certificates from an authority that speaks ACME (RFC 8555): orders, times, files, and what gateways share."""
