"""When a request that has no answer yet is sent to a second instance as well.

Sent too early it doubles the load, too late it helps nobody. A time that only a few in a hundred exceed cuts exactly
that tail, and costs these few more requests (Dean and Barroso, "The Tail at Scale", 2013). Whether a request may be
sent twice at all, and who pays for it, is for whoever sends it.
"""

from __future__ import annotations

from collections import deque

# Of so many latencies the percentile is taken, the last ones; with fewer than ENOUGH there is none.
KEPT = 500
ENOUGH = 100
# So many come between two looks at them: a sort costs 30 us.
EVERY = 50


class HedgeDelay:
    """A fixed number of seconds, or a percentile of what was observed lately. For one route and worker."""

    __slots__ = ("_after", "_latencies", "_percentile", "_unseen")

    def __init__(self, seconds: float | None = None, percentile: float | None = None) -> None:
        """Raises ValueError unless exactly one is given, positive, and the percentile below 100."""
        if (seconds is None) == (percentile is None):
            raise ValueError("a hedge comes after a time or a percentile")
        if not (seconds or percentile or 0.0) > 0 or not (percentile or 0.0) < 100:
            raise ValueError("a hedge comes after more than 0 seconds or percent, and less than 100 percent")
        self._after = seconds
        self._percentile = percentile
        self._latencies: deque[float] = deque(maxlen=KEPT)
        self._unseen = EVERY - ENOUGH

    @property
    def delay(self) -> float | None:
        """How long to wait (seconds); None while too little is known."""
        return self._after

    def observe(self, seconds: float) -> None:
        """A first attempt had its answer after ``seconds``, or was given up then because a hedge was faster.

        Those given up must be told too: without them the percentile would be one of the fast ones alone, and fall.
        """
        if self._percentile is None:
            return
        latencies = self._latencies
        latencies.append(seconds)
        self._unseen += 1
        if self._unseen >= EVERY:
            self._unseen = 0
            ordered = sorted(latencies)
            self._after = ordered[min(len(ordered) - 1, int(len(ordered) * self._percentile / 100))]
