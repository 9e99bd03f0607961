"""A circuit breaker per service: when most of what is sent fails, sending stops for a while.

Passive ejection takes out *one* bad instance; the breaker is for when the service as a whole is beyond help (its
database is gone) and every request only adds to its load and makes its client wait.

=========  ==============================================================  =========================================
state      requests                                                        leaves to
=========  ==============================================================  =========================================
closed     all pass                                                        open: of at least ``minimum`` (20) requests
                                                                           that ended in the last ``window`` (10 s),
                                                                           ``threshold`` (50 %) failed
open       none passes                                                     half-open: after 5 s, twice as long each
                                                                           time in a row up to 60 s
half-open  ``probes`` (3) at a time pass                                   closed: ``probes`` of them succeeded;
                                                                           open: one failed
=========  ==============================================================  =========================================

A request that passed in one state and ends in another says nothing: each period has a number, which is its requests'
ticket. So slow requests from before the trouble neither open nor close anything. A probe whose end says nothing of
the service (the client left) gives its place to another.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from passerelle.resilience.sliding_window import SlidingWindow


class BreakerState(enum.Enum):
    """The value is its name in logs and metrics."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Times in seconds; ``threshold`` is a part, over 0 to 1. Raises ValueError for what cannot work."""

    threshold: float = 0.5
    minimum: int = 20
    window: float = 10.0
    open_for: float = 5.0
    open_for_max: float = 60.0
    probes: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.minimum < 1 or self.probes < 1:
            raise ValueError("a breaker has a threshold over 0 and up to 1, and at least one request and one probe")
        if not 0 < self.open_for <= self.open_for_max or self.window <= 0:
            raise ValueError("a breaker's times are positive, and open_for is at most open_for_max")


class CircuitBreaker:
    """Ask :meth:`acquire` before a request; if it gives a ticket, call :meth:`release` with it exactly once."""

    __slots__ = ("_opened", "_passed", "_period", "_running", "_settings", "_state", "_until", "_window")

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self._state = BreakerState.CLOSED
        self._period = 0
        self._window = SlidingWindow(self._settings.window)
        self._until = 0.0  # end of the open period
        self._opened = 0  # times in a row
        self._running = 0  # half-open: probes under way
        self._passed = 0  # half-open: probes that succeeded

    def acquire(self, now: float) -> int | None:
        """A ticket if a request may be sent, else None: answer 503 with ``Retry-After`` (:meth:`retry_after`)."""
        if self._state is BreakerState.CLOSED:
            return self._period
        if self._state is BreakerState.OPEN:
            if now < self._until:
                return None
            self._become(BreakerState.HALF_OPEN)
        if self._running + self._passed >= self._settings.probes:
            return None
        self._running += 1
        return self._period

    def release(self, ticket: int, ok: bool | None, now: float) -> None:
        """The request ended; ``ok`` is None if that says nothing of the service."""
        if ticket != self._period:
            return
        if self._state is BreakerState.HALF_OPEN:
            self._running -= 1
            if ok:
                self._passed += 1
                if self._passed >= self._settings.probes:
                    self._opened = 0
                    self._become(BreakerState.CLOSED)
            elif ok is False:
                self._open(now)
        elif ok is not None:
            window = self._window
            window.add(now, 1, 0 if ok else 1)
            if (
                not ok
                and window.first >= self._settings.minimum
                and window.second >= self._settings.threshold * window.first
            ):
                self._open(now)

    def retry_after(self, now: float) -> float:
        """Seconds until a request may be sent; 0 if that is now or depends on probes under way."""
        return max(0.0, self._until - now) if self._state is BreakerState.OPEN else 0.0

    @property
    def state(self) -> BreakerState:
        """The state; it leaves *open* at the first :meth:`acquire` after its time."""
        return self._state

    def _open(self, now: float) -> None:
        length = self._settings.open_for * 2.0 ** min(self._opened, 32)
        self._opened += 1
        self._until = now + min(length, self._settings.open_for_max)
        self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        self._state = state
        self._period += 1
        self._running = self._passed = 0
        self._window.clear()
