"""Canonical paths, path patterns, and the compiled route table."""
