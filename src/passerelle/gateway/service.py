"""A service as the gateway uses it: its node, its instances with their pools, its counters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from passerelle.balancing.instance import Instance, Member, Roster
from passerelle.balancing.policies import Node, Policy
from passerelle.http1.clock import Clock
from passerelle.http1.pool import Pool
from passerelle.observability.metrics import ServiceMetrics

if TYPE_CHECKING:
    from passerelle.gateway.forward import Forward


class Service:
    """``node`` picks; every instance's ``endpoint`` is a :class:`Pool`. ``streaming`` are the answers under way."""

    __slots__ = ("metrics", "name", "node", "streaming")

    def __init__(self, name: str, node: Node, metrics: ServiceMetrics) -> None:
        self.name = name
        self.node = node
        self.metrics = metrics
        self.streaming: set[Forward] = set()


class InstanceSpec(NamedTuple):
    """One instance as the runner, a target list or discovery knows it."""

    name: str
    host: str
    port: int
    weight: float = 1.0
    zone: str = ""


class PoolSettings(NamedTuple):
    """What every pool of a service is made with: counts per instance, times in seconds."""

    limit: int
    waiting_limit: int
    connect_timeout: float
    keepalive: float


class Members:
    """The instances of one service over time: keeps each one's state and pool while it stays."""

    __slots__ = ("_clock", "_leaves", "_loop", "_roster", "_settings")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        leaves: Mapping[str, Policy],
        settings: PoolSettings,
    ) -> None:
        """``leaves`` are the policies that the instances of each zone go to (zone ``""`` without zones)."""
        self._loop = loop
        self._clock = clock
        self._leaves = leaves
        self._settings = settings
        self._roster = Roster()

    def replace(self, specs: Iterable[InstanceSpec]) -> None:
        """Take this list of instances; those that stay keep counters and connections."""
        specs = list(specs)
        instances = self._roster.replace(
            Member(spec.name, f"{spec.host}:{spec.port}", spec.weight, spec.zone) for spec in specs
        )
        for spec, instance in zip(specs, instances, strict=True):
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
        for zone, leaf in self._leaves.items():
            leaf.replace(instance for instance in instances if instance.zone == zone)

    def sweep(self) -> None:
        """Close connections that were idle for too long, and what is left of removed instances."""
        for instance in self._roster.instances:
            instance.endpoint.sweep()
        for instance in self._roster.forget_idle():
            instance.endpoint.close()

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
