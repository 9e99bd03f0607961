"""Counters that the hot path updates as plain integers, and snapshots of them for scrapes.

Counting a request takes one dict increment, one bisection and one addition: about 0.25 µs. Names, labels and text are
produced at a scrape; see :mod:`passerelle.observability.prometheus`. There are no locks: one event loop writes and
reads a registry. The file is longer than 400 lines because all that is counted is in it.

Label values come from closed sets only: the configured pattern of a route, the name of a service, a registered HTTP
method, a status code from 100 to 599, a failure's kind. A path, an address or a field value is never a label, so
clients cannot create series.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from passerelle.errors import Kind
from passerelle.observability.server_timing import ServerTimings

Snapshot = dict[str, Any]

# Upper bounds in seconds, inclusive (Prometheus's "le"). The resolution is finest below 10 ms, the typical range of a
# gateway; the last bounds separate a slow upstream (10 s) from the default deadline of a route (30 s).
BUCKETS: tuple[float, ...] = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)

# The "route" of requests that matched no route. Configured patterns start with "/", so the names cannot collide.
UNMATCHED = "unmatched"

# RFC 9110 §9.3 and RFC 5789. All other methods are counted as OTHER, since clients may invent any number of them.
METHODS: frozenset[bytes] = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"}
)
OTHER = "other"

# Keys of a snapshot that describe a current state instead of counting events: they end with the process.
GAUGES: frozenset[str] = frozenset(
    {"in_flight", "open", "workers", "resident_bytes", "bytes", "capacity_bytes", "connected", "entries"}
    | {"closed", "half_open", "limit", "running", "waiting"}
    | {"up", "ejected", "draining", "down", "unlisted", "differing"}
)

MOST_LIVE = 500  # routes in one result of Metrics.live()

_PAGE = os.sysconf("SC_PAGE_SIZE")


class RouteMetrics:
    """Metrics of one route, from the clients' perspective. ``in_flight`` is updated by the exchange.

    ``cache`` counts requests (and parts) on a cached route by outcome, ``not_stored`` the responses that the cache did
    not store by reason; the cache updates both.
    """

    __slots__ = (
        "_buckets",
        "_counts",
        "_failures",
        "_hits",
        "_sum",
        "_verdicts",
        "cache",
        "exemplars",
        "in_flight",
        "not_stored",
        "route",
        "would_refuse",
    )

    def __init__(self, route: str) -> None:
        self.route = route
        self.cache: dict[str, int] = {}
        self.exemplars: dict[str, str] = {}
        self.in_flight = 0
        self.not_stored: dict[str, int] = {}
        self.would_refuse = 0  # refused by limits with dry_run
        self._counts: dict[tuple[bytes | str, int | str], int] = {}
        self._failures: dict[Kind, int] = {}
        self._hits: dict[int, int] = {}
        self._verdicts: dict[tuple[str, str], int] = {}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def hit(self, status: int, seconds: float) -> None:
        """Count a GET served from the cache: :meth:`observe` and the outcome ``hit``, in half the time."""
        try:
            self._hits[status] += 1
        except KeyError:
            self._hits[status] = 1
        if seconds <= BUCKETS[0]:
            self._buckets[0] += 1
        else:
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def observe(self, status: int, seconds: float, method: bytes = b"GET") -> None:
        """Count a finished request: its final status, its duration in seconds, its method."""
        try:
            self._counts[method, status] += 1
        except KeyError:
            self._count_rare(method, status)
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def count_failure(self, kind: Kind) -> None:
        """Count a failure that ended a request early, in addition to :meth:`observe`."""
        self._failures[kind] = self._failures.get(kind, 0) + 1

    def remember_exemplar(self, trace_id: bytes, seconds: float) -> None:
        """Remember the recorded trace of a request with this duration, the last one for each bucket."""
        _remember(self.exemplars, trace_id, seconds)

    def verdict(self, verdict: str, reason: str) -> None:
        """Count a verdict of ``forward_auth``: ``allowed`` or ``denied`` with the status class of the service's
        response."""
        key = verdict, reason
        self._verdicts[key] = self._verdicts.get(key, 0) + 1

    @property
    def mark(self) -> object:
        """A value that changes with the counters of :meth:`live`."""
        return self._sum, self.in_flight, self.would_refuse

    def live(self) -> Snapshot:
        """Return the few sums that a live view needs."""
        hits = sum(self._hits.values())
        known = sum(count for (_, status), count in self._counts.items() if isinstance(status, int) and status >= 500)
        return {
            "requests": sum(self._buckets),
            "errors": known,
            "limited": self._failures.get(Kind.RATE_LIMITED, 0),
            "hits": hits + self.cache.get("hit", 0),
            "lookups": hits + sum(self.cache.values()),
            "in_flight": self.in_flight,
            "seconds": self._sum,
            "not_stored": dict(self.not_stored),
            "buckets": list(self._buckets),
        }

    def _count_rare(self, method: bytes, status: int) -> None:
        key = (method if method in METHODS else OTHER, _known(status))
        self._counts[key] = self._counts.get(key, 0) + 1

    def snapshot(self) -> Snapshot:
        """Return the counters as JSON-able values."""
        codes: dict[str, dict[str, int]] = {}
        for (method, status), count in self._counts.items():
            name = method if isinstance(method, str) else method.decode("ascii")
            codes.setdefault(name, {})[str(status)] = count
        cache = dict(self.cache)
        for status, count in self._hits.items():
            gets, known = codes.setdefault("GET", {}), str(_known(status))
            gets[known] = gets.get(known, 0) + count
            cache["hit"] = cache.get("hit", 0) + count
        verdicts: dict[str, dict[str, int]] = {}
        for (verdict, reason), count in self._verdicts.items():
            verdicts.setdefault(verdict, {})[reason] = count
        return {
            "codes": codes,
            "failures": {kind.value: count for kind, count in self._failures.items()},
            "buckets": list(self._buckets),
            "sum": self._sum,
            "in_flight": self.in_flight,
            "cache": cache,
            "not_stored": dict(self.not_stored),
            "would_refuse": self.would_refuse,
            "verdicts": verdicts,
            "exemplars": dict(self.exemplars),
        }


class ServiceMetrics:
    """Metrics of one service. Every attempt ends in exactly one call of :meth:`observe` or :meth:`count_failure`.

    ``in_flight`` is read at a scrape from the balancer's own counters. So are ``breaker``, the state of the circuit
    breaker, and ``concurrency``, the adaptive limit with its running and waiting requests; both are None if not
    configured. ``limited`` counts requests that the adaptive limit refused. ``tunnels`` returns the number of tunnels,
    and of requests refused because there were too many. ``streaming`` is the integral of the number of responses whose
    body is in flight over time, and ``timings`` what the service reports about itself, both from samples.
    """

    __slots__ = (
        "_buckets",
        "_codes",
        "_failures",
        "_sum",
        "breaker",
        "concurrency",
        "exemplars",
        "hedges",
        "in_flight",
        "limited",
        "retries",
        "service",
        "streaming",
        "timings",
        "tunnels",
    )

    def __init__(self, service: str, in_flight: Callable[[], int]) -> None:
        self.service = service
        self.in_flight = in_flight
        self.breaker: Callable[[], str | None] = lambda: None
        self.concurrency: Callable[[], dict[str, int] | None] = lambda: None
        self.exemplars: dict[str, str] = {}
        self.hedges: dict[str, int] = {}
        self.tunnels: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.limited = 0
        self.retries = 0
        self.streaming = 0.0
        self.timings = ServerTimings()
        self._codes: dict[int | str, int] = {}
        self._failures: dict[Kind, int] = {}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    @property
    def attempts(self) -> int:
        """Return the number of attempts that have ended, with a response or a failure."""
        return sum(self._buckets)

    @property
    def mean(self) -> float:
        """Return the mean duration of an attempt in seconds; 0 before the first."""
        return self._sum / attempts if (attempts := self.attempts) else 0.0

    def observe(self, status: int, seconds: float) -> None:
        """Count an attempt with a response, and its seconds from picking an instance to the last byte received."""
        try:
            self._codes[status] += 1
        except KeyError:
            key = _known(status)
            self._codes[key] = self._codes.get(key, 0) + 1
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def count_failure(self, kind: Kind, seconds: float) -> None:
        """Count a failed attempt after ``seconds``; the histogram includes it, so that timeouts are visible."""
        self._failures[kind] = self._failures.get(kind, 0) + 1
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    @property
    def mark(self) -> object:
        """A value that changes with the counters of :meth:`live`."""
        return self._sum, self.in_flight(), self.retries, self.limited, self.breaker(), self.concurrency()

    def live(self) -> Snapshot:
        """Return the few sums that a live view needs."""
        failed = sum(count for status, count in self._codes.items() if isinstance(status, int) and status >= 500)
        return {
            "requests": self.attempts,
            "errors": failed + sum(self._failures.values()),
            "retries": self.retries,
            "limited": self.limited,
            "in_flight": self.in_flight(),
            "seconds": self._sum,
            "streaming": self.streaming,
            "failures": {kind.value: count for kind, count in self._failures.items()},
            "timings": self.timings.live(),
            "breaker": self.breaker(),
            **(self.concurrency() or {}),
            "buckets": list(self._buckets),
        }

    def remember_exemplar(self, trace_id: bytes, seconds: float) -> None:
        """Remember the recorded trace of an attempt with this duration, the last one for each bucket."""
        _remember(self.exemplars, trace_id, seconds)

    def hedge(self, outcome: str) -> None:
        """Count a hedge by outcome. A hedge that lost or was cancelled is not counted as an attempt."""
        self.hedges[outcome] = self.hedges.get(outcome, 0) + 1

    def snapshot(self) -> Snapshot:
        """Return the counters as JSON-able values."""
        return {
            "codes": {str(status): count for status, count in self._codes.items()},
            "failures": {kind.value: count for kind, count in self._failures.items()},
            "buckets": list(self._buckets),
            "sum": self._sum,
            "retries": self.retries,
            "in_flight": self.in_flight(),
            "breaker": {state: 1} if (state := self.breaker()) is not None else {},
            "concurrency": self.concurrency() or {},
            "hedges": dict(self.hedges),
            "limited": self.limited,
            "tunnels": dict(zip(("open", "refused"), self.tunnels(), strict=True)),
            "exemplars": dict(self.exemplars),
        }


class PluginMetrics:
    """Metrics of one plugin: its calls by outcome, and their durations."""

    __slots__ = ("_buckets", "_outcomes", "_sum")

    def __init__(self) -> None:
        self._outcomes: dict[str, int] = {}
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def count(self, outcome: str) -> None:
        """Count the outcome of a call."""
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1

    def observe(self, seconds: float) -> None:
        """Count a call that took ``seconds``, with the time that it waited for a thread."""
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def snapshot(self) -> Snapshot:
        """Return the counters as JSON-able values."""
        values = {"outcomes": dict(self._outcomes), "buckets": list(self._buckets), "sum": self._sum}
        return {**values, "exemplars": {}}


def no_cache() -> Snapshot:
    """Return the snapshot of an absent cache."""
    return {"bytes": 0, "capacity_bytes": 0, "entries": 0, "evictions": 0}


class Metrics:
    """Metrics of one gateway worker.

    The attributes ``connections_…`` count client connections and are updated by the server. At a scrape, ``access_log``
    returns the lines written and dropped, ``traces`` the spans exported and dropped, ``cache`` the size of the cache.
    """

    def __init__(self) -> None:
        self.connections_open = 0
        self.connections_accepted = 0
        self.connections_refused = 0
        self.connections_without_descriptor = 0
        self.access_log: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.traces: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.cache: Callable[[], Snapshot] = no_cache
        self._malformed: dict[Kind, int] = {}
        self._plugins: dict[str, PluginMetrics] = {}
        self._routes: dict[str, RouteMetrics] = {}
        self._services: dict[str, ServiceMetrics] = {}
        self._turn = 0  # the place of the route with which the next live() begins
        self._marks: dict[RouteMetrics | ServiceMetrics, object] = {}

    def route(self, name: str) -> RouteMetrics:
        """Return the metrics of a route, by its configured pattern: the same object after a reload."""
        found = self._routes.get(name)
        if found is None:
            found = self._routes[name] = RouteMetrics(name)
        return found

    def service(self, name: str, in_flight: Callable[[], int]) -> ServiceMetrics:
        """Return the metrics of a service. After a reload the counters are kept and the gauge uses the new callable."""
        found = self._services.get(name)
        if found is None:
            found = self._services[name] = ServiceMetrics(name, in_flight)
        found.in_flight = in_flight
        return found

    def plugin(self, name: str) -> PluginMetrics:
        """Return the metrics of a plugin: the same object after a reload."""
        return self._plugins.setdefault(name, PluginMetrics())

    def malformed(self, kind: Kind) -> None:
        """Count a message that was not a valid request (bad framing, head too large, head timeout)."""
        self._malformed[kind] = self._malformed.get(kind, 0) + 1

    def snapshot(self) -> Snapshot:
        """Return every counter as JSON-able values; routes without requests are left out."""
        lines, dropped = self.access_log()
        exported, lost = self.traces()
        return {
            "workers": 1,
            "cpu_seconds": time.process_time(),
            "resident_bytes": _resident_bytes(),
            "connections": {
                "open": self.connections_open,
                "accepted": self.connections_accepted,
                "refused": self.connections_refused,
                "without_descriptor": self.connections_without_descriptor,
            },
            "malformed": {kind.value: count for kind, count in self._malformed.items()},
            "access_log": {"lines": lines, "dropped": dropped},
            "traces": {"exported": exported, "dropped": lost},
            "cache": self.cache(),
            "routes": {r.route: r.snapshot() for r in self._routes.values() if r.in_flight or any(r._buckets)},
            "services": {s.service: s.snapshot() for s in self._services.values()},
            "plugins": {name: plugin.snapshot() for name, plugin in self._plugins.items()},
            "instances": {},
            "splits": {},
            "shadows": {},
            "split_weights": {},
            "events": {},
            "scaling": {},
            "rollouts": {},
            "alerts": {"firing": {}, "deliveries": {}},
        }

    def live(self, *, full: bool) -> Snapshot:
        """Return the sums for a live view, of the routes and services whose sums have changed since the last call.

        With ``full``, those that have not changed are returned as well: the result of the last call was lost. At most
        :data:`MOST_LIVE` routes are returned, and others by the next calls in turn: a call takes a few milliseconds.
        """
        if full:
            self._marks.clear()
        routes = list(self._routes.values())
        self._turn %= len(routes) or 1
        in_turn = enumerate([*routes[self._turn :], *routes[: self._turn]], self._turn)
        found = list(islice(((place, route) for place, route in in_turn if self._has_changed(route)), MOST_LIVE))
        if len(found) == MOST_LIVE:
            self._turn = found[-1][0] + 1
        return {
            "routes": {route.route: route.live() for _, route in found},
            "services": {s.service: s.live() for s in self._services.values() if self._has_changed(s)},
            "process": {
                "cpu": time.process_time(),
                "memory": _resident_bytes(),
                "connections": self.connections_open,
            },
        }

    def _has_changed(self, part: RouteMetrics | ServiceMetrics) -> bool:
        mark = part.mark
        if self._marks.get(part) == mark:
            return False
        self._marks[part] = mark
        return True


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Sum the snapshots of several workers, by key. The sum of none is the empty snapshot.

    Raises ValueError if two snapshots have different structures (different histogram bounds, for example).
    """
    total = Metrics().snapshot() | {"workers": 0, "cpu_seconds": 0.0, "resident_bytes": 0}
    for snapshot in snapshots:
        total = _add(total, snapshot)
    return total


