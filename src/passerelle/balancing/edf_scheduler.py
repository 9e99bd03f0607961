"""Turns in proportion to weights: earliest deadline first, for instances and for groups of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class EdfScheduler(Generic[Item]):
    """Gives each item its turn, 1/weight of virtual time apart: O(log n) a turn, whatever the weights.

    Over any stretch of turns an item gets its share to within one or two turns. First turns are put at a random point
    of each item's interval, so that several workers do not begin alike and equal items do not begin in a burst.
    """

    __slots__ = ("_count", "_heap", "_now", "_random")

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._count = count().__next__  # ties go by age, and items are never compared
        self._heap: list[tuple[float, int, Item, float]] = []  # (deadline, age, item, interval)
        self._now = 0.0  # the deadline last served

    def next(self, exclude: tuple[object, ...] = ()) -> Item | None:
        """The item whose turn it is, ``exclude`` passed over without losing theirs; None if there is no other."""
        heap = self._heap
        if not exclude:
            if not heap:
                return None
            deadline, _, item, interval = heap[0]
            heapreplace(heap, (deadline + interval, self._count(), item, interval))
            self._now = deadline
            return item
        passed: list[tuple[float, int, Item, float]] = []
        chosen = None
        while heap:
            entry = heappop(heap)
            deadline, _, item, interval = entry
            if item not in exclude:
                heappush(heap, (deadline + interval, self._count(), item, interval))
                # those passed over have earlier deadlines: time goes on with them
                self._now = passed[0][0] if passed else deadline
                chosen = item
                break
            passed.append(entry)
        for entry in passed:
            heappush(heap, entry)
        return chosen

    def replace(self, items: Iterable[tuple[Item, float]]) -> None:
        """Take these items and weights (> 0). Those that stay keep their place; new ones join at a random point."""
        waiting = {item: (deadline, age, interval) for deadline, age, item, interval in self._heap}
        heap = []
        for item, weight in items:
            interval = 1.0 / weight
            if item in waiting:
                deadline, age, old = waiting[item]
                # what is left of the interval shrinks or grows with it
                heap.append((self._now + (deadline - self._now) * interval / old, age, item, interval))
            else:
                heap.append((self._now + self._random() * interval, self._count(), item, interval))
        heapify(heap)
        self._heap = heap
