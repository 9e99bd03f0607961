"""When to probe which instance: times only, the probing is the driver's."""

from __future__ import annotations

import random as _random
from collections.abc import Iterable
from heapq import heappop, heappush

from passerelle.balancing.policies import Random


class ProbePlan:
    """Each instance every ``interval`` seconds (3), give or take a tenth so that probes do not come in step.

    One that has never passed is probed every ``eager`` seconds (0.25), because it takes no requests until it passes.
    A new probe of an instance is due only after :meth:`done` of the one before, so a slow probe never overlaps itself.
    """

    __slots__ = ("_heap", "_keys", "_random", "eager", "interval")

    def __init__(self, interval: float = 3.0, eager: float = 0.25, *, random: Random = _random.random) -> None:
        self.interval = interval
        self.eager = eager
        self._random = random
        self._keys: set[str] = set()
        self._heap: list[tuple[float, str]] = []  # one entry for each key whose probe is not running

    def replace(self, keys: Iterable[str], now: float) -> None:
        """Take these instances; new ones are due at once."""
        keys = set(keys)
        self._heap = [(at, key) for at, key in self._heap if key in keys]
        self._heap += [(now, key) for key in sorted(keys - self._keys)]
        self._heap.sort()
        self._keys = keys

    def due(self, now: float) -> list[str]:
        """The instances to probe now."""
        keys = []
        while self._heap and self._heap[0][0] <= now:
            keys.append(heappop(self._heap)[1])
        return keys

    def done(self, key: str, now: float, *, joining: bool) -> None:
        """The probe of ``key`` that :meth:`due` asked for ended; ``joining``: it has never passed one."""
        if key in self._keys and all(key != waiting for _, waiting in self._heap):
            length = self.eager if joining else self.interval
            heappush(self._heap, (now + length * (0.9 + 0.2 * self._random()), key))

    @property
    def next_due(self) -> float | None:
        """When :meth:`due` next has something, or None while nothing waits."""
        return self._heap[0][0] if self._heap else None
