"""Rates, percentiles and their history: known answers, and properties."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Kind
from passerelle.observability.live import (
    MOST_ROUTES,
    OTHER,
    History,
    LiveSample,
    difference,
    merge_patch,
    quantile,
    summary,
    total,
)
from passerelle.observability.metrics import BUCKETS, MOST_LIVE, Metrics, no_cache

NONE = [0] * (len(BUCKETS) + 1)


def histogram(*seconds: float) -> list[int]:
    metrics = Metrics().route("/")
    for value in seconds:
        metrics.observe(200, value)
    buckets: list[int] = metrics.snapshot()["buckets"]
    return buckets


def reading(metrics: Metrics, instances: dict[str, Any] | None = None, *, full: bool = False) -> dict[str, Any]:
    live = metrics.live(full=full)
    live["process"].update(cpu=0.0, lag=0.0)
    return {**live, "instances": instances or {}}


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ([10, 0, 0], 0.5, 0.5),  # spread evenly over 0 to 1
        ([10, 0, 0], 1.0, 1.0),
        ([0, 10, 0], 0.5, 1.5),
        ([5, 5, 0], 0.5, 1.0),
        ([5, 5, 0], 0.75, 1.5),
        ([1, 0, 0], 0.99, 0.99),
        ([0, 0, 10], 0.5, 2.0),  # above the last bound
        ([9, 0, 1], 0.99, 2.0),
        ([0, 0, 0], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_quantiles(buckets: list[int], q: float, expected: float | None) -> None:
    assert quantile(buckets, q, (1.0, 2.0)) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.floats(0.0, 40.0), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_in_the_interval_of_its_value(values: list[float], q: float) -> None:
    found = quantile(histogram(*values), q)
    assert found is not None
    exact = sorted(values)[min(len(values) - 1, max(0, -int(-q * len(values) // 1) - 1))]
    bounds = (0.0, *BUCKETS)
    index = next((i for i in range(1, len(bounds)) if exact <= bounds[i]), len(bounds) - 1)
    assert bounds[index - 1] <= found <= bounds[index]


def test_differences_are_rates_and_gauges_stay() -> None:
    before = {"requests": 10, "in_flight": 3, "buckets": [4, 6], "breaker": "open"}
    after = {"requests": 16, "in_flight": 1, "buckets": [5, 11], "breaker": "closed"}
    expected = {"requests": 3.0, "in_flight": 1, "buckets": [1, 5], "breaker": "closed"}
    assert difference(after, before, 2.0) == expected
    assert difference(after, None, 2.0)["requests"] == 8.0


def test_counters_that_have_decreased_begin_at_zero() -> None:
    assert difference({"requests": 4, "errors": 1}, {"requests": 10, "errors": 0}, 1.0) == {"requests": 4, "errors": 1}


def test_sums_take_the_worst_breaker() -> None:
    parts = [{"breaker": state, "in_flight": 2, "buckets": [1, 2]} for state in ("closed", "open", "half_open")]
    assert total(parts) == {"breaker": "open", "in_flight": 6, "buckets": [3, 6]}
    assert total([{"breaker": None}, {"breaker": "closed"}]) == {"breaker": "closed"}


def test_a_summary_has_no_percentiles_without_requests() -> None:
    assert summary({"requests": 0.0, "buckets": NONE}) == {"requests": 0.0}
    assert summary({"requests": 2 / 3, "buckets": histogram(0.002, 0.002)}) == {
        "requests": 0.6667,
        "p50": 0.00175,
        "p95": 0.002425,
        "p99": 0.002485,
    }


def test_a_sample_of_two_workers() -> None:
    live, workers = LiveSample(), [Metrics(), Metrics()]
    for number, metrics in enumerate(workers):
        metrics.service("user", lambda: 1)
        live.add(f"gateway-{number}", 100 + number, 10.0, reading(metrics))
    live.finish(1000.0, {})
    for metrics in workers:
        route, service = metrics.route("/user"), metrics.service("user", lambda: 1)
        for _ in range(9):
            route.observe(200, 0.002)
        route.observe(503, 0.002)
        route.observe(429, 0.0001)
        route.count_failure(Kind.RATE_LIMITED)
        route.hit(200, 0.0001)
        route.cache["miss"] = 3
        service.observe(200, 0.002)
        service.observe(500, 0.002)
        service.count_failure(Kind.TIMEOUT, 1.0)
        service.retries += 1
    instance = {"requests": 12, "errors": 2, "in_flight": 2, "ended": 10, "seconds": 0.5}
    for number, metrics in enumerate(workers):
        metrics.connections_open = 5
        live.add(f"gateway-{number}", 100 + number, 12.0, reading(metrics, {"user": {"user-1": instance}}))
    sample = live.finish(1002.0, {"/user": "user"})
    route_values = sample["routes"]["/user"]
    assert {key: route_values[key] for key in ("requests", "errors", "limited", "hits", "lookups", "in_flight")} == {
        "requests": 12.0,
        "errors": 1.0,
        "limited": 1.0,
        "hits": 1.0,
        "lookups": 4.0,
        "in_flight": 0,
    }
    assert sample["total"] == {**route_values, "connections": 10}
    service_values = sample["services"]["user"]
    assert {key: service_values[key] for key in ("requests", "errors", "retries", "limited", "in_flight")} == {
        "requests": 3.0,
        "errors": 2.0,
        "retries": 1.0,
        "limited": 0.0,
        "in_flight": 2,
    }
    assert (service_values["hits"], service_values["lookups"]) == (1.0, 4.0)
    assert service_values["instances"]["user-1"] == {
        "requests": 12.0,
        "errors": 2.0,
        "in_flight": 4,
        "latency": 0.05,
    }
    assert sample["time"] == 1002.0


def test_entries_that_are_left_out_have_not_changed() -> None:
    live, metrics = LiveSample(), Metrics()
    route = metrics.route("/x")
    route.observe(200, 0.1)
    route.in_flight = 3
    live.add("gateway", 1, 1.0, reading(metrics))
    assert live.finish(1.0, {})["routes"]["/x"]["requests"] == 1.0
    unchanged = reading(metrics)
    assert unchanged["routes"] == {}
    live.add("gateway", 1, 2.0, unchanged)
    values = live.finish(2.0, {})["routes"]["/x"]
    assert (values["requests"], values["in_flight"]) == (0.0, 3)
    assert "p50" not in values
    assert list(reading(metrics, full=True)["routes"]) == ["/x"]


def test_a_worker_that_was_restarted_counts_from_zero() -> None:
    live, metrics = LiveSample(), Metrics()
    for _ in range(100):
        metrics.route("/x").observe(200, 0.1)
    live.add("gateway", 1, 1.0, reading(metrics))
    live.finish(1.0, {})
    live.forget("gateway")
    assert live.finish(2.0, {})["routes"]["/x"]["requests"] == 0.0
    again = Metrics()
    for _ in range(101):
        again.route("/x").observe(200, 0.1)
    live.add("gateway", 2, 3.0, reading(again))
    assert live.finish(3.0, {})["routes"]["/x"]["requests"] == 101.0


def test_a_reading_that_was_missed_is_spread_over_its_time() -> None:
    live, metrics = LiveSample(), Metrics()
    live.add("gateway", 1, 1.0, reading(metrics))
    live.finish(1.0, {})
    live.finish(2.0, {})
    for _ in range(10):
        metrics.route("/x").observe(200, 0.1)
    live.add("gateway", 1, 3.0, reading(metrics))
    assert live.finish(3.0, {})["routes"]["/x"]["requests"] == 5.0


def test_routes_beyond_the_limit_are_summed_up() -> None:
    live, metrics = LiveSample(), Metrics()
    for number in range(MOST_ROUTES + 50):
        metrics.route(f"/{number}").observe(200, 0.1)
    live.add("gateway", 1, 1.0, reading(metrics))
    sample = live.finish(1.0, {})
    assert len(sample["routes"]) == MOST_ROUTES + 1
    assert sample["routes"][OTHER]["requests"] == 50.0
    assert sample["total"]["requests"] == MOST_ROUTES + 50.0


def test_a_reading_is_bounded_and_the_other_routes_follow_in_turn() -> None:
    metrics, live, counted = Metrics(), LiveSample(), 0.0
    for number in range(3 * MOST_LIVE + 7):
        metrics.route(f"/{number}").observe(200, 0.1)
    sizes = []
    for second in range(1, 6):
        found = reading(metrics)
        sizes.append(len(found["routes"]))
        live.add("gateway", 1, float(second), found)
        counted += live.finish(float(second), {})["total"]["requests"]
        metrics.route("/0").observe(200, 0.1)
    assert sizes[:3] == [MOST_LIVE] * 3 and sizes[3] < 100
    assert counted == pytest.approx(3 * MOST_LIVE + 7 + 4, abs=0.5)


def test_a_reading_of_many_idle_routes_lists_none() -> None:
    metrics = Metrics()
    metrics.cache = no_cache
    for number in range(2_000):
        metrics.route(f"/{number}")
    for _ in range(5):
        metrics.live(full=False)
    assert metrics.live(full=False)["routes"] == {}


JSON = st.recursive(
    st.integers() | st.floats(allow_nan=False) | st.text() | st.booleans(),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


def apply(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396 §2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(result.get(key), value)
    return result


@given(st.dictionaries(st.text(max_size=3), JSON), st.dictionaries(st.text(max_size=3), JSON))
def test_a_merge_patch_converts_one_value_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert apply(before, merge_patch(before, after)) == after


def test_a_merge_patch_has_changes_only() -> None:
    before = {"time": 1, "routes": {"/a": {"requests": 1.0, "p50": 0.1}, "/b": {"requests": 2.0}}, "gone": 1}
    after = {"time": 2, "routes": {"/a": {"requests": 1.0}, "/b": {"requests": 2.0}}}
    assert merge_patch(before, after) == {"time": 2, "routes": {"/a": {"p50": None}}, "gone": None}


def sample_at(second: int, **total_values: float) -> dict[str, Any]:
    return {"time": float(second), "total": dict(total_values), "routes": {}}


def test_the_history_has_a_list_for_each_value() -> None:
    history = History(5)
    assert history.last(5) == {"times": []}
    history.add(sample_at(1, requests=10.0))
    history.add({**sample_at(2, requests=20.0, p50=0.1), "routes": {"/a": {"requests": 3.0, "state": "up"}}})
    history.add(sample_at(3, requests=30.0))
    assert history.last(5) == {
        "times": [1.0, 2.0, 3.0],
        "total": {"requests": [10.0, 20.0, 30.0], "p50": [None, 0.1, None]},
        "routes": {"/a": {"requests": [None, 3.0, None]}},
    }
    assert history.last(1) == {"times": [3.0], "total": {"requests": [30.0]}}


def test_the_history_keeps_the_last_samples_and_forgets_what_has_gone() -> None:
    history = History(5)
    history.add({**sample_at(0), "routes": {"/gone": {"requests": 1.0}}})
    for second in range(1, 13):
        history.add(sample_at(second, requests=float(second)))
    assert history.last(99) == {
        "times": [8.0, 9.0, 10.0, 11.0, 12.0],
        "total": {"requests": [8.0, 9.0, 10.0, 11.0, 12.0]},
    }
    assert history.columns == 1


def test_the_memory_of_the_history_is_bounded() -> None:
    history = History(60, most=50)
    tracemalloc.start()
    try:
        before = 0
        for second in range(3000):
            routes = {f"/{second}-{n}": {"requests": 1.0} for n in range(10)}
            history.add({**sample_at(second, requests=1.0), "routes": routes})
            if second == 300:
                before = tracemalloc.get_traced_memory()[0]
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert history.columns <= 50
    assert after < before + 50_000
    assert history.last(60)["total"]["requests"] == [1.0] * 60
