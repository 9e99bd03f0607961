"""Turns in proportion to weights, by earliest deadline first, for instances and for groups of instances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class EdfScheduler(Generic[Item]):
    """Schedules the turns of an item 1/weight of virtual time apart. A turn takes O(log n), whatever the weights.

    Over any sequence of turns, an item gets its share to within one or two turns. The first turn of an item is at a
    random point of its interval, so that workers do not start with the same items, nor equal items with a burst.
    """

    __slots__ = ("_count", "_heap", "_now", "_random")

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._count = count().__next__  # breaks ties by age, so that items are never compared
        self._heap: list[tuple[float, int, Item, float]] = []  # (deadline, age, item, interval)
        self._now = 0.0  # the deadline of the last turn

    def next(self, exclude: tuple[object, ...] = ()) -> Item | None:
        """Return the item whose turn it is, or None. Items in ``exclude`` are skipped, and keep their turns."""
        heap = self._heap
        if not exclude:
            if not heap:
                return None
            deadline, _, item, interval = heap[0]
            heapreplace(heap, (deadline + interval, self._count(), item, interval))
            self._now = deadline
            return item
        skipped: list[tuple[float, int, Item, float]] = []
        chosen = None
        while heap:
            entry = heappop(heap)
            deadline, _, item, interval = entry
            if item not in exclude:
                heappush(heap, (deadline + interval, self._count(), item, interval))
                # skipped items have earlier deadlines: time continues with them
                self._now = skipped[0][0] if skipped else deadline
                chosen = item
                break
            skipped.append(entry)
        for entry in skipped:
            heappush(heap, entry)
        return chosen

    def replace(self, items: Iterable[tuple[Item, float]]) -> None:
        """Replace the items and their weights (> 0). Items that stay keep their place, new ones get a random one."""
        waiting = {item: (deadline, age, interval) for deadline, age, item, interval in self._heap}
        heap = []
        for item, weight in items:
            interval = 1.0 / weight
            if item in waiting:
                deadline, age, old = waiting[item]
                # the rest of the interval changes in proportion
                heap.append((self._now + (deadline - self._now) * interval / old, age, item, interval))
            else:
                heap.append((self._now + self._random() * interval, self._count(), item, interval))
        heapify(heap)
        self._heap = heap
