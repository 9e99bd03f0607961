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

    __slots__ = ("_deadlines", "_request")

    def __init__(self, deadlines: DeadlineQueue) -> None:
        self._deadlines = deadlines
        self._request: TimedAttempt | None = None

    @property
    def armed(self) -> bool:
        """Whether the time of an attempt is running."""
        return self._request is not None

    @property
    def limit(self) -> float:
        """The time limit of one attempt, in seconds."""
        return self._deadlines.limit

    def arm(self, request: TimedAttempt) -> None:
        """Start the time of an attempt of ``request`` now. The timer must not be armed."""
        self._request = request
        self._deadlines.add(self, perf_counter())

    def disarm(self) -> None:
        """Stop the time of the attempt, if it is running."""
        if self._request is not None:
            self._request = None
            self._deadlines.entries.pop(self, None)

    def on_deadline(self) -> None:
        """Notify the request that the time of its attempt has expired."""
        request, self._request = self._request, None
        if request is not None:
            request.on_attempt_deadline()
