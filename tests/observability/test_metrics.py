"""Counters, their sums over workers, and the samples of a scrape."""

from __future__ import annotations

import json
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from passerelle.errors import TABLE, Kind
from passerelle.observability.metrics import (
    BUCKETS,
    METHODS,
    UNMATCHED,
    Metrics,
    Snapshot,
    merge,
    retired,
    with_instances_of,
)
from passerelle.observability.prometheus import render


def samples(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of the rendered snapshot by name and labels; fail on a repeated one."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in parse(render(snapshot)[0].decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(snapshot: Snapshot, name: str, **labels: str) -> float | None:
    return samples(snapshot).get((name, tuple(sorted(labels.items()))))


def a_registry() -> Metrics:
    metrics = Metrics()
    route = metrics.route("/user/{user_id}")
    route.observe(200, 0.0004)
    route.observe(200, 0.003, b"PUT")
    route.observe(502, 31.0)
    route.count_failure(Kind.CONNECT_FAILED)
    route.in_flight = 2
    service = metrics.service("user", lambda: 7)
    service.observe(200, 0.0003)
    service.count_failure(Kind.CONNECT_FAILED, 0.01)
    service.retries += 1
    service.breaker = lambda: "open"
    metrics.connections_open, metrics.connections_accepted, metrics.connections_refused = 3, 10, 1
    metrics.malformed(Kind.BAD_REQUEST)
    metrics.access_log = lambda: (12, 4)
    return metrics


def test_counts_by_method_and_status() -> None:
    snapshot = a_registry().snapshot()
    route = "/user/{user_id}"
    assert value(snapshot, "passerelle_requests_total", route=route, method="GET", code="200") == 1
    assert value(snapshot, "passerelle_requests_total", route=route, method="PUT", code="200") == 1
    assert value(snapshot, "passerelle_requests_total", route=route, method="GET", code="502") == 1
    assert value(snapshot, "passerelle_requests_in_flight", route=route) == 2
    assert (
        value(snapshot, "passerelle_request_failures_total", route=route, kind="connect_failed", side="upstream") == 1
    )


def test_histogram_is_cumulative_and_its_bounds_are_inclusive() -> None:
    metrics = Metrics()
    route = metrics.route("/")
    for seconds in (0.0005, 0.00051, 0.01, 0.02, 30.0, 31.0):
        route.observe(200, seconds)
    snapshot = metrics.snapshot()
    name = "passerelle_request_duration_seconds"
    expected = {"0.0005": 1, "0.001": 2, "0.005": 2, "0.01": 3, "0.025": 4, "10.0": 4, "30.0": 5, "+Inf": 6}
    for bound, count in expected.items():
        assert value(snapshot, f"{name}_bucket", route="/", le=bound) == count
    assert value(snapshot, f"{name}_count", route="/") == 6
    assert value(snapshot, f"{name}_sum", route="/") == pytest.approx(61.03101)


def test_upstream_attempts_are_answers_and_failures() -> None:
    metrics = a_registry()
    snapshot = metrics.snapshot()
    assert metrics.service("user", lambda: 7).attempts == 2
    assert value(snapshot, "passerelle_upstream_responses_total", service="user", code="200") == 1
    assert (
        value(snapshot, "passerelle_upstream_failures_total", service="user", kind="connect_failed", side="upstream")
        == 1
    )
    assert value(snapshot, "passerelle_upstream_retries_total", service="user") == 1
    assert value(snapshot, "passerelle_upstream_in_flight", service="user") == 7
    assert value(snapshot, "passerelle_upstream_breakers", service="user", state="open") == 1
    assert value(snapshot, "passerelle_upstream_breakers", service="user", state="closed") == 0
    assert value(snapshot, "passerelle_upstream_duration_seconds_count", service="user") == 2


def test_connections_malformed_and_log_lines() -> None:
    snapshot = a_registry().snapshot()
    assert value(snapshot, "passerelle_connections_open") == 3
    assert value(snapshot, "passerelle_connections_accepted_total") == 10
    assert value(snapshot, "passerelle_connections_refused_total") == 1
    assert value(snapshot, "passerelle_requests_malformed_total", kind="bad_request") == 1
    assert value(snapshot, "passerelle_access_log_lines_total") == 12
    assert value(snapshot, "passerelle_access_log_lines_dropped_total") == 4


def test_a_worker_reports_its_cpu_time_and_memory() -> None:
    snapshot = Metrics().snapshot()
    assert (value(snapshot, "passerelle_worker_cpu_seconds_total") or 0) > 0
    assert (value(snapshot, "passerelle_worker_resident_memory_bytes") or 0) > 1_000_000
    assert value(snapshot, "passerelle_workers") == 1


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=12), st.integers(0, 70000)), max_size=60))
def test_what_clients_send_cannot_make_labels(requests: list[tuple[bytes, int]]) -> None:
    metrics = Metrics()
    route = metrics.route(UNMATCHED)
    for method, status in requests:
        route.observe(status, 0.001, method)
    names = {method.decode() for method in METHODS} | {"other"}
    codes = {str(code) for code in range(100, 600)} | {"other"}
    total = 0.0
    for (name, labels), count in samples(metrics.snapshot()).items():
        if name == "passerelle_requests_total":
            assert dict(labels)["method"] in names
            assert dict(labels)["code"] in codes
            total += count
    assert total == len(requests)


