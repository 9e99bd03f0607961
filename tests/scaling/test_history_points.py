"""Points from the history of a service: which seconds count, and that a law which is in them is found again."""

from __future__ import annotations

import random
from typing import Any

import pytest

from passerelle.scaling.history_points import FEWEST_SECONDS, history_points
from passerelle.scaling.usl import Law, Undetermined, capacity

LAW = Law(100, 0.05, 0.001)


def served(*seconds: tuple[float, float], up: int = 2, errors: float = 0.0) -> dict[str, Any]:
    """Return the history of seconds with this concurrency and throughput."""
    return {
        "occupied": [concurrency for concurrency, _ in seconds],
        "requests": [rate for _, rate in seconds],
        "errors": [errors * rate for _, rate in seconds],
        "up": [up for _ in seconds],
    }


def joined(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: [value for part in parts for value in part[key]] for key in parts[0]}


def day(low: float, high: float, noise: float = 0.05, seed: int = 1) -> dict[str, Any]:
    """Return ten minutes in which the concurrency goes from ``low`` to ``high`` and back."""
    rng = random.Random(seed)
    seconds = []
    for number in range(600):
        level = low * (high / low) ** (1 - abs(number / 300 - 1))
        seconds.append((level, LAW.throughput(level) * (1 + rng.uniform(-noise, noise))))
    return served(*seconds)


def test_the_law_of_a_service_is_found_in_ten_minutes_of_changing_load() -> None:
    points, seconds, instances = history_points(day(1, 20))
    assert (seconds, instances) == (600, 2)
    found = capacity(points)
    assert found.peak.value == pytest.approx(LAW.peak, rel=0.1)
    assert found.peak.low <= LAW.peak <= found.peak.high


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        (day(10, 38), "spans a factor of 3"),
        (day(10, 12), "points are too few"),
        (served(), "no second in which an instance was up"),
        (served((2.0, 50.0), up=0), "no second in which an instance was up"),
        (served(*[(2.0 ** n, 50.0) for n in range(8)]), "no concurrency lasted for 5 seconds"),
        (served(*[(2.0, 50.0)] * 60, errors=0.02), "no concurrency lasted for 5 seconds"),
        (served(*[(0.0, 0.0)] * 60), "no concurrency lasted for 5 seconds"),
        ({"up": [2, 2]}, "no concurrency lasted for 5 seconds"),
        ({}, "no second in which an instance was up"),
    ],
)  # fmt: skip
def test_a_history_that_determines_nothing_is_refused(history: dict[str, Any], problem: str) -> None:
    with pytest.raises(Undetermined, match=problem):
        capacity(history_points(history).points)


def test_only_seconds_with_the_number_of_instances_of_the_last_one_count() -> None:
    before = served(*[(4.0, 1000.0)] * 20, up=4)
    now = served(*[(4.0, 100.0)] * 20, up=2)
    assert history_points(joined(before, now)) == ([(4.0, 100.0)], 20, 2)
    assert history_points(joined(now, before)) == ([(4.0, 1000.0)], 20, 4)


def test_seconds_without_a_value_and_rare_concurrencies_are_left_out() -> None:
    gap = {"occupied": [None] * 9, "requests": [None] * 9, "errors": [None] * 9, "up": [None] * 9}
    rare = served(*[(50.0, 300.0)] * (FEWEST_SECONDS - 1))
    assert history_points(joined(gap, rare, served(*[(4.0, 100.0)] * 5))) == ([(4.0, 100.0)], 5, 2)


def test_errors_do_not_count_as_throughput() -> None:
    (point,) = history_points(served(*[(4.0, 100.0)] * 10, errors=0.01)).points
    assert point.throughput == pytest.approx(99)
