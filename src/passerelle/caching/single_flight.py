"""Single flight: of concurrent requests that miss the same key, one is forwarded (RFC 9111 §4: "collapsing").

Waiters are callbacks, called in order of arrival; there are no tasks and no locks. A flight belongs to no client: the
client that started one may disconnect like any other, and the upstream request continues until its response is stored,
turns out not to be shareable, or fails.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Keys whose last response could not be shared, and for how long requests for them are forwarded without waiting;
# otherwise each request would wait for a response that turns out to be useless. The table is bounded and drops its
# oldest keys first. It holds hashes, since a key may be 30 KB long; a hash collision merely prevents waiting.
_SOLO_SECONDS: Final = 10.0
_SOLO_KEYS: Final = 10_000


class Flight(Generic[T]):
    """One upstream request for ``key``, with its waiters.

    Only the first call of ``complete``, ``release_uncached`` or ``abort`` has an effect. Each waiter is called exactly
    once, with the shared result, or with None if the waiter must forward its own request.
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
        """Add a waiter; return a ticket for :meth:`leave`, or 0 if the flight is full and the caller must forward its
        own request."""
        flights = self._flights
        if self.done or len(self._waiters) >= flights.max_waiters:
            return 0
        flights.tickets += 1
        self._waiters[flights.tickets] = callback
        return flights.tickets

    def leave(self, ticket: int) -> None:
        """Remove a waiter: its callback will not be called. Other waiters are unaffected."""
        self._waiters.pop(ticket, None)

    def complete(self, result: T) -> None:
        """Share the response with all waiters."""
        self._end(result)

    def release_uncached(self, now: float) -> None:
        """Mark the response as not shareable: all waiters forward their own requests, at once and in parallel.

        Requests for this key do not wait for each other for the next ten seconds.
        """
        if not self.done:
            self._flights.remember_solo(self.key, now)
        self._end(None)

    def abort(self) -> None:
        """End without a response: each waiter forwards its own request."""
        self._end(None)

    def _end(self, result: T | None) -> None:
        if self.done:
            return
        self.done = True
        self._flights.remove(self)
        # A callback may remove another waiter (a closed client connection ends both of its requests).
        for ticket in list(self._waiters):
            callback = self._waiters.pop(ticket, None)
            if callback is not None:
                callback(result)


class Flights(Generic[T]):
    """Flights in progress, by key. ``max_waiters`` limits the waiters of each flight."""

    __slots__ = ("_flights", "_solo", "max_waiters", "tickets")

    def __init__(self, max_waiters: int = 10_000) -> None:
        self.max_waiters = max_waiters
        self.tickets = 0
        self._flights: dict[bytes, Flight[T]] = {}
        self._solo: OrderedDict[int, float] = OrderedDict()  # expiry times, earliest first

    def __len__(self) -> int:
        return len(self._flights)

    def get(self, key: bytes) -> Flight[T] | None:
        """Return the flight in progress for ``key``, or None."""
        return self._flights.get(key)

    def begin(self, key: bytes) -> Flight[T]:
        """Start a flight for ``key``; there must be none in progress."""
        assert key not in self._flights
        flight = self._flights[key] = Flight(self, key)
        return flight

    def is_solo(self, key: bytes, now: float) -> bool:
        """Return whether requests for ``key`` are currently forwarded without waiting for each other."""
        until = self._solo.get(hash(key))
        # An expiry further ahead was recorded before the clock was set back.
        return until is not None and now < until <= now + _SOLO_SECONDS

    def remember_solo(self, key: bytes, now: float) -> None:
        """Forward requests for ``key`` without waiting for each other for the next ten seconds."""
        solo = self._solo
        hashed = hash(key)
        solo[hashed] = now + _SOLO_SECONDS
        solo.move_to_end(hashed)
        while len(solo) > _SOLO_KEYS or next(iter(solo.values())) <= now:
            solo.popitem(last=False)

    def remove(self, flight: Flight[T]) -> None:
        """Remove a flight that has ended."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
