"""A circuit breaker for a service: while most requests fail, none are sent.

Passive ejection removes *one* bad instance. The circuit breaker is for a service that fails as a whole (its database is
gone), when each request only adds load and makes its client wait.

=========  ==============================================================  =========================================
state      requests                                                        next state
=========  ==============================================================  =========================================
closed     all are admitted                                                open: of at least ``minimum`` (20) requests
                                                                           that ended in the last ``window`` (10 s),
                                                                           ``threshold`` (50 %) failed
open       none is admitted                                                half-open: after 5 s, doubled each time in a
                                                                           row, up to 60 s
half-open  up to ``probes`` (3) are admitted                               closed: ``probes`` of them succeeded;
                                                                           open: one failed
=========  ==============================================================  =========================================

The outcome of a request counts only in the period in which the request was admitted: each period has a number, and
the ticket of a request is the number of its period. So slow requests from an earlier period neither open nor close the
breaker. A probe whose outcome does not depend on the service (the client left) frees its place for another probe.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from passerelle.resilience.sliding_window import SlidingWindow


class BreakerState(enum.Enum):
    """The state of a circuit breaker. The value is the name of the state in logs and metrics."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Settings of a circuit breaker. Times are in seconds, ``threshold`` is over 0 and up to 1.

    Raises ValueError for values out of range.
    """

    threshold: float = 0.5
    minimum: int = 20
    window: float = 10.0
    open_for: float = 5.0
    open_for_max: float = 60.0
    probes: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.minimum < 1 or self.probes < 1:
            raise ValueError(
                "a circuit breaker needs a threshold over 0 and up to 1, and at least one request and probe"
            )
        if not 0 < self.open_for <= self.open_for_max or self.window <= 0:
            raise ValueError("the times of a circuit breaker are positive, and open_for is at most open_for_max")


class CircuitBreaker:
    """A circuit breaker. A request needs a ticket from :meth:`acquire`, which it returns once with :meth:`release`."""

    __slots__ = ("_opened", "_passed", "_period", "_running", "_settings", "_state", "_until", "_window", "on_change")

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self._state = BreakerState.CLOSED
        self._period = 0
        self._window = SlidingWindow(self._settings.window)
        self._until = 0.0  # end of the open period
        self._opened = 0  # how often in a row
        self._running = 0  # half-open: probes in flight
        self._passed = 0  # half-open: probes that succeeded
        self.on_change: Callable[[BreakerState], None] | None = None  # called after each change of the state

    def acquire(self, now: float) -> int | None:
        """Return a ticket if a request may be sent; None means 503 with the ``Retry-After`` of :meth:`retry_after`."""
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
        """Record the end of a request. ``ok`` is None if the outcome does not depend on the service."""
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
        """Return the seconds until a request may be sent; 0 if that is now or depends on probes in flight."""
        return max(0.0, self._until - now) if self._state is BreakerState.OPEN else 0.0

    @property
    def state(self) -> BreakerState:
        """The state. An open breaker becomes half-open at the first :meth:`acquire` after the time is over."""
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
        if self.on_change is not None:
            self.on_change(state)
