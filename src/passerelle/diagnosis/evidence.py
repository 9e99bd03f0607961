"""The evidence: the means of the last samples, with names for what the rules use.

A sample is what :mod:`passerelle.observability.live` computes and the supervisor completes. Rates are per second, times
in seconds. What was not measured is absent from a sample, and None or 0 here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Sample = Mapping[str, Any]

_TYPICAL = frozenset({"p50", "p95", "p99"})  # a mean of percentiles has no meaning: their median is used
FULL = 0.85
"""The share of a CPU, or of all threads, from which on it is the limit."""
WHOLE_TURN = 0.001
"""Seconds that a process runs at a turn, on average, if it wants more."""
_SPARSE = frozenset({"failures", "timings", "not_stored"})


@dataclass(frozen=True, slots=True)
class ProcessEvidence:
    """A process: ``cpu`` is its CPU time per second, ``wait`` the time that its threads waited for a CPU."""

    name: str
    cpu: float = 0.0
    wait: float = 0.0
    lag: float = 0.0
    switches: float = 0.0

    @property
    def wants_cpu(self) -> bool:
        """Whether it could use a whole CPU.

        A process that needs little waits for a CPU as well where others use them all. It then runs for a moment at each
        turn, where one that needs more runs until the kernel takes the CPU away.
        """
        if self.demand < FULL:
            return False
        return self.wait < 0.3 or self.cpu >= 0.6 or (self.switches > 0 and self.cpu / self.switches >= WHOLE_TURN)

    @property
    def demand(self) -> float:
        """The CPUs that it would use if it never waited for one."""
        return self.cpu + self.wait


@dataclass(frozen=True, slots=True)
class InstanceEvidence:
    """An instance. ``in_flight``, ``queued`` and ``connecting`` are mean numbers of requests, as the gateway sees them.

    ``time`` is the mean time of an attempt. ``threads`` of the application server are ``busy`` (0 to 1) with ``calls``
    per second; ``waiting`` is the mean number of requests in its queue. ``measured`` states whether the process runs
    here, so that its CPU is known.
    """

    name: str
    rate: float = 0.0
    errors: float = 0.0
    time: float | None = None
    in_flight: float = 0.0
    queued: float = 0.0
    connecting: float = 0.0
    process: ProcessEvidence = field(default_factory=lambda: ProcessEvidence(""))
    measured: bool = False
    threads: int = 0
    busy: float = 0.0
    calls: float = 0.0
    waiting: float = 0.0
    is_up: bool = True

    @property
    def service_time(self) -> float | None:
        """The mean time of a call of the application, without its queue."""
        return self.threads * self.busy / self.calls if self.calls > 0 else None


@dataclass(frozen=True, slots=True)
class ServiceEvidence:
    """A service; ``busy`` is the sum of the times of its attempts per second, which by Little's law is the number in
    flight."""

    name: str
    rate: float = 0.0
    errors: float = 0.0
    retries: float = 0.0
    busy: float = 0.0
    p95: float | None = None
    streaming: float = 0.0
    waiting: float = 0.0
    failures: Mapping[str, float] = field(default_factory=dict)
    timed: float = 0.0
    timed_seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    instances: Sequence[InstanceEvidence] = ()

    @property
    def time(self) -> float:
        """The mean time of an attempt."""
        return self.busy / self.rate if self.rate > 0 else 0.0

    @property
    def in_flight(self) -> float:
        """The mean number of requests in flight, from samples of the instances."""
        return sum(instance.in_flight for instance in self.instances)

    @property
    def up(self) -> list[InstanceEvidence]:
        """The instances that are up."""
        return [instance for instance in self.instances if instance.is_up]


@dataclass(frozen=True, slots=True)
class RouteEvidence:
    """A route with a cache, or without one (``lookups`` is 0)."""

    name: str
    rate: float = 0.0
    hits: float = 0.0
    lookups: float = 0.0
    busy: float = 0.0
    not_stored: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence of ``seconds`` seconds with ``requests`` requests.

    ``busy`` is the mean number of client requests in flight. ``paused`` is the mean number of clients that read too
    slowly. ``cpu`` is the share of the machine's CPUs in use.
    """

    seconds: float = 0.0
    requests: float = 0.0
    rate: float = 0.0
    errors: float = 0.0
    busy: float = 0.0
    p95: float | None = None
    connections: float = 0.0
    paused: float = 0.0
    cpus: int = 1
    cpu: float | None = None
    workers: Sequence[ProcessEvidence] = ()
    services: Sequence[ServiceEvidence] = ()
    routes: Sequence[RouteEvidence] = ()


