"""Single flight: of the requests that miss the same key at once, one goes upstream (RFC 9111 §4 allows "collapsing").

All of it is callbacks, called in the order in which they came: no task, no lock. The flight belongs to no client. Who
starts one may leave like anybody else; the request upstream goes on until its response is stored, found to be nobody
else's, or failed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Keys whose last response could not be shared, and for how long their requests go upstream without waiting: else each
# would wait for one after another that turns out useless. The table is bounded, the oldest go first. It has hashes: a
# key may be 30 KB long, and one of the same hash merely does not wait either.
_SOLO_SECONDS: Final = 10.0
_SOLO_KEYS: Final = 10_000


class Flight(Generic[T]):
    """One request upstream for ``key``, and who waits for it.

    ``complete`` and the others may be called once in all; later calls do nothing. A waiter is called exactly once, with
    the shared result, or with None: go upstream yourself.
    """

    __slots__ = ("_flights", "_waiters", "done", "key")

    def __init__(self, flights: Flights[T], key: bytes) -> None:
        self.key = key
        self.done = False
        self._flights = flights
        self._waiters: dict[int, Callable[[T | None], None]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def wait(self, callback: Callable[[T | None], None]) -> int:
        """Wait for the result; gives a ticket for :meth:`leave`, or 0 when the flight is full: go upstream yourself."""
        flights = self._flights
        if self.done or len(self._waiters) >= flights.max_waiters:
            return 0
        flights.tickets += 1
        self._waiters[flights.tickets] = callback
        return flights.tickets

    def leave(self, ticket: int) -> None:
        """Wait no longer: the callback will not be called. Nobody else notices."""
        self._waiters.pop(ticket, None)

    def complete(self, result: T) -> None:
        """The response may be shared: everybody gets it."""
        self._end(result)

    def release_uncached(self, now: float) -> None:
        """The response is one client's alone: everybody else goes upstream, at once and in parallel.

        Requests for this key do not wait for each other for the next ten seconds.
        """
        if not self.done:
            self._flights.remember_solo(self.key, now)
        self._end(None)

    def abort(self) -> None:
        """There is no response: everybody tries for himself."""
        self._end(None)

    def _end(self, result: T | None) -> None:
        if self.done:
            return
        self.done = True
        self._flights.remove(self)
        # A callback may make another waiter leave (a client's connection closing both of its requests).
        for ticket in list(self._waiters):
            callback = self._waiters.pop(ticket, None)
            if callback is not None:
                callback(result)


class Flights(Generic[T]):
    """The flights under way, by key. ``max_waiters`` bounds each one's queue."""

    __slots__ = ("_flights", "_solo", "max_waiters", "tickets")

    def __init__(self, max_waiters: int = 10_000) -> None:
        self.max_waiters = max_waiters
        self.tickets = 0
        self._flights: dict[bytes, Flight[T]] = {}
        self._solo: OrderedDict[int, float] = OrderedDict()  # until when, the earliest first

    def __len__(self) -> int:
        return len(self._flights)

    def get(self, key: bytes) -> Flight[T] | None:
        """The flight under way for ``key``, or None."""
        return self._flights.get(key)

    def begin(self, key: bytes) -> Flight[T]:
        """Start a flight for ``key``; there must be none."""
        assert key not in self._flights
        flight = self._flights[key] = Flight(self, key)
        return flight

    def is_solo(self, key: bytes, now: float) -> bool:
        """Whether requests for ``key`` go upstream each for itself at the moment."""
        until = self._solo.get(hash(key))
        # One that is further ahead is of before the clock was set back.
        return until is not None and now < until <= now + _SOLO_SECONDS

    def remember_solo(self, key: bytes, now: float) -> None:
        """Requests for ``key`` go upstream each for itself for the next ten seconds."""
        solo = self._solo
        hashed = hash(key)
        solo[hashed] = now + _SOLO_SECONDS
        solo.move_to_end(hashed)
        while len(solo) > _SOLO_KEYS or next(iter(solo.values())) <= now:
            solo.popitem(last=False)

    def remove(self, flight: Flight[T]) -> None:
        """Called by a flight that ends."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
