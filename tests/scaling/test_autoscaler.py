"""Scaling decisions about simulated services, second by second."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from math import ceil, sin
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.scaling.autoscaler import CHANGES, Autoscaler, Limits, LoadSample, Reason
from tests.scaling.world import World

LIMITS = Limits(1, 20, 3)


def world(**more: Any) -> World:
    return World(**{"limits": LIMITS, "instances": 2, "seed": 1, **more})


@pytest.mark.parametrize("seed", range(10))
def test_four_times_the_load_of_an_open_loop_is_met_within_twenty_seconds(seed: int) -> None:
    simulated = world(seed=seed, arrivals=lambda second: 100.0 if second <= 120 else 400.0)
    simulated.run(120)
    assert simulated.changes == []
    simulated.run(20)
    right = ceil(400 * 0.05 / 3)
    assert abs(simulated.instances - right) <= 1
    simulated.run(120)
    assert abs(simulated.instances - right) <= 1, "the backlog of the burst must not look like load"
    assert {decision.reason for _, _, decision in simulated.changes} <= {Reason.BURST, Reason.LOAD}


def test_four_times_the_clients_are_met_within_twenty_seconds() -> None:
    simulated = world(clients=lambda second: 6 if second <= 120 else 24)
    simulated.run(140)
    assert simulated.instances in (7, 8, 9)
    simulated.run(300)
    assert simulated.instances in (7, 8, 9)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("load", [1.5, 3.2, 6.5, 14.0, 50.0])
def test_ten_minutes_of_noisy_steady_load_change_nothing(seed: int, load: float) -> None:
    noise = random.Random(seed)

    def arrivals(second: int) -> float:
        return load / 0.05 * (1 + 0.1 * sin(second / 7) + noise.uniform(-0.3, 0.3))

    simulated = world(seed=seed, instances=ceil(load / 3 * 1.05), arrivals=arrivals, limits=Limits(1, 30, 3))
    simulated.run(600)
    assert simulated.changes == []


def test_a_load_that_falls_removes_at_most_half_of_the_instances_per_window() -> None:
    simulated = world(instances=16, clients=lambda second: 42 if second <= 100 else 4)
    simulated.run(500)
    counts = [wanted for _, wanted, _ in simulated.changes]
    assert counts == sorted(counts, reverse=True) and simulated.instances == 2
    before = 16
    for wanted in counts:
        assert wanted >= before / 2
        before = wanted
    seconds = [second for second, _, _ in simulated.changes]
    assert all(later - earlier >= 60 for earlier, later in pairwise(seconds))
    assert {decision.reason for _, _, decision in simulated.changes} == {Reason.IDLE}


def test_a_slow_database_ends_the_growth_with_its_reason() -> None:
    simulated = world(clients=lambda second: 6 if second <= 60 else 80, behind=150.0)
    simulated.run(200)
    assert simulated.instances <= 4, "one step, whose effect is seen before the next"
    last = simulated.decisions[-1]
    assert last.reason is Reason.NO_GAIN and last.wanted == simulated.instances
    assert "more instances have no effect: with 4 instances 150 requests/s" in last.text
    assert "with 2 it served 150/s" in last.text


def test_an_increase_without_effect_is_tried_again_after_a_while() -> None:
    simulated = world(clients=lambda second: 80, behind=150.0)
    simulated.run(250)
    assert simulated.instances == 4
    simulated.behind = 1e9  # the database is repaired
    simulated.run(200)
    assert simulated.instances == 20


def test_an_increase_without_effect_is_forgotten_once_the_load_is_gone() -> None:
    simulated = world(clients=lambda second: 80 if second < 60 or second > 200 else 4, behind=150.0)
    simulated.run(200)
    assert Reason.NO_GAIN in {decision.reason for decision in simulated.decisions}
    simulated.behind = 1e9
    simulated.run(60)
    assert simulated.instances > 10


def test_requests_that_all_hang_do_not_start_more_and_more_instances() -> None:
    simulated = world(clients=lambda second: 200, behind=0.0)
    simulated.run(200)
    assert simulated.instances == 4
    assert "no request succeeds" in simulated.decisions[-1].text


def test_a_full_cpu_ends_the_growth_with_its_reason() -> None:
    simulated = world(clients=lambda second: 80, machine_cpu=lambda instances: min(1.0, instances * 0.25))
    simulated.run(60)
    assert simulated.instances == 4
    assert simulated.decisions[-1].reason is Reason.CPU
    assert "the CPU of the machine is used up (100%, 90% by the instances)" in simulated.decisions[-1].text


def test_a_full_cpu_that_others_use_does_not_end_the_growth() -> None:
    scaler = Autoscaler()
    for second in range(1, 9):
        scaler.add(LoadSample(float(second), 32, 160, 2, 2, 1.0, 0.05))
    assert scaler.decide(LIMITS).reason is Reason.BURST


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_missing_data_hold_the_number(share: float) -> None:
    noise = random.Random(3)
    simulated = world(instances=8, clients=lambda second: 2, silent=lambda second: noise.random() < share)
    simulated.run(300)
    assert simulated.instances == 8
    assert Reason.MISSING in {decision.reason for decision in simulated.decisions}


def test_a_decrease_needs_a_complete_window() -> None:
    simulated = world(instances=8, clients=lambda second: 2, silent=lambda second: second % 60 in range(20, 30))
    simulated.run(300)
    assert simulated.instances == 8


def test_instances_that_do_not_come_up_end_the_growth() -> None:
    simulated = world(clients=lambda second: 80, comes_up=False)
    simulated.run(120)
    assert simulated.instances == 4
    assert simulated.decisions[-1].reason is Reason.NOT_UP
    assert "2 of 4 are not up" in simulated.decisions[-1].text


def test_the_maximum_is_reported() -> None:
    simulated = world(clients=lambda second: 200, limits=Limits(1, 3, 3))
    simulated.run(60)
    assert simulated.instances == 3
    assert simulated.decisions[-1].reason is Reason.MAXIMUM
    assert simulated.decisions[-1].text == "200 requests in flight at 3 instances, 3 each wanted; 3 is the maximum"


@pytest.mark.parametrize(("found", "wanted"), [(1, 2), (30, 20)])
def test_a_number_outside_the_bounds_is_corrected_at_once(found: int, wanted: int) -> None:
    scaler = Autoscaler()
    scaler.add(LoadSample(1.0, None, 0.0, found, found))
    assert scaler.decide(Limits(2, 20, 4))[:2] == (wanted, Reason.BOUNDS)


loads = st.one_of(st.none(), st.floats(0, 1e6))


@given(st.lists(st.tuples(loads, st.floats(0, 1e6), st.floats(0, 1)), max_size=200), st.integers(1, 9))
def test_the_wanted_number_is_within_bounds_and_changes_by_at_most_a_factor_of_two(
    found: list[tuple[float | None, float, float]], number: int
) -> None:
    scaler, limits = Autoscaler(), Limits(1, 9, 2)
    for second, (load, rate, cpu) in enumerate(found, 1):
        scaler.add(LoadSample(float(second), load, rate, number, number, cpu, cpu))
        decision = scaler.decide(limits)
        assert 1 <= decision.wanted <= 9
        assert number / 2 <= decision.wanted <= number * 2
        assert (decision.wanted != number) == (decision.reason in CHANGES)
        if decision.wanted != number:
            assert load is not None
            scaler.changed(float(second), number, decision.wanted)
            number = decision.wanted


def test_the_memory_is_bounded() -> None:
    simulated = world(clients=lambda second: 8)
    simulated.run(1000)
    assert len(simulated.scaler._samples) <= 60


def steps(*levels: int, each: int = 100) -> Callable[[int], int]:
    return lambda second: levels[min((second - 1) // each, len(levels) - 1)]


def test_a_load_that_swings_does_not_make_the_number_swing() -> None:
    simulated = world(clients=lambda second: 21 if second // 30 % 2 else 9)
    simulated.run(900)
    assert len([1 for _, _, decision in simulated.changes if decision.reason is Reason.IDLE]) <= 1


def test_a_slow_rise_is_followed() -> None:
    simulated = world(clients=steps(6, 9, 12, 15))
    simulated.run(500)
    assert simulated.instances in (5, 6)
    assert {decision.reason for _, _, decision in simulated.changes} == {Reason.LOAD}
