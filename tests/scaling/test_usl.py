"""The Universal Scalability Law: known laws are found again, and undetermined ones are refused."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.scaling.usl import Capacity, CpuUse, Interval, Law, Point, Undetermined, capacity, cpu_limit, fit

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


# ---- the limit by the CPUs


def closed_system(think: float, work: float, servers: int, levels: tuple[int, ...]) -> list[Point]:
    """Return the exact throughput of clients that wait ``think`` seconds and then need one of ``servers`` for ``work``
    seconds, both exponential (mean value analysis with the probabilities of the queue's length).
    """
    found, lengths = [], [1.0]
    for n in range(1, max(levels) + 1):
        response = sum(j * work / min(j, servers) * lengths[j - 1] for j in range(1, n + 1))
        rate = n / (think + response)
        tail = [work / min(j, servers) * rate * lengths[j - 1] for j in range(1, n + 1)]
        lengths = [max(0.0, 1 - sum(tail)), *tail]
        if n in levels:
            found.append(Point(n, rate))
    return found


BUSY_LEVELS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)


def cpu_bound(noise: float, seed: int, levels: tuple[int, ...] = BUSY_LEVELS) -> tuple[list[Point], list[CpuUse]]:
    """Two CPUs, 1.7 ms of them for each request, which waits 20 ms elsewhere; CPUs are measured in ticks of 10 ms."""
    rng = random.Random(seed)
    exact = closed_system(0.02, 0.0017, 2, levels)
    measured = [Point(n, rate * (1 + rng.uniform(-noise, noise))) for n, rate in exact]
    return measured, [CpuUse(p.throughput, round(0.02 + 0.0017 * p.throughput, 2)) for p in measured]


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_peak_that_the_points_do_not_show_is_bounded_by_the_cpus(noise: float) -> None:
    for seed in range(2):
        measured, uses = cpu_bound(noise, seed)
        limit = cpu_limit(uses, 2)
        assert limit is not None and limit.value == pytest.approx(1.98 / 0.0017, rel=0.02)
        found = capacity(measured, limit=limit)
        assert found.by_cpus
        assert found.peak.value == pytest.approx(2 / 0.0017, rel=0.05)
        assert found.peak.low <= max(measured, key=lambda point: point.throughput).throughput
        assert found.law.peak == pytest.approx(found.peak.value)


def test_the_cpus_are_no_prediction_where_most_of_them_are_idle() -> None:
    measured, uses = cpu_bound(0.0, 0, (1, 2, 4, 6, 8, 12))
    limit = cpu_limit(uses, 2)
    assert limit is not None
    with pytest.raises(
        Undetermined, match=r"no limit below that of the CPUs, 11\d\d requests/s, and reach 545\.1 requests/s"
    ):
        capacity(measured, limit=limit)


def test_a_limit_below_that_of_the_cpus_is_the_peak() -> None:
    measured = closed_system(0.02, 0.0042, 1, (1, 2, 3, 4, 5, 6, 8, 10))
    limit = Interval(2000.0, 1900.0, 2100.0)
    assert capacity(measured, limit=limit) == capacity(measured)
    assert capacity(measured).peak.value == pytest.approx(1 / 0.0042, rel=0.05)


@given(laws, st.floats(0.1, 0.99), st.floats(0, 0.05))
def test_the_fit_stays_within_the_limit(law: Law, part: float, noise: float) -> None:
    limit = min(law.peak, 1e6) * part
    found = fit(points(law, noise=noise), limit)
    assert found.rate > 0 and found.contention >= 0 and found.coherency >= 0
    assert found.peak <= limit * (1 + 1e-6)


@pytest.mark.parametrize(
    "uses",
    [
        [CpuUse(100.0, 1.0)] * 3,
        [CpuUse(100.0 * n, 0.01 * n) for n in range(1, 10)],  # the CPUs are idle
        [CpuUse(100.0 * n, 1.5) for n in range(1, 10)],  # others use them
        [CpuUse(100.0, 1.0)] * 9,
    ],
)
def test_measurements_that_show_no_limit_by_the_cpus(uses: list[CpuUse]) -> None:
    assert cpu_limit(uses, 2) is None
