"""The adaptive limit in front of a queue: requests arrive at random, and take random times."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.limit import WORK, simulate
from passerelle.resilience.adaptive_limit import AdaptiveLimit


@pytest.mark.parametrize("workers", [4, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("work", WORK)
def test_under_three_times_the_load_the_service_is_busy_and_its_queue_short(work: str, workers: int) -> None:
    """All but 8 % of the capacity is used, from the start. Without a limit the queue would grow all the time."""
    seen = simulate(work, 3.0, AdaptiveLimit(), workers=workers, until=40.0)
    assert seen.served >= 0.92
    assert seen.most <= 3 * workers + 10
    assert seen.refused == pytest.approx(2 / 3, abs=0.05)
    unlimited = simulate(work, 3.0, None, workers=workers, until=40.0)
    assert unlimited.p50 > 10.0


@pytest.mark.parametrize("workers", [4, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("work", WORK)
def test_with_free_capacity_hardly_any_request_is_refused(work: str, workers: int) -> None:
    """At half the load, work of long duration is not mistaken for a queue."""
    seen = simulate(work, 0.5, AdaptiveLimit(), workers=workers, until=40.0)
    assert seen.refused <= 0.02
    assert seen.least >= workers / 4


class Heard(NamedTuple):
    seconds: float
    in_flight: int
    ok: bool | None
    after: float


heard = st.builds(
    Heard,
    st.floats(0.0, 100.0),
    st.integers(1, 2000),
    st.sampled_from([True, True, True, False, None]),
    st.floats(0.0, 2.0),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(heard, min_size=50, max_size=400), st.integers(1, 20), st.integers(20, 400), st.integers(1, 30))
def test_any_samples_keep_the_limit_within_its_bounds(events: list[Heard], least: int, most: int, every: int) -> None:
    limit = AdaptiveLimit(20, least=least, most=most, every=every)
    now = 0.0
    for event in events:
        now += event.after
        limit.observe(event.seconds, event.in_flight, event.ok, now)
        assert least <= limit.limit <= most
        assert limit.base >= 0.0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_latency_does_not_change_a_limit_that_is_not_used(seed: int) -> None:
    """Half of the limit is free, so the number of requests cannot be the reason why they are slow."""
    limit = AdaptiveLimit(20)
    chance = random.Random(seed)
    for number in range(500):
        limit.observe(chance.lognormvariate(-3, 2), 9, True, number * 0.05)
        assert limit.limit in (20, 5)  # quartered during one measurement, and restored afterwards
    assert limit.limit == 20
