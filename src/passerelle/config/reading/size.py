"""The largest size of a file, in a module without YAML: workers import it, and read no file."""

MAX_BYTES = 2**20
"""Largest file, in bytes."""
