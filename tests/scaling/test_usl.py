"""The Universal Scalability Law: known laws are found again, and undetermined ones are refused."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.scaling.usl import Capacity, Interval, Law, Point, Undetermined, capacity, fit

LEVELS = (1, 2, 4, 8, 16, 32)


def points(law: Law, levels: tuple[int, ...] = LEVELS, noise: float = 0.0, seed: int = 0) -> list[Point]:
    rng = random.Random(seed)
    return [Point(n, law.throughput(n) * (1 + rng.uniform(-noise, noise))) for n in levels]


laws = st.builds(Law, st.floats(1, 1e5), st.floats(0, 0.9), st.one_of(st.just(0.0), st.floats(1e-5, 0.1)))


@given(laws)
def test_exact_points_give_their_law(law: Law) -> None:
    found = fit(points(law))
    assert found.rate == pytest.approx(law.rate, rel=1e-4)
    assert found.contention == pytest.approx(law.contention, abs=1e-4)
    assert found.coherency == pytest.approx(law.coherency, abs=1e-4)


@given(laws.filter(lambda law: law.coherency > 0), st.floats(0.5, 2))
def test_the_peak_is_the_highest_throughput(law: Law, factor: float) -> None:
    assert law.throughput(law.peak_concurrency * factor) <= law.peak * (1 + 1e-9)


@given(laws.filter(lambda law: law.contention + law.coherency > 1e-4), st.floats(0.5, 2))
def test_the_knee_has_the_most_throughput_for_its_time(law: Law, factor: float) -> None:
    def power(n: float) -> float:
        return law.throughput(n) ** 2 / n

    if law.knee > 1:
        assert power(max(1.0, law.knee * factor)) <= power(law.knee) * (1 + 1e-9)


@given(st.lists(st.builds(Point, st.floats(0.1, 1e3), st.floats(0.01, 1e6)), min_size=1, max_size=12))
def test_any_points_give_a_law_within_its_bounds(found: list[Point]) -> None:
    law = fit(found)
    assert law.rate > 0 and law.contention >= 0 and law.coherency >= 0


@pytest.mark.parametrize("law", [Law(100, 0.05, 0.001), Law(500, 0.3, 0.0005)])
def test_noisy_points_give_an_interval_with_the_true_peak(law: Law) -> None:
    contained = 0
    for seed in range(20):
        found = capacity(points(law, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), noise=0.04, seed=seed))
        assert found.peak.low <= found.peak.value <= found.peak.high
        contained += found.peak.low <= law.peak <= found.peak.high
    assert contained >= 15


def test_a_limit_without_a_peak_is_near_the_true_one() -> None:
    law = Law(80, 0.1, 0.0)
    for seed in range(20):
        found = capacity(points(law, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64), noise=0.04, seed=seed))
        assert found.peak.value == pytest.approx(law.peak, rel=0.2)


def test_a_peak_is_predicted_from_half_of_its_concurrency() -> None:
    law = Law(100, 0.05, 0.001)
    assert law.peak_concurrency == pytest.approx(30.8, abs=0.1)
    for seed in range(20):
        found = capacity(points(law, (1, 2, 3, 4, 6, 8, 10, 12, 15), noise=0.01, seed=seed))
        assert found.peak.value == pytest.approx(law.peak, rel=0.15)


def test_without_coherency_the_throughput_approaches_a_limit() -> None:
    law = Law(100, 0.2, 0)
    assert (law.peak_concurrency, law.peak, law.knee) == (inf, 500, 4)


def test_work_that_never_runs_in_parallel_has_its_peak_at_one() -> None:
    law = Law(100, 1.2, 0.1)
    assert (law.peak_concurrency, law.peak, law.knee) == (1, 100, 1)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([], "0 points are too few; the law needs 4 different concurrencies"),
        (points(Law(100, 0.1, 0.01), (1, 2, 4)), "3 points are too few"),
        ([Point(4, 10)] * 20, "20 points are too few"),
        (points(Law(100, 0.1, 0.01), (10, 12, 14, 16, 39)), "spans a factor of 3.9, from 10 to 39"),
        (points(Law(100, 0, 0)), "rises in proportion to the concurrency: no limit is in sight"),
        (points(Law(100, 0.01, 0), (1, 2, 3, 4), noise=0.1), "leave the peak open|no limit is in sight"),
    ],
)
def test_points_that_do_not_determine_the_law_are_refused(found: list[Point], problem: str) -> None:
    with pytest.raises(Undetermined, match=problem):
        capacity(found)


def test_the_same_points_give_the_same_interval() -> None:
    found = points(Law(100, 0.1, 0.01), noise=0.05)
    assert capacity(found) == capacity(found)


def test_instances_for_a_rate_are_whole_numbers_with_their_interval() -> None:
    found = Capacity(Law(100, 0.1, 0.01), Interval(300, 280, 330), Interval(200, 180, 240))
    assert found.instances_for(1000, 2) == Interval(10, 9, 12)
