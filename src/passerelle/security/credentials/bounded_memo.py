"""Bounded cache of results about credentials and clients."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

V = TypeVar("V")


class BoundedMemo(OrderedDict[bytes, V]):
    """Maps keys to values and evicts the least recently used key first."""

    def touch(self, key: bytes) -> V | None:
        """Return the value of ``key`` and mark it as most recently used."""
        found = self.get(key)
        if found is not None:
            self.move_to_end(key)
        return found

    def keep(self, key: bytes, value: V, most: int) -> None:
        """Store ``value`` as the most recently used of at most ``most`` values."""
        if len(self) >= most and key not in self:
            self.popitem(last=False)
        self[key] = value
        self.move_to_end(key)
