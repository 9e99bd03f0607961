"""A limit of requests in flight, with a short queue (:mod:`.adaptive_limit` finds the limit itself).

Requests beyond the number that an instance works on at once do not finish sooner: they wait in the instance, where the
gateway cannot observe them. So requests over the limit wait here, in a short queue, and requests over that are refused
at once.
"""

from __future__ import annotations

import enum


class Admission(enum.Enum):
    """What to do with a new request."""

    RUN = "run"
    WAIT = "wait"
    REFUSE = "refuse"


class AdmissionQueue:
    """Counters of running and waiting requests: at most ``limit`` run and at most ``max_waiting`` wait.

    The caller keeps the queue itself. It calls :meth:`enter` for each request and :meth:`leave` at the end of each
    running one. If :meth:`leave` returns True, the first waiting request runs from then on and is counted as running.
    For a waiting request that ends, the caller calls :meth:`abandon`.
    """

    __slots__ = ("limit", "max_waiting", "running", "waiting")

    def __init__(self, limit: int, max_waiting: int) -> None:
        """Raises ValueError unless limit >= 1 and max_waiting >= 0."""
        if limit < 1 or max_waiting < 0:
            raise ValueError("an admission queue needs a limit of at least 1, and max_waiting of at least 0")
        self.limit = limit  # may be changed at any time
        self.max_waiting = max_waiting
        self.running = 0
        self.waiting = 0

    def enter(self) -> Admission:
        """Admit, queue or refuse a new request. A new request never overtakes a waiting one."""
        if self.running < self.limit and not self.waiting:
            self.running += 1
            return Admission.RUN
        if self.waiting < self.max_waiting:
            self.waiting += 1
            return Admission.WAIT
        return Admission.REFUSE

    def leave(self) -> bool:
        """Record the end of a running request. True if the first waiting request runs now."""
        if self.running < 1:
            raise RuntimeError("left more often than entered")
        self.running -= 1
        return self.promote()

    def promote(self) -> bool:
        """Run the first waiting request if the limit allows it; True if it did. Repeat this after raising the limit."""
        if self.waiting and self.running < self.limit:
            self.waiting -= 1
            self.running += 1
            return True
        return False

    def abandon(self) -> None:
        """Record the end of a waiting request (its client left, or its deadline passed)."""
        if self.waiting < 1:
            raise RuntimeError("abandoned more often than queued")
        self.waiting -= 1


def retry_after(waiting: int, limit: int, seconds: float, most: float = 30.0) -> int:
    """Return the ``Retry-After`` of a refusal: the time that the current queue takes, in whole seconds, 1 to ``most``.

    ``seconds`` is the duration of one request, ``limit`` the number that run at once.
    """
    return int(min(max(1.0, -(-(waiting + 1) * seconds // limit)), most))
