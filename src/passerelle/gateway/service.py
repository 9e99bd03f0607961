"""A service as the gateway uses it: its node, its instances with their pools, its counters, what it lets be retried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from passerelle.balancing.breaker import Breaker
from passerelle.balancing.health import suspicious
from passerelle.balancing.instance import Instance, Member, Roster, Status, set_status, set_weight
from passerelle.balancing.policies import Node, Policy
from passerelle.balancing.retries import RetryBudget
from passerelle.balancing.sticky import Sticky
from passerelle.balancing.tiers import Tiers
from passerelle.gateway.keys import KeyOf
from passerelle.http1.clock import Clock
from passerelle.http1.pool import Pool
from passerelle.http1.tls import UpstreamTls
from passerelle.messages import IDEMPOTENT_METHODS
from passerelle.observability.metrics import ServiceMetrics

if TYPE_CHECKING:
    from passerelle.gateway.forward import Forward
    from passerelle.gateway.limiting import Limiter


Leaf = Policy | Tiers
"""What instances go to."""


class RetryRules(NamedTuple):
    """What may be sent again after it was sent, after which answers, and how soon (seconds)."""

    methods: frozenset[bytes] = IDEMPOTENT_METHODS
    statuses: frozenset[int] = frozenset()
    base: float = 0.025
    most: float = 1.0


class StickyCookie(NamedTuple):
    """The cookie that keeps a client at its instance."""

    name: bytes
    node: Sticky


class Service:
    """``node`` picks; every instance's ``endpoint`` is a :class:`Pool`. ``streaming`` are the answers under way.

    ``started`` counts requests for the retry budget: a plain addition a request, read only when a retry is wanted.
    It stays the same object over reloads; what it refers to is replaced.
    """

    __slots__ = (
        "_counted",
        "_crowded",
        "breaker",
        "budget",
        "cookie",
        "eject_after",
        "key",
        "limiter",
        "metrics",
        "name",
        "node",
        "report",
        "retries",
        "started",
        "streaming",
        "watched",
    )

    def __init__(self, name: str, node: Node, metrics: ServiceMetrics) -> None:
        self.name = name
        self.node = node
        self.metrics = metrics
        self.streaming: set[Forward] = set()
        self.breaker: Breaker | None = None
        self.limiter: Limiter | None = None
        self.budget = RetryBudget()
        self.retries = RetryRules()
        self.key: KeyOf | None = None
        self.cookie: StickyCookie | None = None
        self.eject_after = 0  # failures in a row; 0 is never
        self.report: Callable[[str, str, str], None] = _nobody  # event, service, instance
        self.watched = False  # somebody tells which instances are gone
        self.started = 0
        self._counted = 0  # of `started`, in the budget
        self._crowded = -inf  # when that was last told

    def breaker_state(self) -> str | None:
        """The name of its circuit breaker's state; None without one."""
        return self.breaker.state.value if self.breaker is not None else None

    def concurrency(self) -> dict[str, int] | None:
        """Its adaptive limit, and how many run under it and wait for it; None without one."""
        return self.limiter.told() if self.limiter is not None else None

    def told(self) -> dict[str, Any]:
        """What is known of it beside its instances, as JSON-able values."""
        return {"breaker": self.breaker_state(), "concurrency": self.concurrency()}

    def failed(self, instance: Instance) -> None:
        """A failure of ``instance`` was just counted."""
        if self.eject_after and suspicious(instance, self.eject_after):
            self.report("misbehaved", self.name, instance.identity)

    def crowded(self) -> None:
        """A request was refused because its instance is full. Told once a second: there may be thousands."""
        now = perf_counter()
        if now - self._crowded >= 1.0:
            self._crowded = now
            self.report("crowded", self.name, "")

    def count(self, now: float) -> None:
        """Let the budget know of the requests since the last time (``now`` in seconds)."""
        if self.started != self._counted:
            self.budget.request(now, self.started - self._counted)
            self._counted = self.started

    def may_hedge(self, now: float) -> bool:
        """Take a hedge out of the budget; False when that would leave less than half of it to retries."""
        self.count(now)
        return self.budget.withdraw(now, 0.5)

    def may_retry(self, now: float) -> bool:
        """Take a retry out of the budget; False when there is none left."""
        self.count(now)
        return self.budget.withdraw(now)


def _nobody(event: str, service: str, instance: str) -> None:
    """Nobody decides about health."""


