"""The keys that lately left a store without having been asked for again: their hashes only, eight bytes each."""

from __future__ import annotations

import sys
from array import array
from typing import Final

_SMALLEST: Final = 64


class GhostQueue:
    """A set of hashes that forgets: each has one place, and a later one that falls there takes it.

    With twice as many places as the main queue has items, most hashes stay for about that many evictions, as in the
    queue of S3-FIFO, which would take 100 bytes a key. A false "yes" (two keys of one hash) does no harm.
    """

    __slots__ = ("_mask", "_places")

    def __init__(self) -> None:
        self._places = array("q", bytes(8 * _SMALLEST))
        self._mask = _SMALLEST - 1

    def __contains__(self, key: bytes) -> bool:
        hashed = hash(key)
        return self._places[hashed & self._mask] == hashed

    def add(self, key: bytes) -> None:
        """Remember ``key``."""
        hashed = hash(key)
        self._places[hashed & self._mask] = hashed

    def discard(self, key: bytes) -> None:
        """Forget ``key``."""
        hashed = hash(key)
        if self._places[hashed & self._mask] == hashed:
            # 0 falls to place 0; elsewhere it is nobody's hash.
            self._places[hashed & self._mask] = 0

    def fit(self, items: int) -> None:
        """Have about twice as many places as ``items``. Growing forgets nothing, shrinking at most half."""
        places = self._mask + 1
        wanted = _SMALLEST
        while wanted < 2 * items:
            wanted *= 2
        if wanted > places or wanted * 4 < places:
            old = self._places
            self._places = array("q", bytes(8 * wanted))
            self._mask = wanted - 1
            for hashed in old:
                if hashed:
                    self._places[hashed & self._mask] = hashed

    def measure(self) -> int:
        """Bytes held."""
        return sys.getsizeof(self._places)
