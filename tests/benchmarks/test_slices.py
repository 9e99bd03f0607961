"""Differences of neighbouring slices: their median and interval, and the clock that they are measured by."""

from __future__ import annotations

import os
import random
import time

import pytest

from benchmarks.rig import procfs
from benchmarks.rig.slices import FEWEST, Slice, summarized


def pairs(difference: float, count: int = 40, seed: int = 1) -> list[tuple[Slice, Slice]]:
    """Return pairs on a machine that gets slower, with noise larger than ``difference``."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        base = 60.0 + 0.5 * number
        noise = [rng.gauss(0, 1.0) for _ in range(2)]
        found.append((Slice(base + noise[0], 0, False), Slice(base + difference + noise[1], 0, False)))
    return found


@pytest.mark.parametrize("difference", [0.0, 1.4, -2.0])
def test_the_difference_is_within_its_interval_although_the_machine_drifts(difference: float) -> None:
    contained = 0
    for seed in range(40):
        found = summarized(pairs(difference, seed=seed))
        assert found.low <= found.difference <= found.high < found.low + 2.5
        contained += found.low <= difference <= found.high
    assert contained >= 34


def test_disturbed_pairs_do_not_count_unless_most_are() -> None:
    quiet = pairs(1.0, FEWEST)
    disturbed = [(Slice(60.0, 0, False), Slice(500.0, 3, True))] * 20
    found = summarized([*quiet, *disturbed])
    assert (found.pairs, found.noisy, found.errors) == (FEWEST, False, 60) and found.difference < 5
    assert summarized([*quiet[1:], *disturbed]).noisy


def test_the_clock_of_a_process_advances_with_its_work_alone() -> None:
    before, since = procfs.run_nanoseconds(os.getpid()), time.thread_time_ns()
    while time.thread_time_ns() - since < 50_000_000:
        pass
    used = procfs.run_nanoseconds(os.getpid()) - before
    assert 45_000_000 <= used < 500_000_000
