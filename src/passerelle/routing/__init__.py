"""Canonical paths, patterns, and the compiled route table."""
