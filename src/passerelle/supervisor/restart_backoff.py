"""Delays before the restart of a process: exponential back-off with full jitter. Pure.

Full jitter (a delay that is drawn uniformly between zero and the cap) spreads the restarts of instances that have died
of the same cause, so that they do not overload the same resource again at the same time.
"""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """The delays of one process. ``rng`` returns a float in [0, 1); all times are in seconds.

    The cap doubles with every failure, from ``base`` up to ``ceiling``. After a run that was healthy for at least
    ``settled`` seconds, the next failure counts as the first again.
    """

    __slots__ = ("_rng", "base", "ceiling", "failures", "settled")

    def __init__(
        self, rng: Callable[[], float], *, base: float = 0.5, ceiling: float = 30.0, settled: float = 10.0
    ) -> None:
        if not 0 < base <= ceiling:
            raise ValueError("base must be above zero and at most the ceiling")
        self._rng = rng
        self.base = base
        self.ceiling = ceiling
        self.settled = settled
        self.failures = 0

    def cap(self) -> float:
        """The longest delay for the current number of failures."""
        # The exponent is bounded because 2.0 ** 1024 overflows, and a process may fail that often.
        return min(self.ceiling, self.base * 2.0 ** min(max(self.failures - 1, 0), 64))

    def delay_after(self, healthy_for: float) -> float:
        """Count the end of a run that was healthy for ``healthy_for`` seconds, and return the delay before the next."""
        if healthy_for >= self.settled:
            self.failures = 0
        self.failures += 1
        return self._rng() * self.cap()
