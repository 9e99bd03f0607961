"""Runs the plugins of the configuration: loading, calls with timeouts, and what their results mean for a request."""
