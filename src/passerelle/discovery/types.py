"""What every way of finding instances gives."""

from __future__ import annotations

from typing import NamedTuple


class FoundInstance(NamedTuple):
    """An instance that was found."""

    host: str
    port: int
    weight: float = 1.0
    tier: int = 0  # of several priorities, the lowest number first


class DiscoveryFailed(Exception):
    """There is no answer, or an empty one; the text says why, for people."""
