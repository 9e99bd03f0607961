"""Timing of a function inside this process, for costs that a whole request would hide."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

_MINIMUM = 0.1  # CPU seconds of one measurement


def nanoseconds_each(work: Callable[[], int]) -> float:
    """Return CPU nanoseconds per call; ``work`` makes many calls and returns how many. Repeats for at least 0.1 s."""
    calls = 0
    began = time.process_time_ns()
    while (spent := time.process_time_ns() - began) < _MINIMUM * 1e9:
        calls += work()
    return spent / calls


def in_turn(works: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Warm each function up, then time all in turn, ``rounds`` times; return CPU nanoseconds per call, by name."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(nanoseconds_each(work))
    return found
