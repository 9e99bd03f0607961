"""The results of discovery, common to all kinds of sources."""

from __future__ import annotations

from typing import NamedTuple


class FoundInstance(NamedTuple):
    """A discovered instance."""

    host: str
    port: int
    weight: float = 1.0
    tier: int = 0  # the lowest tier is used first


class DiscoveryFailed(Exception):
    """A source has no result or an empty one. The text is the reason."""
