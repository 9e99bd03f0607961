"""The rules: a system whose bottleneck is known gives its verdict first, with the right numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.diagnosis.diagnose import diagnose
from passerelle.diagnosis.evidence import Evidence, gather, mean
from passerelle.diagnosis.verdict import Verdict

UNUSED = {"cpu": 0.1, "wait": 0.0, "switches": 100.0}


def instance(*, busy: float = 0.2, calls: float = 10.0, queued: float = 0.0, **values: Any) -> dict[str, Any]:
    app = {"threads": 4, "busy": busy, "calls": calls, "queued": queued}
    counters = {"requests": calls, "errors": 0.0, "occupied": 4 * busy + queued}
    return {"state": "up", **counters, **UNUSED, "app": app, **values}


def service(rate: float, time: float, instances: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    return {"requests": rate, "errors": 0.0, "retries": 0.0, "seconds": rate * time, "p95": 1.2 * time} | {
        "instances": dict(instances),
        **values,
    }


def system(services: Mapping[str, Any], **values: Any) -> list[dict[str, Any]]:
    """Ten equal samples of a system with room everywhere, apart from what is given."""
    rate = max((each["requests"] for each in services.values()), default=0.0)
    total = {"requests": rate, "errors": 0.0, "seconds": 2.0, "connections": 100, "p95": 0.05}
    sample = {
        "time": 1.0,
        "total": {**total, **values.pop("total", {})},
        "routes": {},
        "services": dict(services),
        "workers": {"gateway": {"connections": 100, **UNUSED}},
        "machine": {"cpus": 8, "cpu": 0.3},
        **values,
    }
    return [sample] * 10


def first(samples: list[dict[str, Any]]) -> Verdict:
    return diagnose(gather(samples))[0]


def test_too_few_instances() -> None:
    five = {f"user-{n}": instance(busy=0.97, calls=258.0, queued=8.8) for n in range(1, 6)}
    found = first(system({"user": service(1290.0, 0.049, five, p95=0.051)}))
    assert (found.component, found.resource) == ("user", "threads")
    assert found.text.startswith("user: 5 instances at 0.97 utilisation; 36 of a 51 ms p95 are queue; ")
    assert "bring it to about 15 ms" in found.text
    assert found.is_bottleneck
    assert found.next_step.startswith("passerelle scale user=")


def test_a_slow_database_comes_before_the_threads_that_wait_for_it() -> None:
    timings = {"responses": 10.0, "seconds": 1.0, "parts": {"db": 0.96, "total": 0.99}}
    slow = {"product-1": instance(busy=0.98, calls=39.0, queued=6.0)}
    found = diagnose(gather(system({"product": service(39.0, 0.25, slow, timings=timings)})))
    assert (found[0].component, found[0].resource) == ("product", "database")
    assert found[0].text == "product: its database takes 96 of 100 ms"
    assert ("product", "threads") in [(verdict.component, verdict.resource) for verdict in found[1:]]


def test_a_wait_for_something_that_has_no_name() -> None:
    found = first(system({"product": service(20.0, 0.1, {"product-1": instance(busy=0.5, calls=20.0)})}))
    assert (found.component, found.resource) == ("product", "dependency")


def test_instances_at_their_cpu() -> None:
    full = {"cpu": 0.95, "wait": 0.02, "switches": 50.0}
    two = {f"user-{n}": instance(**full) for n in (1, 2)}
    found = first(system({"user": service(20.0, 0.02, two)}))
    assert (found.component, found.resource) == ("user", "cpu")
    assert "more instance" in found.next_step
    found = first(system({"user": service(20.0, 0.02, two)}, machine={"cpus": 2, "cpu": 0.99}))
    assert "the CPUs of this machine are full" in found.next_step


def test_the_gateway_at_its_cpu() -> None:
    busy = {"gateway": {"cpu": 0.97, "wait": 0.01, "switches": 20.0, "connections": 8}}
    found = first(system({}, workers=busy, total={"requests": 20_000.0}))
    assert (found.component, found.resource) == ("gateway", "cpu")


def test_a_process_that_only_waits_for_a_busy_machine_is_not_at_its_cpu() -> None:
    light = {"gateway": {"cpu": 0.1, "wait": 0.85, "switches": 400.0, "connections": 8}}
    verdicts = diagnose(gather(system({}, workers=light, machine={"cpus": 2, "cpu": 1.0}, total={"requests": 400.0})))
    assert (verdicts[0].component, verdicts[0].resource) == ("machine", "cpu")
    hungry = {"gateway": {"cpu": 0.2, "wait": 0.78, "switches": 80.0, "connections": 8}}
    verdicts = diagnose(gather(system({}, workers=hungry, machine={"cpus": 2, "cpu": 1.0}, total={"requests": 400.0})))
    assert [verdict.component for verdict in verdicts] == ["gateway", "machine"]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("vary", "because its responses have `Vary: *`"),
        ("set-cookie", "because its responses have Set-Cookie"),
        ("no-store", "because its responses have Cache-Control: no-store"),
        ("identity", "because its requests have Authorization or Cookie"),
        ("partial", "because its responses are not stored (partial)"),
    ],
)
def test_a_cache_that_never_hits(reason: str, text: str) -> None:
    route = {
        "requests": 50.0,
        "hits": 0.0,
        "lookups": 50.0,
        "seconds": 0.1,
        "not_stored": {reason: 49.0, "status": 1.0},
    }
    found = first(system({}, routes={"/api": route}, total={"requests": 50.0}))
    assert (found.component, found.resource) == ("cache", "/api")
    assert text in found.text


def test_a_cache_whose_responses_are_not_requested_again() -> None:
    route = {"requests": 50.0, "hits": 0.5, "lookups": 50.0, "seconds": 0.1}
    found = first(system({}, routes={"/api": route}, total={"requests": 50.0}))
    assert "hardly any is requested again" in found.text


@pytest.mark.parametrize("hits", [5.0, 50.0])
def test_a_cache_that_hits_is_not_named(hits: float) -> None:
    route = {"requests": 50.0, "hits": hits, "lookups": 50.0, "seconds": 0.1}
    assert first(system({}, routes={"/api": route}, total={"requests": 50.0})).component == "system"


def test_one_bad_instance_among_good_ones() -> None:
    group = {f"user-{n}": instance(latency=0.01) for n in range(1, 5)}
    group["user-3"]["latency"] = 0.08
    found = first(system({"user": service(40.0, 0.02, group)}))
    assert (found.component, found.resource) == ("user-3", "latency")
    group["user-3"].update(latency=0.01, errors=4.0)
    found = first(system({"user": service(40.0, 0.02, group)}))
    assert (found.component, found.resource) == ("user-3", "errors")


def test_retries_that_amplify_and_failures_by_kind() -> None:
    one = {"user-1": instance()}
    values = service(60.0, 0.02, one, retries=10.0, errors=12.0, failures={"timeout": 11.0, "connect_failed": 1.0})
    found = diagnose(gather(system({"user": values})))
    assert {verdict.resource for verdict in found} >= {"retries", "errors"}
    assert any(verdict.text == "user: 20 % of its requests fail, most of them timeout" for verdict in found)


def test_the_queue_of_the_gateway_and_the_adaptive_limit() -> None:
    values = service(60.0, 0.1, {"user-1": instance(queued=0.0) | {"queued": 4.0, "occupied": 6.0}})
    assert (first(system({"user": values})).resource) == "connections"
    values = service(60.0, 0.02, {"user-1": instance()}, waiting=3, limit=2, running=2)
    assert (first(system({"user": values})).resource) == "concurrency limit"


def test_a_client_that_waits() -> None:
    one = {"user-1": instance(busy=0.24, calls=48.0)}
    found = first(system({"user": service(48.0, 0.02, one)}, total={"connections": 1, "seconds": 0.96}))
    assert (found.component, found.resource, found.is_bottleneck) == ("client", "concurrency", False)


def test_slow_clients() -> None:
    workers = {"gateway": {**UNUSED, "connections": 10, "paused": 6.0}}
    values = {"workers": workers, "total": {"requests": 50.0, "connections": 10}}
    found = diagnose(gather(system({}, **values)))
    assert ("clients", "reading") in [(verdict.component, verdict.resource) for verdict in found]


def test_nothing_is_saturated() -> None:
    found = diagnose(gather(system({"user": service(40.0, 0.02, {"user-1": instance(calls=40.0)})})))
    assert [verdict.component for verdict in found] == ["system"]
    assert found[0].text.startswith("nothing is saturated")


@pytest.mark.parametrize("samples", [[], system({}), system({}, total={"requests": 2.0})])
def test_few_requests_are_not_enough(samples: list[dict[str, Any]]) -> None:
    found = diagnose(gather(samples))
    assert len(found) == 1
    assert found[0].text.startswith("not enough: ")
    assert not found[0].is_bottleneck


def test_threads_that_never_end_are_named_without_any_response() -> None:
    stuck = {"user-1": instance(busy=1.0, calls=0.0, queued=5.0)}
    found = first(system({"user": service(0.0, 0.0, stuck)}))
    assert (found.component, found.resource) == ("user", "threads")
    assert "no call has ended" in found.text


def test_numbers_that_contradict_each_other_are_named() -> None:
    one = {"user-1": instance() | {"occupied": 9.0}}
    found = diagnose(gather(system({"user": service(40.0, 0.1, one)})))
    assert "the data disagree: 9.0 requests were in flight, but rate times time is 4.0" in found[-1].text


def test_means_of_samples() -> None:
    def sample(count: float, failures: dict[str, float], p95: float) -> dict[str, Any]:
        return {"services": {"failures": {"requests": count, "p95": p95, "failures": failures}}}

    samples = [sample(10.0, {"timeout": 4.0}, 0.1), sample(20.0, {}, 0.9), sample(30.0, {"reset": 2.0}, 0.2)]
    found = mean(samples, samples[-1])["services"]["failures"]
    assert found == {"requests": 20.0, "p95": 0.2, "failures": {"reset": 2 / 3, "timeout": 4 / 3}}


numbers = st.floats(0, 1e6)


@given(
    numbers, numbers, numbers, st.floats(0, 1), numbers, numbers, st.dictionaries(st.sampled_from(["db", "x"]), numbers)
)
def test_any_numbers_give_ranked_verdicts(
    rate: float, time: float, calls: float, busy: float, queued: float, seconds: float, parts: dict[str, float]
) -> None:
    group = {f"user-{n}": instance(busy=busy, calls=calls, queued=queued, latency=time * n) for n in range(3)}
    timings = {"responses": rate, "seconds": seconds, "parts": parts}
    values = service(rate, time, group, timings=timings, retries=rate / 2, errors=rate / 3)
    found = diagnose(gather(system({"user": values}, total={"requests": rate, "seconds": seconds})))
    assert found
    scores = [verdict.weight * verdict.confidence for verdict in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= verdict.confidence <= 1 and verdict.text and verdict.next_step for verdict in found)


def test_no_samples_are_no_evidence() -> None:
    assert gather([]) == Evidence()