class InstanceSpec(NamedTuple):
    """One instance as the runner, a target list or discovery knows it.

    ``status`` is the name of a :class:`Status`; ``share`` is the part of its weight that counts now.
    """

    name: str
    host: str
    port: int
    weight: float = 1.0
    zone: str = ""
    status: str = "UP"
    share: float = 1.0
    secure: bool = False  # to be asked over TLS
    tier: int = 0  # lower ones take everything while one is up, where priorities are found (SRV)


class PoolSettings(NamedTuple):
    """What every pool of a service is made with: counts per instance, times in seconds."""

    limit: int
    waiting_limit: int
    connect_timeout: float
    keepalive: float
    tls: UpstreamTls | None = None


class Members:
    """The instances of one service over time: keeps each one's state and pool while it stays."""

    __slots__ = ("_clock", "_leaves", "_loop", "_roster", "_settings")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        leaves: Mapping[str, Leaf],
        settings: PoolSettings,
    ) -> None:
        """``leaves`` are the policies that the instances of each zone go to (zone ``""`` without zones)."""
        self._loop = loop
        self._clock = clock
        self._leaves = leaves
        self._settings = settings
        self._roster = Roster()

    def replace(self, specs: Iterable[InstanceSpec]) -> list[Instance]:
        """Take this list of instances; those that stay keep counters and connections.

        Gives those that were up and are down now.
        """
        specs = list(specs)
        before = {instance for instance in self._roster.instances if instance.up}
        instances = self._roster.replace(
            Member(spec.name, f"{spec.host}:{spec.port}", spec.weight, spec.zone) for spec in specs
        )
        for spec, instance in zip(specs, instances, strict=True):
            instance.tier = spec.tier
            set_status(instance, Status[spec.status])
            set_weight(instance, share=spec.share)
            if instance.endpoint is None:
                settings = self._settings
                instance.endpoint = Pool(
                    self._loop,
                    self._clock,
                    spec.host,
                    spec.port,
                    limit=settings.limit,
                    waiting_limit=settings.waiting_limit,
                    connect_timeout=settings.connect_timeout,
                    keepalive=settings.keepalive,
                )
            instance.endpoint.secure(self._settings.tls if spec.secure else None)
        for zone, leaf in self._leaves.items():
            leaf.replace(instance for instance in instances if instance.zone == zone)
        return [instance for instance in instances if instance.status is Status.DOWN and instance in before]

    def move(self, leaves: Mapping[str, Leaf] | None, settings: PoolSettings) -> None:
        """Other settings for the pools, and other policies for the instances (None: those that they have)."""
        self._settings = settings
        instances = self._roster.instances
        for instance in instances:
            instance.endpoint.configure(*settings[:4])
        if leaves is not None:
            self._leaves = leaves
            for zone, leaf in leaves.items():
                leaf.replace(instance for instance in instances if instance.zone == zone)

    def secure(self, tls: UpstreamTls) -> None:
        """Other certificates for the instances that are asked over TLS."""
        self._settings = self._settings._replace(tls=tls)
        for instance in self._roster.instances:
            if instance.endpoint.secured:
                instance.endpoint.secure(tls)

    def sweep(self) -> None:
        """Close connections that were idle for too long, and what is left of removed instances."""
        for instance in self._roster.instances:
            instance.endpoint.sweep()
        for instance in self._roster.forget_idle():
            instance.endpoint.close()

    def status(self) -> list[dict[str, Any]]:
        """The instances now, as JSON-able values."""
        return [
            {
                "name": i.name,
                "address": i.address,
                "up": i.up,
                "status": i.status.name.lower(),
                "in_flight": i.in_flight,
                "total": i.total,
            }
            for i in self._roster.instances
        ]

    def close(self) -> None:
        """Close every pool."""
        for instance in [*self._roster.instances, *self._roster.leaving]:
            instance.endpoint.close()

    def in_flight(self) -> int:
        """Requests and tunnels open on all instances, those that were removed meanwhile too."""
        return sum(instance.in_flight for instance in [*self._roster.instances, *self._roster.leaving])

    @property
    def instances(self) -> list[Instance]:
        """The instances now."""
        return self._roster.instances

    @property
    def gone(self) -> bool:
        """Whether there are no instances, present or leaving."""
        return not self._roster.instances and not self._roster.leaving
