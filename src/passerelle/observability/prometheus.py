"""From a snapshot of :mod:`passerelle.observability.metrics` to the text that Prometheus scrapes.

``docs/reference/metrics.md`` lists every name; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from passerelle.errors import TABLE
from passerelle.observability.metrics import BUCKETS, Snapshot

_BOUNDS = [str(bound) for bound in BUCKETS] + ["+Inf"]
_CONCURRENCY = {
    "limit": "The adaptive limit of requests that wait for the service's answer to begin.",
    "running": "Requests that wait for it now.",
    "waiting": "Requests that wait for a place under the limit now.",
}
_BREAKER_STATES = ("closed", "open", "half_open")
_SIDES = {kind.value: row[1].value for kind, row in TABLE.items()}


def render(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """The exposition of a snapshot and its media type.

    ``accept`` is the request's Accept field: OpenMetrics where it asks for it, the Prometheus text format 0.0.4
    otherwise. Costs about 7 µs a line: with many routes, call it on a thread (it touches nothing but its argument).
    """
    registry = CollectorRegistry()
    registry.register(_Families(snapshot))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        return []  # the registry would otherwise collect everything once more to learn the names

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield from _requests(snapshot["routes"])
        yield from _upstream(snapshot["services"])
        yield from _cache(snapshot)
        yield from _connections(snapshot)
        yield from _process(snapshot)


def _requests(routes: dict[str, Any]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "passerelle_requests", "Requests answered, by route, method and status.", labels=["route", "method", "code"]
    )
    failures = CounterMetricFamily(
        "passerelle_request_failures",
        "Requests that ended early, by what happened and which side is to blame.",
        labels=["route", "kind", "side"],
    )
    dry = CounterMetricFamily(
        "passerelle_rate_limit_dry_run",
        "Requests that a rate limit in a dry run would have refused.",
        labels=["route"],
    )
    verdicts = CounterMetricFamily(
        "passerelle_forward_auth_verdicts",
        "Requests that a service was asked about, by its verdict and the status class or failure that it was.",
        labels=["route", "verdict", "reason"],
    )
    in_flight = GaugeMetricFamily("passerelle_requests_in_flight", "Requests being carried out now.", labels=["route"])
    durations = HistogramMetricFamily(
        "passerelle_request_duration_seconds",
        "From a request's head to the last byte of its answer.",
        labels=["route"],
    )
    for route, values in routes.items():
        for method, codes in values["codes"].items():
            for code, count in codes.items():
                requests.add_metric([route, method, code], count)
        for kind, count in values["failures"].items():
            failures.add_metric([route, kind, _SIDES[kind]], count)
        dry.add_metric([route], values["would_refuse"])
        for verdict, reasons in values["verdicts"].items():
            for reason, count in reasons.items():
                verdicts.add_metric([route, verdict, reason], count)
        in_flight.add_metric([route], values["in_flight"])
        durations.add_metric([route], _cumulative(values["buckets"]), values["sum"])
    yield from (requests, failures, dry, verdicts, in_flight, durations)


def _upstream(services: dict[str, Any]) -> Iterator[Metric]:
    responses = CounterMetricFamily(
        "passerelle_upstream_responses", "Attempts that a service answered, by status.", labels=["service", "code"]
    )
    failures = CounterMetricFamily(
        "passerelle_upstream_failures",
        "Attempts that failed, by what happened and which side is to blame.",
        labels=["service", "kind", "side"],
    )
    retries = CounterMetricFamily(
        "passerelle_upstream_retries", "Attempts after a request's first one.", labels=["service"]
    )
    in_flight = GaugeMetricFamily(
        "passerelle_upstream_in_flight", "Attempts under way at a service's instances now.", labels=["service"]
    )
    breakers = GaugeMetricFamily(
        "passerelle_upstream_breakers",
        "Workers whose circuit breaker for the service is in this state now.",
        labels=["service", "state"],
    )
    hedges = CounterMetricFamily(
        "passerelle_upstream_hedges",
        "Second attempts beside one under way, by what became of them.",
        labels=["service", "outcome"],
    )
    limited = CounterMetricFamily(
        "passerelle_upstream_limited", "Requests refused for the service's adaptive limit.", labels=["service"]
    )
    places = {
        name: GaugeMetricFamily(f"passerelle_upstream_concurrency_{name}", text, labels=["service"])
        for name, text in _CONCURRENCY.items()
    }
    durations = HistogramMetricFamily(
        "passerelle_upstream_duration_seconds",
        "From picking an instance to the last byte of its answer, failed attempts included.",
        labels=["service"],
    )
    for service, values in services.items():
        for code, count in values["codes"].items():
            responses.add_metric([service, code], count)
        for kind, count in values["failures"].items():
            failures.add_metric([service, kind, _SIDES[kind]], count)
        retries.add_metric([service], values["retries"])
        for outcome, count in values["hedges"].items():
            hedges.add_metric([service, outcome], count)
        in_flight.add_metric([service], values["in_flight"])
        if values["breaker"]:
            for state in _BREAKER_STATES:
                breakers.add_metric([service, state], values["breaker"].get(state, 0))
        for name, number in values["concurrency"].items():
            places[name].add_metric([service], number)
        if values["concurrency"]:
            limited.add_metric([service], values["limited"])
        durations.add_metric([service], _cumulative(values["buckets"]), values["sum"])
    yield from (responses, failures, retries, hedges, in_flight, breakers, limited, *places.values(), durations)


def _cache(snapshot: Snapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "passerelle_cache_requests",
        "Requests, and parts of compositions, on cached routes, by what became of them.",
        labels=["route", "outcome"],
    )
    for route, values in snapshot["routes"].items():
        for outcome, count in values["cache"].items():
            requests.add_metric([route, outcome], count)
    yield requests
    held = snapshot["cache"]
    yield GaugeMetricFamily("passerelle_cache_memory_bytes", "Memory held by caches now.", held["bytes"])
    yield GaugeMetricFamily("passerelle_cache_memory_limit_bytes", "Memory that they may hold.", held["capacity_bytes"])
    yield GaugeMetricFamily("passerelle_cache_entries", "Items that caches hold now.", held["entries"])
    yield CounterMetricFamily("passerelle_cache_evictions", "Items let go of for want of memory.", held["evictions"])
    redis = held.get("redis")
    if not redis:
        return
    yield GaugeMetricFamily(
        "passerelle_cache_redis_connected", "Workers whose connection to Redis stands.", redis["connected"]
    )
    yield CounterMetricFamily(
        "passerelle_cache_redis_errors", "Operations of Redis that failed or took too long.", redis["errors"]
    )
    looked = CounterMetricFamily("passerelle_cache_redis_lookups", "Look-ups in Redis.", labels=["result"])
    looked.add_metric(["hit"], redis["hits"])
    looked.add_metric(["miss"], redis["misses"])
    yield looked
    yield CounterMetricFamily("passerelle_cache_redis_stores", "Answers that were stored in Redis.", redis["stores"])


def _connections(snapshot: Snapshot) -> Iterator[Metric]:
    connections = snapshot["connections"]
    yield GaugeMetricFamily("passerelle_connections_open", "Client connections open now.", connections["open"])
    yield CounterMetricFamily("passerelle_connections_accepted", "Client connections.", connections["accepted"])
    yield CounterMetricFamily(
        "passerelle_connections_refused", "Client connections turned away.", connections["refused"]
    )
    malformed = CounterMetricFamily(
        "passerelle_requests_malformed", "Messages that never became a request.", labels=["kind"]
    )
    for kind, count in snapshot["malformed"].items():
        malformed.add_metric([kind], count)
    yield malformed


def _process(snapshot: Snapshot) -> Iterator[Metric]:
    log = snapshot["access_log"]
    yield CounterMetricFamily("passerelle_access_log_lines", "Access log lines written.", log["lines"])
    yield CounterMetricFamily(
        "passerelle_access_log_lines_dropped", "Access log lines given up: nobody took them.", log["dropped"]
    )
    yield GaugeMetricFamily("passerelle_workers", "Gateway workers in this sum.", snapshot["workers"])
    yield CounterMetricFamily(
        "passerelle_worker_cpu_seconds", "CPU time, user and system, of the gateway workers.", snapshot["cpu_seconds"]
    )
    yield GaugeMetricFamily(
        "passerelle_worker_resident_memory_bytes",
        "Resident memory of the gateway workers.",
        snapshot["resident_bytes"],
    )


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    return list(zip(_BOUNDS, accumulate(buckets), strict=True))