def test_a_hit_is_counted_as_an_answered_get_and_as_an_outcome() -> None:
    """The fast path must have the same result as the normal one, together with it and alone."""
    short, long = Metrics(), Metrics()
    for seconds in (0.0, 0.00001, BUCKETS[0], 0.0006, 0.003, 31.0):
        for status in (200, 200, 404, 299, 777):
            short.route("/a").hit(status, seconds)
            long.route("/a").observe(status, seconds)
            long.route("/a").cache["hit"] = long.route("/a").cache.get("hit", 0) + 1
    # A hit off the fast path is counted in parts, on the same route.
    for metrics in (short, long):
        metrics.route("/a").observe(200, 0.25)
        metrics.route("/a").cache["hit"] = metrics.route("/a").cache.get("hit", 0) + 1
    assert short.route("/a").snapshot()["cache"] == {"hit": 31}
    told, expected = ({k: v for k, v in samples(m.snapshot()).items() if "worker" not in k[0]} for m in (short, long))
    assert told == expected


def test_one_object_per_name_so_that_a_reload_keeps_the_counts() -> None:
    metrics = a_registry()
    assert metrics.route("/user/{user_id}") is metrics.route("/user/{user_id}")
    service = metrics.service("user", lambda: 1)
    assert (service.attempts, service.in_flight()) == (2, 1)


def test_routes_without_requests_make_no_series() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.route(f"/r{number}")
    metrics.route("/r7").in_flight += 1
    assert list(metrics.snapshot()["routes"]) == ["/r7"]


seconds = st.floats(0, 100, allow_nan=False)
requests = st.lists(st.tuples(st.sampled_from(["/a", "/b"]), st.sampled_from([200, 404, 502]), seconds), max_size=30)


@given(st.lists(requests, max_size=4))
def test_merging_workers_equals_one_worker_with_all_their_requests(workers: list[list[tuple[str, int, float]]]) -> None:
    single = Metrics()
    snapshots = []
    for work in workers:
        metrics = Metrics()
        for registry in (metrics, single):
            for route, status, duration in work:
                registry.route(route).observe(status, duration)
                registry.service("s", lambda: 0).observe(status, duration)
        snapshots.append(json.loads(json.dumps(metrics.snapshot())))
    merged, expected = merge(snapshots), single.snapshot()
    for kind in ("routes", "services"):
        assert merged[kind].keys() == expected[kind].keys()
        for name, values in expected[kind].items():
            assert merged[kind][name].pop("sum") == pytest.approx(values.pop("sum"))
            assert merged[kind][name] == values
    assert merged["workers"] == len(workers)


@given(seconds)
def test_every_duration_lands_in_one_bucket_that_holds_it(duration: float) -> None:
    metrics = Metrics()
    metrics.route("/").observe(200, duration)
    buckets = metrics.snapshot()["routes"]["/"]["buckets"]
    assert sum(buckets) == 1
    index = buckets.index(1)
    assert index == bisect_left(BUCKETS, duration)
    assert index == len(BUCKETS) or duration <= BUCKETS[index]
    assert index == 0 or duration > BUCKETS[index - 1]


def test_merging_leaves_its_arguments_alone() -> None:
    first, second = a_registry().snapshot(), a_registry().snapshot()
    before = json.dumps([first, second])
    merge([first, second])
    assert json.dumps([first, second]) == before