def gather(samples: Sequence[Sample]) -> Evidence:
    """Return the evidence of consecutive samples, one a second. Only what the last one has is included."""
    if not samples:
        return Evidence()
    last = samples[-1]
    whole = mean(samples, last)
    total, machine = whole.get("total", {}), whole.get("machine", {})
    workers = [_process(name, values) for name, values in whole.get("workers", {}).items()]
    return Evidence(
        seconds=float(len(samples)),
        requests=total.get("requests", 0.0) * len(samples),
        rate=total.get("requests", 0.0),
        errors=total.get("errors", 0.0),
        busy=total.get("seconds", 0.0),
        p95=total.get("p95"),
        connections=total.get("connections", 0.0),
        paused=sum(values.get("paused", 0.0) for values in whole.get("workers", {}).values()),
        cpus=int(machine.get("cpus", 1)),
        cpu=machine.get("cpu"),
        workers=workers,
        services=[_service(name, values) for name, values in whole.get("services", {}).items()],
        routes=[_route(name, values) for name, values in whole.get("routes", {}).items()],
    )


def mean(samples: Sequence[Sample], last: Sample, depth: int = 0, *, sparse: bool = False) -> dict[str, Any]:
    """Return ``last`` with each number replaced by its mean over the samples that have it.

    Of a percentile, the median is taken. In the mappings of :data:`_SPARSE`, which routes and services have (``depth``
    2), what a sample has not was 0 then.
    """
    result: dict[str, Any] = {}
    extra = (key for sample in samples for key in sample if sparse or (depth == 2 and key in _SPARSE))
    for key in dict.fromkeys([*last, *extra]):
        found = [sample[key] for sample in samples if key in sample]
        value = last.get(key, found[-1])
        if isinstance(value, Mapping):
            parts = [sample.get(key, {}) for sample in samples]
            result[key] = mean(parts, value, depth + 1, sparse=sparse or (depth == 2 and key in _SPARSE))
        elif isinstance(value, bool) or not isinstance(value, int | float):
            result[key] = value
        elif key in _TYPICAL:
            result[key] = median(found)
        else:
            result[key] = sum(found) / (len(samples) if sparse else len(found))
    return result


def _process(name: str, values: Mapping[str, Any]) -> ProcessEvidence:
    return ProcessEvidence(
        name, values.get("cpu", 0.0), values.get("wait", 0.0), values.get("lag", 0.0), values.get("switches", 0.0)
    )


def _instance(name: str, values: Mapping[str, Any]) -> InstanceEvidence:
    app = values.get("app", {})
    return InstanceEvidence(
        name,
        rate=values.get("requests", 0.0),
        errors=values.get("errors", 0.0),
        time=values.get("latency"),
        in_flight=values.get("occupied", 0.0),
        queued=values.get("queued", 0.0),
        connecting=values.get("connecting", 0.0),
        process=_process(name, values),
        measured="cpu" in values,
        threads=int(app.get("threads", 0)),
        busy=app.get("busy", 0.0),
        calls=app.get("calls", 0.0),
        waiting=app.get("queued", 0.0),
        is_up=values.get("state") == "up",
    )


def _service(name: str, values: Mapping[str, Any]) -> ServiceEvidence:
    timings = values.get("timings", {})
    return ServiceEvidence(
        name,
        rate=values.get("requests", 0.0),
        errors=values.get("errors", 0.0),
        retries=values.get("retries", 0.0),
        busy=values.get("seconds", 0.0),
        p95=values.get("p95"),
        streaming=values.get("streaming", 0.0),
        waiting=values.get("waiting", 0.0),
        failures=values.get("failures", {}),
        timed=timings.get("responses", 0.0),
        timed_seconds=timings.get("seconds", 0.0),
        parts=timings.get("parts", {}),
        instances=[_instance(each, values) for each, values in values.get("instances", {}).items()],
    )


def _route(name: str, values: Mapping[str, Any]) -> RouteEvidence:
    return RouteEvidence(
        name,
        rate=values.get("requests", 0.0),
        hits=values.get("hits", 0.0),
        lookups=values.get("lookups", 0.0),
        busy=values.get("seconds", 0.0),
        not_stored=values.get("not_stored", {}),
    )
