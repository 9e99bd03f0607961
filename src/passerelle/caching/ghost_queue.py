"""Ghost queue of S3-FIFO: hashes (eight bytes each) of keys that were evicted without having been requested again."""

from __future__ import annotations

import sys
from array import array
from typing import Final

_SMALLEST: Final = 64


class GhostQueue:
    """Lossy set of hashes: each hash has one place, and a later hash with the same place overwrites it.

    With twice as many places as the main queue has items, most hashes remain for about that many evictions, as in the
    ghost queue of S3-FIFO, which would take 100 bytes a key. A false positive (two keys with one hash) is harmless.
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
            # Zero marks a free place: a hash of 0 maps to place 0, and no other hash is 0.
            self._places[hashed & self._mask] = 0

    def fit(self, items: int) -> None:
        """Resize to about twice as many places as ``items``. Growing loses no hashes; shrinking loses at most half of
        them."""
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
        """Return the bytes held."""
        return sys.getsizeof(self._places)
