"""Choosing an instance: instances, policies, and groups of groups."""
