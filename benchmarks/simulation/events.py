"""Simulated time: a heap of things to do.

Not SimPy: a process and two events for each request cost 9.3 µs there and 1.1 µs here (on the reference machine), and
that is the difference between 5,000 instances in a minute and in ten. All that is needed is "call this at that time".
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class Loop:
    """``now`` is in seconds and starts at 0; things due at the same time happen in the order they were asked for."""

    __slots__ = ("_count", "_heap", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = count().__next__

    def at(self, time: float, call: Callable[..., None], *arguments: object) -> None:
        """Have ``call(*arguments)`` done at ``time``, or now if that is past."""
        heappush(self._heap, (max(time, self.now), self._count(), call, arguments))

    def run(self, until: float = float("inf")) -> None:
        """Do everything up to ``until``, or until nothing is left."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call, arguments = heappop(heap)
            call(*arguments)

    def clock(self) -> float:
        """``now``, for those that want a callable."""
        return self.now
