"""Places that clients share: a count of places by client, and a queue that serves clients in turn.

A client is the address that a request came from. None stands for requests of no single client: those of the gateway
itself, and those of a trusted proxy that does not name its clients. Their number by client is not bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Generic, TypeVar

T = TypeVar("T")

# The largest part of shared places that one client may hold, by default.
CLIENT_SHARE = 0.5


class SharedPlaces:
    """At most ``limit`` places, of which one client holds at most ``most``."""

    __slots__ = ("_by_client", "limit", "most", "taken")

    def __init__(self, limit: int, most: int) -> None:
        self._by_client: dict[bytes, int] = {}
        self.limit = limit
        self.most = most
        self.taken = 0

    def is_full_for(self, client: bytes | None) -> bool:
        """Whether ``client`` can get no place now."""
        return self.taken >= self.limit or (client is not None and self._by_client.get(client, 0) >= self.most)

    def take(self, client: bytes | None) -> None:
        """Count a place of ``client``."""
        self.taken += 1
        if client is not None:
            self._by_client[client] = self._by_client.get(client, 0) + 1

    def give_back(self, client: bytes | None) -> None:
        """Count the end of a place of ``client``."""
        self.taken -= 1
        if client is not None:
            left = self._by_client[client] - 1
            if left:
                self._by_client[client] = left
            else:
                del self._by_client[client]


def share_of(places: int, share: float) -> int:
    """Return how many of ``places`` one client may hold: at least one, and the part ``share`` of them."""
    return max(1, ceil(places * share))


class FairQueue(Generic[T]):
    """Items that wait, at most ``limit``. Clients are served in turn, the items of one client in order of arrival.

    ``by_client`` is public because the truth of a dict is cheaper than a call.
    """

    __slots__ = ("by_client", "limit", "waiting")

    def __init__(self, limit: int) -> None:
        self.by_client: dict[bytes | None, dict[T, None]] = {}
        self.limit = limit
        self.waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether ``limit`` items wait."""
        return self.waiting >= self.limit

    def add(self, client: bytes | None, item: T) -> None:
        """Add ``item`` at the end of the items of ``client``, even beyond the limit."""
        self.by_client.setdefault(client, {})[item] = None
        self.waiting += 1

    def displace(self, client: bytes | None) -> T | None:
        """Remove and return the last item of the client with most items, if ``client`` has less by two or more.

        So a client that fills the queue leaves room in it to every other client.
        """
        own = len(self.by_client.get(client, ()))
        longest = max(self.by_client, key=lambda each: len(self.by_client[each]), default=None)
        items = self.by_client.get(longest)
        if items is None or len(items) < own + 2:
            return None
        item = next(reversed(items))
        self._remove(longest, item)
        return item

    def pop(self, admits: Callable[[bytes | None], bool] | None = None) -> tuple[bytes | None, T] | None:
        """Remove and return the first item of the client whose turn it is, if there is one that ``admits`` accepts."""
        for client, items in self.by_client.items():
            if admits is None or admits(client):
                item = next(iter(items))
                self._remove(client, item)
                if items:  # to the end: it is the turn of the other clients
                    self.by_client[client] = self.by_client.pop(client)
                return client, item
        return None

    def remove(self, item: T) -> bool:
        """Remove ``item``; whether it was waiting. O(clients)."""
        for client, items in self.by_client.items():
            if item in items:
                self._remove(client, item)
                return True
        return False

    def _remove(self, client: bytes | None, item: T) -> None:
        items = self.by_client[client]
        del items[item]
        self.waiting -= 1
        if not items:
            del self.by_client[client]
