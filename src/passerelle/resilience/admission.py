"""How much may be open at once: a bound with a short queue (:mod:`.adaptive_limit` finds the bound itself).

More requests in flight than an instance works on at once do not finish sooner; they only wait where nobody sees them.
So what is over the bound waits here, for a short while and in a short queue, and what is over that is refused at once.
"""

from __future__ import annotations

import enum


class Admission(enum.Enum):
    """What to do with a request that comes."""

    RUN = "run"
    WAIT = "wait"
    REFUSE = "refuse"


class AdmissionQueue:
    """Counts for one instance: at most ``limit`` running and at most ``waiting`` queued. The queue is the caller's.

    :meth:`enter` for each request. One that runs ends with :meth:`leave`, and if that is true the caller takes the next
    waiter from its queue, which then runs (already counted). A waiter that gives up calls :meth:`abandon` instead.
    """

    __slots__ = ("limit", "max_waiting", "running", "waiting")

    def __init__(self, limit: int, max_waiting: int) -> None:
        """Raises ValueError unless limit >= 1 and max_waiting >= 0."""
        if limit < 1 or max_waiting < 0:
            raise ValueError("a gate lets at least one request run, and no negative number wait")
        self.limit = limit  # may be changed at any time
        self.max_waiting = max_waiting
        self.running = 0
        self.waiting = 0

    def enter(self) -> Admission:
        """A request comes. It never overtakes one that waits."""
        if self.running < self.limit and not self.waiting:
            self.running += 1
            return Admission.RUN
        if self.waiting < self.max_waiting:
            self.waiting += 1
            return Admission.WAIT
        return Admission.REFUSE

    def leave(self) -> bool:
        """One that ran has ended; true if the first that waits runs now."""
        if self.running < 1:
            raise RuntimeError("left more often than entered")
        self.running -= 1
        return self.promote()

    def promote(self) -> bool:
        """Let one that waits run, if the limit allows; true if it did. To be repeated after the limit was raised."""
        if self.waiting and self.running < self.limit:
            self.waiting -= 1
            self.running += 1
            return True
        return False

    def abandon(self) -> None:
        """One that waited is gone (its client left, its deadline passed)."""
        if self.waiting < 1:
            raise RuntimeError("abandoned more often than queued")
        self.waiting -= 1


def retry_after(waiting: int, limit: int, seconds: float, most: float = 30.0) -> int:
    """Whole seconds for the ``Retry-After`` of a refusal: how long the present queue takes, 1 to ``most``.

    ``seconds`` is how long one request takes, ``limit`` how many run at once.
    """
    return int(min(max(1.0, -(-(waiting + 1) * seconds // limit)), most))
