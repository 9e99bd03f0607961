"""Counters of instances for metrics: they continue by name, and neither time nor discovery makes them many."""

from __future__ import annotations

from typing import Any

from passerelle.balancing.instance import Instance, acquire, count_failure, release
from passerelle.upstream.instance_counters import KEPT_SECONDS, MOST_GONE, MOST_LISTED, InstanceCounters


def used(name: str, requests: int = 1, failed: int = 0) -> Instance:
    instance = Instance(name, f"{name}:80")
    for number in range(requests):
        acquire(instance)
        release(instance, number >= failed, 0.25)
    for _ in range(failed):
        count_failure(instance, "timeout")
    return instance


def listed(counters: InstanceCounters, *current: Instance, now: float = 0.0) -> dict[str, Any]:
    found: dict[str, Any] = counters.snapshot(current, (), now)["listed"]
    return found


def test_what_an_instance_has_counted() -> None:
    instance = used("a", 4, 1)
    acquire(instance)
    assert listed(InstanceCounters(), instance)["a"] == {
        "requests": 5,
        "ended": 4,
        "seconds": 1.0,
        "queued": 0.0,
        "connecting": 0.0,
        "failures": {"timeout": 1},
        "in_flight": 1,
        "states": {"up": 1},
    }


def test_an_instance_that_is_gone_is_listed_for_a_while_without_a_state() -> None:
    counters = InstanceCounters()
    counters.add_gone([used("a", 3), Instance("unused")], 10.0)
    assert listed(counters, now=10.0 + KEPT_SECONDS).keys() == {"a"}
    assert listed(counters, now=10.0)["a"].keys() & {"in_flight", "states"} == set()
    assert listed(counters, now=10.1 + KEPT_SECONDS) == {}


def test_a_process_that_was_replaced_continues_the_series() -> None:
    counters = InstanceCounters()
    counters.add_gone([used("a", 3, 2)], 0.0)
    counters.add_gone([used("a", 4, 1)], 1.0)
    for now in (1.0, 10 * KEPT_SECONDS):  # as long as there is an instance of the name
        found = listed(counters, used("a", 5), now=now)["a"]
        assert (found["requests"], found["failures"], found["states"]) == (12, {"timeout": 3}, {"up": 1})


def test_an_instance_that_leaves_and_its_successor_are_one_series() -> None:
    old, new = used("a", 2), used("a", 3)
    acquire(old)
    found = InstanceCounters().snapshot([new], [old], 0.0)["listed"]["a"]
    assert (found["requests"], found["in_flight"], found["states"]) == (6, 1, {"up": 2})


def test_discovery_that_returns_other_names_again_and_again_grows_nothing() -> None:
    counters = InstanceCounters()
    for round_ in range(300):
        counters.add_gone([used(f"i-{round_}-{number}") for number in range(20)], float(round_))
        assert len(counters._gone) <= MOST_GONE + MOST_LISTED  # although there was no snapshot
    found = listed(counters, now=300.0)
    assert len(found) == MOST_GONE
    assert "i-299-19" in found and "i-0-0" not in found  # the newest are kept


def test_a_service_with_very_many_instances_lists_some_and_counts_the_others() -> None:
    instances = [Instance(f"i-{number}") for number in range(10_000)]
    found = InstanceCounters().snapshot(instances, instances, 0.0)
    assert len(found["listed"]) == MOST_LISTED and found["unlisted"] == 10_000 - MOST_LISTED
