"""Gateways as a Python team would write them; each is a program that takes a port and upstreams."""
