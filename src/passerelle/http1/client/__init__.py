"""Upstream side of HTTP/1.1: connections to instances, and their pool."""
