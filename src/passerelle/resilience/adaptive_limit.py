"""A limit of requests in flight that adapts to the queue behind it, as measured by latency."""

from __future__ import annotations

import enum
from math import inf, sqrt

# A window ends after at least this time (seconds) and this number of samples.
SHORT_WINDOW, SHORT_WINDOW_SAMPLES = 0.1, 25
LONG_WINDOW, LONG_WINDOW_SAMPLES = 1.0, 10
# A new base takes this number of samples, or those of LONG_WINDOW seconds.
BASE_SAMPLES = 60
# The weight of the median of a window in the average.
SMOOTHING = 0.3


class _LimitPhase(enum.Enum):
    FOLLOW = enum.auto()  # the limit follows the gradient
    SETTLE = enum.auto()  # the limit is quartered, and the queue drains
    MEASURE = enum.auto()  # the limit is still quartered; samples are latencies without a queue


class AdaptiveLimit:
    """An adaptive limit, which may be read at any time as ``limit``; one for each instance (or service) and worker.

    Samples are collected in windows of at least 0.1 s and 25 requests, or of one second and 10 requests. Each window
    counts with its median, which a few naturally slow requests do not move. The average of the medians follows a change
    within a few windows. ``base`` is the latency without a queue: the lowest such average.

    After each window the limit moves a fifth of the way to ``limit * gradient + sqrt(limit)``, with ``gradient =
    tolerance * base / average``, kept between 0.5 and 1. The limit grows while latency is flat, shrinks when latency
    shows a queue, and settles where the two balance. While less than half of the limit is used, the limit stays
    unchanged, because it cannot be the reason for slow requests. A failure that means overload (refused, timed out)
    cuts the limit by a tenth at once, at most once a window.

    The first base may have been measured with a queue, and a service may become slower for good. So after 10 windows
    and then every ``every`` windows (300, which takes at least half a minute), the limit is quartered for about two
    windows, and the latency measured then is the new base. In equilibrium half of the requests in flight are queued, so
    half of the throughput is lost in these two windows of 300. (If the limit were only halved, a small limit would keep
    a base that includes a queue.)

    The gradient is that of Netflix's concurrency-limits. The new base is measured as in Envoy's adaptive concurrency
    filter, which goes down to three requests for it.
    """

    __slots__ = (
        "_average",
        "_base",
        "_cut",
        "_floor",
        "_limit",
        "_max_limit",
        "_measure_every",
        "_peak",
        "_phase",
        "_samples",
        "_saved",
        "_since",
        "_tolerance",
        "_windows",
    )

    def __init__(
        self, initial: int = 20, *, least: int = 2, most: int = 1000, tolerance: float = 1.5, every: int = 300
    ) -> None:
        """Raises ValueError unless 1 <= least <= initial <= most, tolerance >= 1 and every >= 1."""
        if not 1 <= least <= initial <= most or tolerance < 1 or every < 1:
            raise ValueError("an adaptive limit needs 1 <= least <= initial <= most, tolerance >= 1 and every >= 1")
        self._limit = float(initial)
        self._floor = least
        self._max_limit = most
        self._tolerance = tolerance
        self._measure_every = every
        self._base = inf
        self._phase = _LimitPhase.FOLLOW
        self._windows = max(0, every - 10)  # since the last measurement of the base
        self._saved = 0.0  # the limit before a measurement
        self._since = -inf  # the start of this window
        self._average = inf  # of medians
        self._samples: list[float] = []
        self._peak = 0  # the most requests in flight in this window
        self._cut = False  # whether a failure has cut the limit in this window

    @property
    def limit(self) -> int:
        """The most requests that may be in flight."""
        return int(self._limit)

    @property
    def base(self) -> float:
        """The latency without a queue, in seconds; infinite until the first window has ended."""
        return self._base

    def observe(self, seconds: float, in_flight: int, ok: bool | None, now: float) -> None:
        """Record a request that ended after ``seconds``, with ``in_flight`` requests in flight, itself included.

        ``ok`` is False if the request failed from overload, None if its outcome does not depend on the load.
        """
        if ok is None:
            return
        self._peak = max(self._peak, in_flight)
        if not ok:
            if not self._cut:
                self._cut = True
                self._limit = max(self._floor, self._limit * 0.9)
            return
        samples = self._samples
        samples.append(seconds)
        if len(samples) < LONG_WINDOW_SAMPLES:
            return
        lasted = now - self._since
        enough = SHORT_WINDOW_SAMPLES if self._phase is not _LimitPhase.MEASURE else BASE_SAMPLES
        if lasted >= LONG_WINDOW or (lasted >= SHORT_WINDOW and len(samples) >= enough):
            samples.sort()
            median = samples[len(samples) // 2]
            self._end_of_window(median)
            # requests sent under the old limit must have ended before the next window measures the new limit
            self._since = now if self._phase is _LimitPhase.FOLLOW else now + median
            samples.clear()
            self._peak = 0
            self._cut = False

    def _end_of_window(self, median: float) -> None:
        if self._phase is _LimitPhase.SETTLE:
            self._phase = _LimitPhase.MEASURE
            return
        if self._phase is _LimitPhase.MEASURE:
            self._phase = _LimitPhase.FOLLOW
            self._base = self._average = median
            self._limit = self._saved
            self._windows = 0
            return
        if self._average == inf:
            self._average = median  # the median of the requests that ended first, so it is no base
            return
        self._average = average = self._average + SMOOTHING * (median - self._average)
        self._base = min(self._base, average)
        self._windows += 1
        if self._windows >= self._measure_every:
            self._phase = _LimitPhase.SETTLE
            self._saved = self._limit
            self._limit = max(float(self._floor), self._limit / 4)
            return
        if self._peak < self._limit / 2:
            return
        gradient = min(1.0, max(0.5, self._tolerance * self._base / average)) if average > 0 else 1.0
        wanted = self._limit * gradient + sqrt(self._limit)
        self._limit = min(float(self._max_limit), max(float(self._floor), self._limit + 0.2 * (wanted - self._limit)))