def retired(snapshot: Snapshot) -> Snapshot:
    """Set the gauges to zero in the last snapshot of a worker that has ended.

    The sum over workers keeps including this snapshot: a counter that decreased would look like a restart of the whole
    gateway, and ``rate()`` would show a burst of requests that never happened.
    """
    return {
        key: (retired(value) if isinstance(value, dict) else 0 if key in GAUGES else value)
        for key, value in snapshot.items()
    }


def with_instances_of(snapshot: Snapshot, others: Iterable[Snapshot]) -> Snapshot:
    """Return ``snapshot`` with those instances alone that one of ``others`` lists.

    Snapshots of workers that have ended list instances that have long been gone.
    """
    listed: dict[str, set[str]] = {}
    for other in others:
        for service, found in other["instances"].items():
            listed.setdefault(service, set()).update(found["listed"])
    kept = {
        service: {**found, "listed": {name: c for name, c in found["listed"].items() if name in listed[service]}}
        for service, found in snapshot["instances"].items()
        if service in listed
    }
    return {**snapshot, "instances": kept}


def _add(a: Any, b: Any) -> Any:
    if isinstance(a, dict) and isinstance(b, dict):
        return {**a, **{key: _add(a[key], value) if key in a else value for key, value in b.items()}}
    if isinstance(a, list) and isinstance(b, list):
        return [_add(x, y) for x, y in zip(a, b, strict=True)]
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a + b
    if isinstance(a, str) and isinstance(b, str):
        return max(a, b)  # exemplars begin with their time: the newer one
    raise ValueError(f"snapshots of different forms: {a!r} and {b!r}")


def _remember(exemplars: dict[str, str], trace_id: bytes, seconds: float) -> None:
    key = str(bisect_left(BUCKETS, seconds))
    exemplars[key] = f"{time.time():.3f} {trace_id.decode('ascii')} {seconds:.6f}"


def _known(status: int) -> int | str:
    return status if 100 <= status <= 599 else OTHER


def _resident_bytes() -> int:
    """Return the resident memory of this process in bytes; 0 without /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
