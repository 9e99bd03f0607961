"""The time limit of one attempt."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from passerelle.upstream.deadlines import DeadlineQueue


class TimedAttempt(Protocol):
    """A request whose attempts have a time limit."""

    def on_attempt_deadline(self) -> None:
        """The time of the attempt in progress has expired."""


class AttemptTimer:
    """The time limit of the attempt in progress.

    The timer is an item of its own in the queue of deadlines: the request itself may be in the same queue with the
    time limit of the whole request. The timer refers to the request only while it is armed, so that the two do not
    keep each other alive.
    """

    __slots__ = ("_deadlines", "request", "since")

    def __init__(self, deadlines: DeadlineQueue) -> None:
        self._deadlines = deadlines
        self.request: TimedAttempt | None = None
        """The request whose attempt has the time limit; None while the timer is stopped."""
        self.since = 0.0
        """The start of the attempt's time, of ``perf_counter``."""

    @property
    def limit(self) -> float:
        """The time limit of one attempt, in seconds."""
        return self._deadlines.limit

    def arm(self, request: TimedAttempt, since: float | None = None) -> None:
        """Start the time of an attempt of ``request`` now or ``since`` a time (of ``perf_counter``), or again."""
        self.request = request
        self.since = perf_counter() if since is None else since
        self._deadlines.entries.pop(self, None)  # to the end of the queue
        self._deadlines.add(self, self.since)

    def disarm(self) -> None:
        """Stop the time of the attempt, if it is running."""
        if self.request is not None:
            self.request = None
            self._deadlines.entries.pop(self, None)

    def on_deadline(self) -> None:
        """Notify the request that the time of its attempt has expired."""
        request, self.request = self.request, None
        if request is not None:
            request.on_attempt_deadline()
