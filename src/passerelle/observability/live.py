"""Rates and percentiles of the last second, and their history, from readings of the workers' counters.

Everything here is a pure function of its arguments, or keeps bounded state and no clock. A *reading* has the counters
of one worker since its start (:meth:`passerelle.gateway.gateway.Gateway.live`); entries that have not changed since
the last reading may be left out. A *sample* is a nested mapping with the values of one second, in which an absent key
means that there is no value: a percentile of no requests, for example.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import isnan, nan
from typing import Any

from passerelle.observability.metrics import BUCKETS

Counters = dict[str, Any]
Sample = dict[str, Any]

MOST_ROUTES = 200  # routes with values of their own; all others are summed up as OTHER
OTHER = "other"
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

# Keys of counters that describe the current state; all other numbers increase and are converted to rates.
GAUGES = frozenset({"in_flight", "limit", "running", "waiting"})
_PROCESS_COUNTERS = ("cpu", "paused")
_BREAKERS = ("closed", "half_open", "open")  # the worst last

HISTORY_SECONDS = 600
MOST_COLUMNS = 5000
# The values of a sample that the history keeps.
HISTORY = frozenset(
    {"requests", "errors", "limited", "hits", "lookups", "retries", "in_flight", "latency", "connections"}
    | {*PERCENTILES, "cpu", "lag", "memory", "limit", "running", "waiting", "wait", "busy", "queued"}
)

# Values of services that it keeps, but not those of their instances.
HISTORY_OF_SERVICES = frozenset({"occupied", "up"})

# Mappings of routes and services that the history does not keep: services and failures choose their keys.
_WITHOUT_HISTORY = frozenset({"failures", "timings", "not_stored"})


def quantile(buckets: Sequence[float], q: float, bounds: Sequence[float] = BUCKETS) -> float | None:
    """Return the ``q``-quantile (0 to 1) of a histogram in seconds, or None if it is empty.

    ``buckets`` has the counts of the intervals that end at ``bounds``, and of everything above. Values are taken to be
    spread evenly over their interval, as Prometheus does; the result is at most the last bound.
    """
    total = sum(buckets)
    if total <= 0:
        return None
    rank = q * total
    below = 0.0
    for index, reached in enumerate(accumulate(buckets)):
        if reached >= rank and buckets[index]:
            if index >= len(bounds):
                break
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * max(0.0, rank - below) / buckets[index]
        below = reached
    return bounds[-1]


def difference(after: Counters, before: Counters | None, seconds: float) -> Counters:
    """Return the rates per second between two values of the same counters; gauges and ``buckets`` are not divided.

    Counters that have decreased belong to a new process and are counted from zero.
    """
    before = before or {}
    if any(_decreased(value, before.get(key)) for key, value in after.items() if key not in GAUGES):
        before = {}
    result: Counters = {}
    for key, value in after.items():
        known = before.get(key)
        if isinstance(value, dict):
            result[key] = difference(value, known, seconds)
        elif isinstance(value, list):
            result[key] = value if known is None else [now - then for now, then in zip(value, known, strict=True)]
        elif key in GAUGES or not isinstance(value, int | float):
            result[key] = value
        else:
            result[key] = (value - (known or 0)) / seconds
    return result


def _decreased(value: Any, known: Any) -> bool:
    if known is None:
        return False
    if isinstance(value, dict):
        return any(_decreased(part, known.get(key)) for key, part in value.items())
    if isinstance(value, list):
        return any(now < then for now, then in zip(value, known, strict=True))
    return isinstance(value, int | float) and value < known


def total(parts: Iterable[Counters]) -> Counters:
    """Sum up the rates of several workers or routes. Of circuit breakers, the worst state counts."""
    result: Counters = {}
    for part in parts:
        for key, value in part.items():
            known = result.get(key)
            if known is None:
                result[key] = value
            elif isinstance(value, dict):
                result[key] = total([known, value])
            elif isinstance(value, list):
                result[key] = [a + b for a, b in zip(known, value, strict=True)]
            elif isinstance(value, str):
                result[key] = max(known, value, key=_BREAKERS.index)
            elif value is not None:
                result[key] = known + value
    return result


def summary(counters: Counters) -> Sample:
    """Return rates with the percentiles of their histogram in place of its buckets."""
    result = _rounded_counters({key: value for key, value in counters.items() if key != "buckets"})
    for name, q in PERCENTILES.items():
        value = quantile(counters.get("buckets", ()), q)
        if value is not None:
            result[name] = rounded(value)
    return result


def _rounded_counters(counters: Counters) -> Sample:
    """Round all numbers. What is absent or zero within a mapping is left out, and so is an empty mapping."""
    result: Sample = {}
    for key, value in counters.items():
        if isinstance(value, dict):
            if inner := _rounded_counters({name: part for name, part in value.items() if part}):
                result[key] = inner
        elif value is not None:
            result[key] = rounded(value)
    return result


def rounded(value: Any) -> Any:
    """Round a float to four significant digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


