"""Timing of a function inside this process, where a whole request would hide what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

_MINIMUM = 0.1  # CPU seconds of one measurement


def nanoseconds_each(work: Callable[[], int]) -> float:
    """CPU nanoseconds of one call, where ``work`` makes many and returns how many; repeated for 0.1 s at least."""
    calls = 0
    began = time.process_time_ns()
    while (spent := time.process_time_ns() - began) < _MINIMUM * 1e9:
        calls += work()
    return spent / calls


def in_turn(works: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Warm each up, then time all in turn, ``rounds`` times; CPU nanoseconds a call, by name."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(nanoseconds_each(work))
    return found
