"""All metrics, and their Prometheus exposition from a snapshot of :mod:`passerelle.observability.metrics`.

A metric is one entry of :data:`METRICS`: its name, type, labels and help, and a function that reads its samples from a
snapshot. The table of ``docs/reference/metrics.md`` is generated from the entries.

The file is longer than 400 lines because all metrics are entries of one table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from passerelle.errors import TABLE, Side
from passerelle.observability.metrics import BUCKETS, Snapshot

_BOUNDS = [str(bound) for bound in BUCKETS] + ["+Inf"]
_BREAKER_STATES = ("closed", "open", "half_open")
_SIDES = {kind.value: row[1].value for kind, row in TABLE.items()} | {"server_error": Side.UPSTREAM.value}
_STATES = ("up", "ejected", "draining", "down")

Samples = Iterable[tuple[list[str], Any]]
"""Values of the labels, and the sample: a number, for a histogram its cumulative buckets and its sum, for a summary its
count and its sum."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Definition of a metric. ``meaning`` is Markdown for a row of the reference page; without markup it is the help
    text.

    ``samples`` reads a snapshot. A metric with ``redis`` is left out unless the second cache level is in use.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    labels: tuple[str, ...]
    meaning: str
    samples: Callable[[Snapshot], Samples]
    redis: bool = False

    @property
    def help(self) -> str:
        """Return the meaning as plain text: a sentence without links and code marks."""
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", self.meaning).replace("`", "")
        return f"{text[:1].upper()}{text[1:]}."

    def family(self, snapshot: Snapshot) -> Family:
        """Build the metric with its samples."""
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(self.name, self.help, labels=self.labels)
            for labels, (buckets, total) in self.samples(snapshot):
                histogram.add_metric(labels, buckets, total)
            return histogram
        if self.kind == "summary":
            summary = SummaryMetricFamily(self.name, self.help, labels=self.labels)
            for labels, (count, total) in self.samples(snapshot):
                summary.add_metric(labels, count, total)
            return summary
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self.name, self.help, labels=self.labels)
        for labels, value in self.samples(snapshot):
            family.add_metric(labels, value)
        return family


def render(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """Return the exposition of a snapshot, and its media type.

    ``accept`` is the request's Accept field: it selects OpenMetrics or, by default, the Prometheus text format 0.0.4.
    Takes about 7 µs per line: with many routes, call this in a thread (it uses nothing but its arguments).
    """
    registry = CollectorRegistry()
    registry.register(_Families(snapshot))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Family]:
        return []  # otherwise the registry would collect everything once more for the names

    def collect(self) -> Iterator[Family]:
        redis = bool(self._snapshot["cache"].get("redis"))
        return (metric.family(self._snapshot) for metric in METRICS if redis or not metric.redis)


def _of_sides(key: str) -> Callable[[Snapshot], Samples]:
    """Read a count of each side of each split."""

    def samples(snapshot: Snapshot) -> Samples:
        for route, sides in snapshot["splits"].items():
            for side, counts in sides.items():
                yield [route, side], counts[key]

    return samples


def _split_weights(snapshot: Snapshot) -> Samples:
    for route, weights in snapshot["split_weights"].items():
        for side, weight in weights.items():
            yield [route, side], weight


def _each(group: str, read: Callable[[dict[str, Any]], Samples]) -> Callable[[Snapshot], Samples]:
    """Read the samples of each route or service; ``read`` returns the samples of one of them, without its name."""

    def samples(snapshot: Snapshot) -> Samples:
        for name, values in snapshot[group].items():
            for labels, value in read(values):
                yield [name, *labels], value

    return samples


def _of_routes(read: Callable[[dict[str, Any]], Samples]) -> Callable[[Snapshot], Samples]:
    return _each("routes", read)


def _of_services(read: Callable[[dict[str, Any]], Samples]) -> Callable[[Snapshot], Samples]:
    return _each("services", read)


def _of_instances(read: Callable[[dict[str, Any]], Samples]) -> Callable[[Snapshot], Samples]:
    def samples(snapshot: Snapshot) -> Samples:
        for service, instances in snapshot["instances"].items():
            for name, values in instances["listed"].items():
                for labels, value in read(values):
                    yield [service, name, *labels], value

    return samples


def _one(*path: str) -> Callable[[Snapshot], Samples]:
    """Read the number at ``path``."""

    def samples(values: dict[str, Any]) -> Samples:
        found: Any = values
        for key in path:
            found = found[key]
        return [([], found)]

    return samples


def _by_key(key: str) -> Callable[[dict[str, Any]], Samples]:
    """Read a mapping from the values of a label to numbers."""
    return lambda values: (([name], count) for name, count in values[key].items())


def _by_two_keys(key: str) -> Callable[[dict[str, Any]], Samples]:
    return lambda values: (
        ([first, second], count) for first, counts in values[key].items() for second, count in counts.items()
    )


def _failures(values: dict[str, Any]) -> Samples:
    return (([kind, _SIDES[kind]], count) for kind, count in values["failures"].items())


def _histogram(values: dict[str, Any]) -> Samples:
    exemplars = [_exemplar(values["exemplars"].get(str(number))) for number in range(len(_BOUNDS))]
    return [([], (list(zip(_BOUNDS, accumulate(values["buckets"]), exemplars, strict=True)), values["sum"]))]


def _exemplar(found: str | None) -> Exemplar | None:
    """Return the trace of a request in a bucket, for OpenMetrics; the text format has no exemplars."""
    if found is None:
        return None
    timestamp, trace_id, seconds = found.split(" ")
    return Exemplar({"trace_id": trace_id}, float(seconds), float(timestamp))


def _breakers(values: dict[str, Any]) -> Samples:
    breaker = values["breaker"]
    return (([state], breaker.get(state, 0)) for state in _BREAKER_STATES) if breaker else ()


def _concurrency(key: str) -> Callable[[dict[str, Any]], Samples]:
    return lambda values: [([], values["concurrency"][key])] if key in values["concurrency"] else ()


def _limited(values: dict[str, Any]) -> Samples:
    return [([], values["limited"])] if values["concurrency"] else ()


def _states(values: dict[str, Any]) -> Samples:
    """Read the states of an instance; one that is gone has none."""
    states = values.get("states")
    return (([state], states.get(state, 0)) for state in _STATES) if states else ()


def _tunnels(key: str) -> Callable[[dict[str, Any]], Samples]:
    return lambda values: [([], values["tunnels"][key])]


def _alerts(key: str) -> Callable[[Snapshot], Samples]:
    return lambda snapshot: (([name], value) for name, value in snapshot["alerts"][key].items())


def _lookups(snapshot: Snapshot) -> Samples:
    redis = snapshot["cache"]["redis"]
    return [(["hit"], redis["hits"]), (["miss"], redis["misses"])]


METRICS = (
    Metric(
        "passerelle_requests_total",
        "counter",
        ("route", "method", "code"),
        "requests with a response",
        _of_routes(_by_two_keys("codes")),
    ),
    Metric(
        "passerelle_request_duration_seconds",
        "histogram",
        ("route",),
        "time from the head of a request to the last byte of its response",
        _of_routes(_histogram),
    ),
    Metric(
        "passerelle_requests_in_flight",
        "gauge",
        ("route",),
        "requests in flight",
        _of_routes(_one("in_flight")),
    ),
    Metric(
        "passerelle_request_failures_total",
        "counter",
        ("route", "kind", "side"),
        "requests that ended early: what happened, and which side is responsible",
        _of_routes(_failures),
    ),
    Metric(
        "passerelle_rate_limit_dry_run_total",
        "counter",
        ("route",),
        "requests that a rate limit with `dry_run` would have refused",
        _of_routes(_one("would_refuse")),
    ),
    Metric(
        "passerelle_forward_auth_verdicts_total",
        "counter",
        ("route", "verdict", "reason"),
        "with [`forward_auth`](forward-auth.md): requests by decision, including cached decisions: "
        "`allowed` (`2xx`), `denied` (`3xx`, `4xx`), `failed` (a [failure](access-log.md#failures), such as "
        "`timeout`; with `failure: open` these passed)",
        _of_routes(_by_two_keys("verdicts")),
    ),
    Metric(
        "passerelle_plugin_calls_total",
        "counter",
        ("plugin", "outcome"),
        "calls of a [plugin](plugins.md) by outcome: `allowed`, `refused` of guards; `changed`, `unchanged` of "
        "filters; `skipped` (a body that the filter cannot have), `error`, `timeout`, `busy` (too many at once)",
        _each("plugins", _by_key("outcomes")),
    ),
    Metric(
        "passerelle_plugin_duration_seconds",
        "histogram",
        ("plugin",),
        "duration of the calls of a plugin, with the time that they wait for a thread",
        _each("plugins", _histogram),
    ),
    Metric(
        "passerelle_shadow_requests_total",
        "counter",
        ("route", "outcome"),
        "with [`shadow`](configuration.md#shadow): sampled requests by what became of their copy: `compared`, "
        "`not_compared` (such as a response that is too long), `failed` (no response), `dropped` "
        "(more than `concurrency` allows)",
        lambda snapshot: (
            ([route, outcome], count)
            for route, values in snapshot["shadows"].items()
            for outcome, count in values["outcomes"].items()
        ),
    ),
    Metric(
        "passerelle_shadow_differing",
        "gauge",
        ("route",),
        "compared responses that differ, without noise, since the last `passerelle shadow reset`",
        lambda snapshot: (([route], values["differing"]) for route, values in snapshot["shadows"].items()),
    ),
    Metric(
        "passerelle_split_requests_total",
        "counter",
        ("route", "side"),
        "with [`split`](configuration.md#split): requests that the service `side` received, whatever the number of "
        "attempts",
        _of_sides("requests"),
    ),
    Metric(
        "passerelle_split_failed_total",
        "counter",
        ("route", "side"),
        "of these, those that ended with a 5xx response or without a complete one",
        _of_sides("failed"),
    ),
    Metric(
        "passerelle_split_failed_users_total",
        "counter",
        ("route", "side"),
        "of these, the first of each user in a minute",
        _of_sides("failed_users"),
    ),
    Metric(
        "passerelle_split_weight",
        "gauge",
        ("route", "side"),
        "share of the users of a route with `split` that a service receives, in per mille",
        _split_weights,
    ),
    Metric(
        "passerelle_requests_malformed_total",
        "counter",
        ("kind",),
        "messages that were not valid requests",
        _by_key("malformed"),
    ),
    Metric(
        "passerelle_upstream_responses_total",
        "counter",
        ("service", "code"),
        "attempts with a response",
        _of_services(_by_key("codes")),
    ),
    Metric(
        "passerelle_upstream_failures_total",
        "counter",
        ("service", "kind", "side"),
        "attempts that failed",
        _of_services(_failures),
    ),
    Metric(
        "passerelle_upstream_retries_total",
        "counter",
        ("service",),
        "attempts after the first one of a request",
        _of_services(_one("retries")),
    ),
    Metric(
        "passerelle_upstream_hedges_total",
        "counter",
        ("service", "outcome"),
        "with `hedge`: second attempts in parallel to the first: `won`, `lost`, `failed`, `cancelled` (the "
        "client disconnected, or the deadline passed); `unaffordable` counts those not sent because the "
        "budget was used up",
        _of_services(_by_key("hedges")),
    ),
    Metric(
        "passerelle_upstream_duration_seconds",
        "histogram",
        ("service",),
        "time from picking an instance to the last byte of its response, including failed attempts",
        _of_services(_histogram),
    ),
    Metric(
        "passerelle_upstream_in_flight",
        "gauge",
        ("service",),
        "attempts in flight at the instances of the service",
        _of_services(_one("in_flight")),
    ),
    Metric(
        "passerelle_upstream_breakers",
        "gauge",
        ("service", "state"),
        "workers whose circuit breaker for the service is `closed`, `open` or `half_open`; only for "
        "services with `breaker`",
        _of_services(_breakers),
    ),
    Metric(
        "passerelle_upstream_concurrency_limit",
        "gauge",
        ("service",),
        "the adaptive limit of requests whose response has not begun; only for services with `concurrency`",
        _of_services(_concurrency("limit")),
    ),
    Metric(
        "passerelle_upstream_concurrency_running",
        "gauge",
        ("service",),
        "requests that count against the limit",
        _of_services(_concurrency("running")),
    ),
    Metric(
        "passerelle_upstream_concurrency_waiting",
        "gauge",
        ("service",),
        "requests in the queue for the limit",
        _of_services(_concurrency("waiting")),
    ),
    Metric(
        "passerelle_upstream_limited_total",
        "counter",
        ("service",),
        "requests that the limit refused",
        _of_services(_limited),
    ),
    Metric(
        "passerelle_upstream_tunnels",
        "gauge",
        ("service",),
        "open tunnels (WebSockets)",
        _of_services(_tunnels("open")),
    ),
    Metric(
        "passerelle_upstream_tunnels_refused_total",
        "counter",
        ("service",),
        "requests refused with 503 because of `max_tunnels` or `client_share`",
        _of_services(_tunnels("refused")),
    ),
    Metric(
        "passerelle_instance_requests_total",
        "counter",
        ("service", "instance"),
        "attempts at an instance, including tunnels. [Series of instances](#instances)",
        _of_instances(_one("requests")),
    ),
    Metric(
        "passerelle_instance_failures_total",
        "counter",
        ("service", "instance", "kind", "side"),
        "attempts at an instance that failed; responses with `5xx` have the kind `server_error`",
        _of_instances(_failures),
    ),
    Metric(
        "passerelle_instance_in_flight",
        "gauge",
        ("service", "instance"),
        "attempts and tunnels in flight at an instance",
        _of_instances(lambda values: [([], values.get("in_flight", 0))]),
    ),
    Metric(
        "passerelle_instance_first_byte_seconds",
        "summary",
        ("service", "instance"),
        "time of ended attempts from the start of the request until the response began or the attempt failed, the "
        "waits of the next two included",
        _of_instances(lambda values: [([], (values["ended"], values["seconds"]))]),
    ),
    Metric(
        "passerelle_instance_queue_seconds_total",
        "counter",
        ("service", "instance"),
        "time that attempts have waited for a place (`max_connections`), from 20 samples a second",
        _of_instances(_one("queued")),
    ),
    Metric(
        "passerelle_instance_connect_seconds_total",
        "counter",
        ("service", "instance"),
        "time that attempts have waited for a new connection, from 20 samples a second",
        _of_instances(_one("connecting")),
    ),
    Metric(
        "passerelle_instance_state",
        "gauge",
        ("service", "instance", "state"),
        "workers for which an instance is `up`, `ejected`, `draining` or `down`",
        _of_instances(_states),
    ),
    Metric(
        "passerelle_instances_unlisted",
        "gauge",
        ("service",),
        "instances without series of their own, summed over workers: a service has more than 500",
        lambda snapshot: (([name], values["unlisted"]) for name, values in snapshot["instances"].items()),
    ),
    Metric(
        "passerelle_cache_requests_total",
        "counter",
        ("route", "outcome"),
        "requests, and parts of compositions, on cached routes: `hit`, `stale`, `miss`, `revalidated`, "
        "`coalesced`, `bypass`, `refused`",
        _of_routes(_by_key("cache")),
    ),
    Metric(
        "passerelle_cache_not_stored_total",
        "counter",
        ("route", "reason"),
        "responses on cached routes that were not stored: `vary` (`Vary: *`), `set-cookie`, `no-store`, `private`, "
        "`identity` (personal requests whose responses do not allow sharing), `request-no-store`, `no-lifetime`, "
        "`status`, `too-large`, `partial`, `stream`, `method`, `conditional`, `not-understood`",
        _of_routes(_by_key("not_stored")),
    ),
    Metric(
        "passerelle_cache_memory_bytes",
        "gauge",
        (),
        "memory of the caches, everything counted",
        _one("cache", "bytes"),
    ),
    Metric(
        "passerelle_cache_memory_limit_bytes",
        "gauge",
        (),
        "limit of that memory: `cache.memory` of each worker",
        _one("cache", "capacity_bytes"),
    ),
    Metric(
        "passerelle_cache_entries",
        "gauge",
        (),
        "entries in the caches",
        _one("cache", "entries"),
    ),
    Metric(
        "passerelle_cache_evictions_total",
        "counter",
        (),
        "entries evicted for lack of memory",
        _one("cache", "evictions"),
    ),
    Metric(
        "passerelle_cache_redis_connected",
        "gauge",
        (),
        "with `redis`: workers with a connection to it",
        _one("cache", "redis", "connected"),
        redis=True,
    ),
    Metric(
        "passerelle_cache_redis_errors_total",
        "counter",
        (),
        "Redis operations that failed or took too long",
        _one("cache", "redis", "errors"),
        redis=True,
    ),
    Metric(
        "passerelle_cache_redis_lookups_total",
        "counter",
        ("result",),
        "lookups in Redis: `hit`, `miss`",
        _lookups,
        redis=True,
    ),
    Metric(
        "passerelle_cache_redis_stores_total",
        "counter",
        (),
        "responses stored in Redis",
        _one("cache", "redis", "stores"),
        redis=True,
    ),
    Metric(
        "passerelle_connections_open",
        "gauge",
        (),
        "open client connections",
        _one("connections", "open"),
    ),
    Metric(
        "passerelle_connections_accepted_total",
        "counter",
        (),
        "accepted client connections",
        _one("connections", "accepted"),
    ),
    Metric(
        "passerelle_connections_refused_total",
        "counter",
        (),
        "refused client connections: too many (in all, or of one address), a failed TLS handshake, or a "
        "stopping gateway",
        _one("connections", "refused"),
    ),
    Metric(
        "passerelle_connections_without_descriptor_total",
        "counter",
        (),
        "client connections refused because the worker was short of file descriptors",
        _one("connections", "without_descriptor"),
    ),
    Metric(
        "passerelle_access_log_lines_total",
        "counter",
        (),
        "access log lines written",
        _one("access_log", "lines"),
    ),
    Metric(
        "passerelle_access_log_lines_dropped_total",
        "counter",
        (),
        "access log lines dropped because their destination did not accept them",
        _one("access_log", "dropped"),
    ),
    Metric(
        "passerelle_events_total",
        "counter",
        ("kind",),
        "[events](admin.md#events) of the supervisor and its workers",
        _by_key("events"),
    ),
    Metric(
        "passerelle_service_instances_wanted",
        "gauge",
        ("service",),
        "instances that the load calls for, within the range; only for services whose "
        "[`instances`](configuration.md#instances) are a range",
        lambda snapshot: (
            ([name], values["wanted"]) for name, values in snapshot["scaling"].items() if "wanted" in values
        ),
    ),
    Metric(
        "passerelle_service_scalings_total",
        "counter",
        ("service", "reason"),
        "changes of the number of instances by the load: `burst`, `load` (a lasting increase), `idle`, `bounds` "
        "(another range in the file)",
        lambda snapshot: (
            ([name, reason], count)
            for name, values in snapshot["scaling"].items()
            for reason, count in values["changes"].items()
        ),
    ),
    Metric(
        "passerelle_rollout_status",
        "gauge",
        ("route", "status"),
        "1 for what a [rollout](configuration.md#rollout) is doing: `idle`, `shadow`, `running`, `paused`, `done`, "
        "`rolled_back` or `aborted`",
        lambda snapshot: (([name, values["status"]], 1) for name, values in snapshot["rollouts"].items()),
    ),
    Metric(
        "passerelle_rollout_leads",
        "gauge",
        ("route",),
        "1 on the gateway that decides on the steps of a rollout while it is in progress, otherwise 0",
        lambda snapshot: (([name], int(values["leads"])) for name, values in snapshot["rollouts"].items()),
    ),
    Metric(
        "passerelle_rollout_changes_total",
        "counter",
        ("route", "status"),
        "steps and ends of rollouts, by what they are doing since",
        lambda snapshot: (
            ([name, status], count)
            for name, values in snapshot["rollouts"].items()
            for status, count in values["changes"].items()
        ),
    ),
    Metric(
        "passerelle_trace_spans_exported_total",
        "counter",
        (),
        "with [`tracing`](configuration.md#tracing): spans that the collector has accepted",
        _one("traces", "exported"),
    ),
    Metric(
        "passerelle_trace_spans_dropped_total",
        "counter",
        (),
        "spans that were dropped: the queue was full, or the collector did not accept them",
        _one("traces", "dropped"),
    ),
    Metric(
        "passerelle_alerts_firing",
        "gauge",
        ("alert",),
        "1 while an [alert](../how-to/alerts.md) fires, otherwise 0",
        _alerts("firing"),
    ),
    Metric(
        "passerelle_alert_deliveries_total",
        "counter",
        ("outcome",),
        "alerts for the webhook: `delivered`, `rejected` (a status that is not retried), `failed` (all attempts), "
        "`dropped` (too many waited)",
        _alerts("deliveries"),
    ),
    Metric(
        "passerelle_workers",
        "gauge",
        (),
        "gateway workers in this sum",
        _one("workers"),
    ),
    Metric(
        "passerelle_worker_cpu_seconds_total",
        "counter",
        (),
        "CPU time of the gateway workers, user and system",
        _one("cpu_seconds"),
    ),
    Metric(
        "passerelle_worker_resident_memory_bytes",
        "gauge",
        (),
        "resident memory of the gateway workers",
        _one("resident_bytes"),
    ),
)
"""All metrics, in the order of the reference page."""