class _WorkerHistory:
    """The last counters of one process of a worker."""

    def __init__(self, pid: int, at: float) -> None:
        self.pid = pid
        self.at = at
        self.routes: dict[str, Counters] = {}
        self.services: dict[str, Counters] = {}
        self.instances: dict[tuple[str, str], Counters] = {}
        self.rates: dict[str, float] = {}  # the counters of the process


class LiveSample:
    """Computes samples from readings. Call :meth:`add` for each worker, then :meth:`finish` once a second."""

    def __init__(self) -> None:
        self._workers: dict[str, _WorkerHistory] = {}
        self._named: dict[str, None] = {}  # the routes with values of their own, in order of their first request
        self._routes: dict[str, list[Counters]] = {}
        self._services: dict[str, list[Counters]] = {}
        self._instances: dict[tuple[str, str], list[Counters]] = {}
        self._processes: dict[str, Sample] = {}
        self._connections = 0

    def add(self, worker: str, pid: int, at: float, reading: Mapping[str, Any]) -> None:
        """Add a reading of ``worker``, made at ``at`` (seconds of a monotonic clock) by the process ``pid``."""
        last = self._workers.get(worker)
        if last is None or last.pid != pid:
            # A new process: its counters began at zero, within the last second.
            last = self._workers[worker] = _WorkerHistory(pid, at - 1.0)
        seconds = max(at - last.at, 0.001)
        last.at = at
        for known, found, target in (
            (last.routes, reading["routes"], self._routes),
            (last.services, reading["services"], self._services),
        ):
            for name, counters in found.items():
                target.setdefault(name, []).append(difference(counters, known.get(name), seconds))
                known[name] = counters
        current = {
            (service, name): counters
            for service, instances in reading["instances"].items()
            for name, counters in instances.items()
        }
        for key, counters in current.items():
            self._instances.setdefault(key, []).append(difference(counters, last.instances.get(key), seconds))
        last.instances = current
        process = reading["process"]
        self._connections += process["connections"]
        values = {key: value for key, value in process.items() if key not in _PROCESS_COUNTERS}
        self._processes[worker] = values
        counted = {key: process[key] for key in _PROCESS_COUNTERS if key in process}
        if last.rates:
            values.update(difference(counted, last.rates, seconds))
        last.rates = counted

    def forget(self, worker: str) -> None:
        """Remove a worker whose process has ended: its requests in flight have ended with it."""
        self._workers.pop(worker, None)

    def finish(self, when: float, services_of_routes: Mapping[str, str]) -> Sample:
        """Return the sample of the readings since the last call; ``when`` is the time in seconds since 1970.

        ``services_of_routes`` has the service of each route that forwards to one, for the hit ratio of services.
        """
        for name, parts in self._routes.items():
            if name not in self._named and len(self._named) < MOST_ROUTES and any(part["requests"] for part in parts):
                self._named[name] = None
        routes: dict[str, list[Counters]] = {name: self._routes.pop(name, []) for name in self._named}
        if len(self._named) == MOST_ROUTES and self._routes:
            routes[OTHER] = [part for parts in self._routes.values() for part in parts]
        services = {name: self._services.get(name, []) for name in self._known_services()}
        summed = {name: self._with_gauges(name, parts) for name, parts in routes.items()}
        everything = total([_ZERO_ROUTE, *summed.values()])
        sample: Sample = {
            "time": rounded_time(when),
            "total": {**summary(everything), "connections": self._connections},
            "routes": {name: summary(counters) for name, counters in summed.items()},
            "services": {},
            "workers": {name: {k: rounded(v) for k, v in values.items()} for name, values in self._processes.items()},
        }
        cached = self._hits(summed, services_of_routes)
        for name, parts in services.items():
            counters = total([_ZERO_SERVICE, *parts])
            counters.update(self._gauges(name, "services"))
            sample["services"][name] = {**summary(counters), **cached.get(name, {}), "instances": {}}
        for (service, name), parts in self._instances.items():
            if service in sample["services"]:
                values = sample["services"][service]
                values["instances"][name] = found = _instance(total(parts))
                values["occupied"] = rounded(values.get("occupied", 0.0) + found.get("occupied", 0.0))
        self._routes, self._services, self._instances = {}, {}, {}
        self._processes, self._connections = {}, 0
        return sample

    def _known_services(self) -> list[str]:
        return list(dict.fromkeys(name for worker in self._workers.values() for name in worker.services))

    def _with_gauges(self, name: str, parts: list[Counters]) -> Counters:
        counters = total([_ZERO_ROUTE, *parts])
        if name != OTHER:
            counters.update(self._gauges(name, "routes"))
        return counters

    def _gauges(self, name: str, group: str) -> Counters:
        """Sum up the gauges of a route or service over the workers; a reading without it has not changed them."""
        known = [getattr(worker, group).get(name, {}) for worker in self._workers.values()]
        return total(
            {key: value for key, value in counters.items() if key in GAUGES or key == "breaker"} for counters in known
        )

    @staticmethod
    def _hits(routes: Mapping[str, Counters], services_of_routes: Mapping[str, str]) -> dict[str, Sample]:
        """Sum up the cache lookups of the routes of each service."""
        found: dict[str, list[Counters]] = {}
        for name, counters in routes.items():
            service = services_of_routes.get(name)
            if service is not None:
                found.setdefault(service, []).append({key: counters[key] for key in ("hits", "lookups")})
        return {name: {key: rounded(value) for key, value in total(parts).items()} for name, parts in found.items()}


