"""Gateways that a Python team would write by hand; each is started as a program, with a port and upstreams."""