def test_merging_different_forms_is_an_error() -> None:
    other = a_registry().snapshot()
    other["routes"]["/user/{user_id}"]["buckets"] = [1, 2]
    with pytest.raises(ValueError):
        merge([a_registry().snapshot(), other])


def test_a_retired_worker_keeps_its_counters_and_loses_its_gauges() -> None:
    live, gone = a_registry().snapshot(), retired(a_registry().snapshot())
    total = merge([live, gone])
    route = "/user/{user_id}"
    assert value(total, "passerelle_requests_total", route=route, method="GET", code="200") == 2
    assert value(total, "passerelle_requests_in_flight", route=route) == 2
    assert value(total, "passerelle_upstream_in_flight", service="user") == 7
    assert value(total, "passerelle_upstream_breakers", service="user", state="open") == 1
    assert value(total, "passerelle_connections_open") == 3
    assert value(total, "passerelle_connections_accepted_total") == 20
    assert value(total, "passerelle_workers") == 1
    assert value(total, "passerelle_worker_resident_memory_bytes") == live["resident_bytes"]


def test_the_empty_sum_renders() -> None:
    assert value(merge([]), "passerelle_workers") == 0


def test_openmetrics_where_the_client_accepts_it() -> None:
    snapshot = a_registry().snapshot()
    text, media_type = render(snapshot, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(text.decode())}  # type: ignore[no-untyped-call]
    assert {"passerelle_requests", "passerelle_request_duration_seconds"} <= names
    assert render(snapshot)[1] == "text/plain; version=0.0.4; charset=utf-8"
    assert render(snapshot, "*/*")[1] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("kind", list(Kind))
def test_every_failure_kind_renders_with_its_side(kind: Kind) -> None:
    metrics = Metrics()
    metrics.route("/").observe(TABLE[kind][0], 0.1)
    metrics.route("/").count_failure(kind)
    metrics.service("s", lambda: 0).count_failure(kind, 0.1)
    side = TABLE[kind][1].value
    snapshot = metrics.snapshot()
    assert value(snapshot, "passerelle_request_failures_total", route="/", kind=kind.value, side=side) == 1
    assert value(snapshot, "passerelle_upstream_failures_total", service="s", kind=kind.value, side=side) == 1


def of_instances(**requests: int) -> Snapshot:
    """Return the snapshot of a worker whose service ``u`` has these instances."""
    listed = {
        name: {
            "requests": count,
            "ended": count - 1,
            "seconds": 0.5,
            "queued": 0.25,
            "connecting": 0.0,
            "failures": {"timeout": 2, "server_error": 1},
            "in_flight": 1,
            "states": {"up": 1},
        }
        for name, count in requests.items()
    }
    return Metrics().snapshot() | {"instances": {"u": {"listed": listed, "unlisted": 0}}}


def test_instances_of_all_workers_are_summed() -> None:
    snapshot = merge([of_instances(a=10), of_instances(a=20, b=3)])
    a = {"service": "u", "instance": "a"}
    assert value(snapshot, "passerelle_instance_requests_total", **a) == 30
    assert value(snapshot, "passerelle_instance_first_byte_seconds_count", **a) == 28
    assert value(snapshot, "passerelle_instance_first_byte_seconds_sum", **a) == 1.0
    assert value(snapshot, "passerelle_instance_queue_seconds_total", **a) == 0.5
    assert value(snapshot, "passerelle_instance_state", **a, state="up") == 2
    assert value(snapshot, "passerelle_instance_state", **a, state="ejected") == 0
    for kind, side, count in (("timeout", "upstream", 4), ("server_error", "upstream", 2)):
        assert value(snapshot, "passerelle_instance_failures_total", **a, kind=kind, side=side) == count
    assert value(snapshot, "passerelle_instance_requests_total", service="u", instance="b") == 3


def test_a_worker_that_has_ended_keeps_the_counts_of_instances_that_still_exist() -> None:
    ended, running = retired(of_instances(a=10, b=5)), of_instances(a=1)
    found = with_instances_of(merge([ended, running]), [running])
    assert value(found, "passerelle_instance_requests_total", service="u", instance="a") == 11
    assert value(found, "passerelle_instance_in_flight", service="u", instance="a") == 1
    assert value(found, "passerelle_instance_state", service="u", instance="a", state="up") == 1
    assert "b" not in found["instances"]["u"]["listed"]
