"""Two counters over the last seconds, for circuit breakers and retry budgets."""

from __future__ import annotations


class SlidingWindow:
    """Two counters over a sliding window of ``seconds``, kept in ``parts`` buckets.

    A count leaves the window between ``seconds`` and ``seconds * (1 + 1/parts)`` later. A call takes amortized O(1).
    ``now`` is in seconds of any monotonic clock. If the clock goes back, the newest bucket takes the count.
    """

    __slots__ = ("_at", "_first", "_parts", "_second", "_width", "first", "second")

    def __init__(self, seconds: float, parts: int = 10) -> None:
        if seconds <= 0 or parts < 1:
            raise ValueError("a window has a positive length and at least one part")
        self._width = seconds / parts
        self._parts = parts + 1  # one more for the bucket being filled
        self._first = [0] * self._parts
        self._second = [0] * self._parts
        self._at: int | None = None  # the number of the bucket being filled, from time 0
        self.first = 0  # sums over the window, as of the last call
        self.second = 0

    def add(self, now: float, first: int = 0, second: int = 0) -> None:
        """Add to the two counters at ``now``."""
        self.advance(now)
        bucket = self._at % self._parts if self._at is not None else 0
        self._first[bucket] += first
        self._second[bucket] += second
        self.first += first
        self.second += second

    def advance(self, now: float) -> None:
        """Discard counts that are too old at ``now``."""
        at = int(now / self._width)
        if at == self._at:
            return
        if self._at is None:
            self._at = at
            return
        for number in range(self._at + 1, min(at, self._at + self._parts) + 1):
            bucket = number % self._parts
            self.first -= self._first[bucket]
            self.second -= self._second[bucket]
            self._first[bucket] = self._second[bucket] = 0
        self._at = max(at, self._at)

    def clear(self) -> None:
        """Reset both counters."""
        self._first = [0] * self._parts
        self._second = [0] * self._parts
        self.first = self.second = 0
