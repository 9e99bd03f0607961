"""A histogram of times in buckets that grow by a constant factor, and quantiles of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import log
from typing import Final

_FIRST: Final = 0.000_1  # seconds: the upper bound of the first bucket
_GROWTH: Final = 1.1
_LOG_GROWTH: Final = log(_GROWTH)
_BUCKETS: Final = 150  # the last one begins at 134 s


class LatencyHistogram:
    """Counts times in seconds; quantiles are at most 10 % too high. Its size is constant."""

    __slots__ = ("counts",)

    def __init__(self, counts: Sequence[int] = ()) -> None:
        self.counts = list(counts) or [0] * _BUCKETS
        if len(self.counts) != _BUCKETS:
            raise ValueError(f"found {len(self.counts)} buckets; a histogram has {_BUCKETS}")

    def add(self, seconds: float) -> None:
        """Count a time."""
        bucket = 0 if seconds <= _FIRST else min(_BUCKETS - 1, int(log(seconds / _FIRST) / _LOG_GROWTH) + 1)
        self.counts[bucket] += 1

    @property
    def total(self) -> int:
        """The number of times."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return the time that ``share`` of all times do not exceed, in seconds; None without any."""
        total = self.total
        if not total:
            return None
        bucket = next(index for index, seen in enumerate(accumulate(self.counts)) if seen and seen >= share * total)
        return _FIRST * _GROWTH**bucket

    def merge(self, other: LatencyHistogram) -> None:
        """Add the times of ``other``."""
        self.counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]
