"""Exports: configurations for other programs, made from the configuration of the gateway."""
