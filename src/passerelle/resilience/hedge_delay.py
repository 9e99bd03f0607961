"""The delay after which a request without a response is sent to a second instance as well.

A hedge that is sent too early doubles the load; sent too late, it is of no use. A delay that only a few percent of the
requests exceed cuts off exactly this tail of the latency, at the cost of these few additional requests (Dean and
Barroso, "The Tail at Scale", 2013). The caller decides whether a request may be sent twice, and which budget pays.
"""

from __future__ import annotations

from collections import deque

# The percentile is that of the last MAX_SAMPLES latencies; it is unknown with fewer than MIN_SAMPLES.
MAX_SAMPLES = 500
MIN_SAMPLES = 100
# The percentile is updated every UPDATE_INTERVAL latencies: a sort costs 30 us.
UPDATE_INTERVAL = 50


class HedgeDelay:
    """A fixed delay, or a percentile of recent latencies. For one route, service and worker."""

    __slots__ = ("_after", "_latencies", "_percentile", "_since_update")

    def __init__(self, seconds: float | None = None, percentile: float | None = None) -> None:
        """Raises ValueError unless exactly one is given, positive, and the percentile below 100."""
        if (seconds is None) == (percentile is None):
            raise ValueError("a hedge delay is a time or a percentile")
        if not (seconds or percentile or 0.0) > 0 or not (percentile or 0.0) < 100:
            raise ValueError("a hedge delay is over 0 seconds, or over 0 and under 100 percent")
        self._after = seconds
        self._percentile = percentile
        self._latencies: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._since_update = UPDATE_INTERVAL - MIN_SAMPLES

    @property
    def delay(self) -> float | None:
        """The delay in seconds; None as long as there are too few latencies for the percentile."""
        return self._after

    def observe(self, seconds: float) -> None:
        """Record a first attempt that got its response after ``seconds``, or was abandoned then for a faster hedge.

        Abandoned attempts must be recorded too. Without them the percentile would be that of fast attempts alone, and
        fall.
        """
        if self._percentile is None:
            return
        latencies = self._latencies
        latencies.append(seconds)
        self._since_update += 1
        if self._since_update >= UPDATE_INTERVAL:
            self._since_update = 0
            ordered = sorted(latencies)
            self._after = ordered[min(len(ordered) - 1, int(len(ordered) * self._percentile / 100))]
