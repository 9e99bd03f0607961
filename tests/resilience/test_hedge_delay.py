"""The delay of a hedge: a fixed time, or a percentile of observed latencies."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.resilience.hedge_delay import MAX_SAMPLES, MIN_SAMPLES, UPDATE_INTERVAL, HedgeDelay
from passerelle.resilience.retry_budget import RetryBudget


def test_a_fixed_time_is_fixed() -> None:
    delay = HedgeDelay(0.1)
    for _ in range(1000):
        delay.observe(5.0)
    assert delay.delay == 0.1


@pytest.mark.parametrize("wrong", [{}, {"seconds": 1.0, "percentile": 95}, {"seconds": 0.0}, {"percentile": 100.0}])
def test_wrong_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a hedge"):
        HedgeDelay(**wrong)


def test_there_is_no_percentile_of_too_few_latencies() -> None:
    delay = HedgeDelay(percentile=95)
    for _ in range(MIN_SAMPLES - 1):
        delay.observe(0.1)
        assert delay.delay is None
    delay.observe(0.1)
    assert delay.delay == 0.1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(MIN_SAMPLES, 2000), st.floats(50, 99.9))
def test_the_delay_is_the_percentile_of_the_last_latencies(seed: int, number: int, percentile: float) -> None:
    chance = random.Random(seed)
    latencies = [chance.lognormvariate(-3, 1) for _ in range(number)]
    delay = HedgeDelay(percentile=percentile)
    for seconds in latencies:
        delay.observe(seconds)
    looked = number - (number - MIN_SAMPLES) % UPDATE_INTERVAL
    known = latencies[:looked][-MAX_SAMPLES:]
    after = delay.delay
    assert after in known
    below = sum(seconds < after for seconds in known) / len(known)
    assert percentile / 100 - 1 / len(known) <= below <= percentile / 100


def test_hedges_do_not_move_the_percentile() -> None:
    """An attempt that a hedge cuts off counts with its time until then: the hedged part stays 5 %."""
    chance = random.Random(3)
    delay = HedgeDelay(percentile=95)
    hedged = 0
    for number in range(50_000):
        first, second = chance.expovariate(10.0), chance.expovariate(10.0)
        after = delay.delay
        if after is not None and first > after:
            hedged += number >= 10_000
            first = min(first, after + second)
        delay.observe(first)
    assert hedged / 40_000 == pytest.approx(0.05, abs=0.01)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.booleans(), max_size=300), st.floats(0, 1), st.integers(0, 10))
def test_hedges_leave_half_of_the_budget_to_retries(kinds: list[bool], ratio: float, floor: int) -> None:
    budget = RetryBudget(ratio, floor)
    hedges = retries = 0
    for requests, hedge in enumerate(kinds, 1):
        budget.record_requests(0.0)
        most = max(ratio * requests, floor * 5)
        if hedge:
            hedges += budget.withdraw(0.0, 0.5)
            assert hedges <= most / 2
        else:
            retries += budget.withdraw(0.0)
        assert hedges + retries <= most + 1e-9
