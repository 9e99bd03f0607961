"""How long to wait before what died is started again: exponential, full jitter, a ceiling. Pure.

Full jitter (a delay drawn evenly from nought to the cap) spreads instances that died of the same cause, so that they
do not come back, and fall over, together.
"""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """The delays of one instance. ``rng`` gives a float in [0, 1); all times are seconds.

    The cap doubles with every failure, from ``base`` up to ``ceiling``; a run that was healthy for ``settled`` or
    longer proves the cause gone, and the next failure counts as the first again.
    """

    __slots__ = ("_rng", "base", "ceiling", "failures", "settled")

    def __init__(
        self, rng: Callable[[], float], *, base: float = 0.5, ceiling: float = 30.0, settled: float = 10.0
    ) -> None:
        if not 0 < base <= ceiling:
            raise ValueError("base must be above nought and at most the ceiling")
        self._rng = rng
        self.base = base
        self.ceiling = ceiling
        self.settled = settled
        self.failures = 0

    def cap(self) -> float:
        """The longest delay that the present number of failures allows."""
        # The exponent is bounded because 2.0 ** 1024 overflows, and a child may die that often.
        return min(self.ceiling, self.base * 2.0 ** min(max(self.failures - 1, 0), 64))

    def after(self, healthy_for: float) -> float:
        """Count one end of a run that was healthy for ``healthy_for`` seconds, and give the delay before the next."""
        if healthy_for >= self.settled:
            self.failures = 0
        self.failures += 1
        return self._rng() * self.cap()
