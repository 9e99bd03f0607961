"""The contract of a store. The one in memory is synchronous: a hit must not wait for anything."""

from __future__ import annotations

from typing import Protocol

from passerelle.caching.entry import Stored


class Store(Protocol):
    """What the cache asks of a store."""

    def get(self, key: bytes) -> Stored | None:
        """The item under ``key``, counted as a use of it."""

    def put(self, item: Stored) -> bool:
        """Hold ``item`` under its key, in place of what was there; false when it is too large for that."""

    def delete(self, key: bytes) -> bool:
        """Let go of the item under ``key``; whether there was one."""

    def purge_tag(self, tag: bytes) -> int:
        """Let go of every item with ``tag``; how many there were."""

    def purge_path(self, path: bytes) -> int:
        """Let go of every item whose URI has this path, whatever host and query, or, where ``path`` ends in ``*``,
        a path that starts so; how many there were.
        """

    def clear(self) -> int:
        """Let go of everything; how many items there were."""