_ZERO_ROUTE: Counters = {"requests": 0.0, "errors": 0.0, "limited": 0.0, "hits": 0.0, "lookups": 0.0, "in_flight": 0}
_ZERO_SERVICE: Counters = {"requests": 0.0, "errors": 0.0, "retries": 0.0, "limited": 0.0, "in_flight": 0}


def _instance(counters: Counters) -> Sample:
    """Return the values of an instance; ``latency`` is the mean time of the attempts that have ended."""
    ended, seconds = counters.pop("ended"), counters.pop("seconds")
    result = {key: rounded(value) for key, value in counters.items()}
    if ended > 0:
        result["latency"] = rounded(seconds / ended)
    return result


def rounded_time(seconds: float) -> float:
    """Round a time to milliseconds."""
    return round(seconds, 3)


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7396) that converts ``before`` to ``after``; None removes a member."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        known = before.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            if inner := merge_patch(known, value):
                patch[key] = inner
        elif value != known:
            patch[key] = value
    return patch


class History:
    """The values of the last ``seconds`` samples, a column for each value, in arrays of fixed size.

    At most ``most`` values are kept. Those that had no value for the whole time are forgotten, and make room.
    """

    def __init__(self, seconds: int = HISTORY_SECONDS, most: int = MOST_COLUMNS) -> None:
        self._size = seconds
        self._most = most
        self._times = array("d", [nan]) * seconds
        self._columns: dict[tuple[str, ...], array[float]] = {}
        self._seen: dict[tuple[str, ...], int] = {}  # the number of the last sample with a value
        self._number = 0

    @property
    def columns(self) -> int:
        """The number of values that are kept."""
        return len(self._columns)

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        number, place = self._number, self._number % self._size
        self._number += 1
        self._times[place] = sample["time"]
        for column in self._columns.values():
            column[place] = nan
        for path, value in _numbers(sample, ()):
            found = self._columns.get(path) or self._new_column(path, number)
            if found is not None:
                found[place] = value
                self._seen[path] = number
        if place == 0:
            self._forget(number)

    def _new_column(self, path: tuple[str, ...], number: int) -> array[float] | None:
        if len(self._columns) >= self._most:
            self._forget(number)
            if len(self._columns) >= self._most:
                return None
        column = self._columns[path] = array("d", [nan]) * self._size
        return column

    def _forget(self, number: int) -> None:
        for path, seen in list(self._seen.items()):
            if seen <= number - self._size:
                del self._columns[path], self._seen[path]

    def last(self, seconds: int) -> dict[str, Any]:
        """Return the last ``seconds`` samples: ``times``, and a list of values in the place of each value of a sample.

        A time without a value has None.
        """
        count = max(0, min(seconds, self._number, self._size))
        places = [(self._number - count + index) % self._size for index in range(count)]
        result: dict[str, Any] = {"times": [self._times[place] for place in places]}
        for path, column in self._columns.items():
            values = [None if isnan(value := column[place]) else value for place in places]
            if any(value is not None for value in values):
                node = result
                for step in path[:-1]:
                    node = node.setdefault(step, {})
                node[path[-1]] = values
        return result


def _numbers(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    for key, value in node.items():
        if key in _WITHOUT_HISTORY and len(path) == 2:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, (*path, key))
        elif not path or not isinstance(value, int | float):
            continue
        elif key in HISTORY or (key in HISTORY_OF_SERVICES and len(path) == 2):
            yield (*path, key), float(value)
