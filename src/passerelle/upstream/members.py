"""The instances of one service, their connection pools, and the balancing policies that pick among them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from passerelle.balancing.instance import Instance, InstanceConfig, Roster, Status, set_status, set_weight
from passerelle.balancing.policies import Policy
from passerelle.balancing.priority_tiers import PriorityTiers
from passerelle.http1.client.pool import ConnectionPool
from passerelle.http1.clock import Clock
from passerelle.http1.tls_contexts import UpstreamTls
from passerelle.upstream.instance_counters import InstanceCounters

Leaf = Policy | PriorityTiers


class InstanceSpec(NamedTuple):
    """One instance as described by the supervisor, a list of targets, or discovery.

    ``status`` is the name of a :class:`Status`. ``share`` is the part of the weight that counts now, over 0 to 1.
    """

    name: str
    host: str
    port: int
    weight: float = 1.0
    zone: str = ""
    status: str = "UP"
    share: float = 1.0
    secure: bool = False  # requests use TLS
    tier: int = 0  # the priority of an SRV record: the lowest tier with an instance up takes all requests
    place: str = ""  # the key for hashing and sticky cookies; empty: the address

    @property
    def address(self) -> str:
        """The address as a part of keys; that of a Unix socket has the path as its host, and no port."""
        return f"unix:{self.host}" if self.host.startswith("/") else f"{self.host}:{self.port}"


class PoolSettings(NamedTuple):
    """The settings of each connection pool of a service: counts per instance, times in seconds."""

    limit: int
    waiting_limit: int
    connect_timeout: float
    keepalive: float
    aside_limit: int
    client_share: float
    tls: UpstreamTls | None = None


class InstanceSet:
    """The instances of one service over time. An instance that stays keeps its state and its pool."""

    __slots__ = ("_clock", "_counters", "_leaves", "_loop", "_roster", "_settings")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        leaves: Mapping[str, Leaf],
        settings: PoolSettings,
    ) -> None:
        """``leaves`` maps each zone to the policy for its instances (zone ``""`` without zones)."""
        self._loop = loop
        self._clock = clock
        self._leaves = leaves
        self._settings = settings
        self._roster = Roster()
        self._counters = InstanceCounters()

    def replace(self, specs: Iterable[InstanceSpec]) -> list[Instance]:
        """Replace the list of instances; instances that stay keep their counters and connections.

        Return the instances that were up and are down now.
        """
        specs = list(specs)
        before = {instance for instance in self._roster.instances if instance.up}
        instances = self._roster.replace(
            InstanceConfig(spec.name, spec.address, spec.weight, spec.zone, spec.place) for spec in specs
        )
        for spec, instance in zip(specs, instances, strict=True):
            instance.tier = spec.tier
            set_status(instance, Status[spec.status])
            set_weight(instance, share=spec.share)
            if instance.endpoint is None:
                settings = self._settings
                instance.endpoint = ConnectionPool(
                    self._loop,
                    self._clock,
                    spec.host,
                    spec.port,
                    limit=settings.limit,
                    waiting_limit=settings.waiting_limit,
                    connect_timeout=settings.connect_timeout,
                    keepalive=settings.keepalive,
                    aside_limit=settings.aside_limit,
                    client_share=settings.client_share,
                )
            instance.endpoint.secure(self._settings.tls if spec.secure else None)
        for zone, leaf in self._leaves.items():
            leaf.replace(instance for instance in instances if instance.zone == zone)
        return [instance for instance in instances if instance.status is Status.DOWN and instance in before]

    def reconfigure(self, leaves: Mapping[str, Leaf] | None, settings: PoolSettings) -> None:
        """Apply other settings to the pools, and other policies to the instances (None to keep the policies)."""
        self._settings = settings
        instances = self._roster.instances
        for instance in instances:
            instance.endpoint.configure(*settings[:6])
        if leaves is not None:
            self._leaves = leaves
            for zone, leaf in leaves.items():
                leaf.replace(instance for instance in instances if instance.zone == zone)

    def secure(self, tls: UpstreamTls) -> None:
        """Use other certificates for the instances that use TLS."""
        self._settings = self._settings._replace(tls=tls)
        for instance in self._roster.instances:
            if instance.endpoint.secured:
                instance.endpoint.secure(tls)

    def sweep(self) -> None:
        """Close connections that were idle for too long, and the pools of removed instances without work."""
        for instance in self._roster.instances:
            instance.endpoint.sweep()
        gone = self._roster.forget_idle()
        for instance in gone:
            instance.endpoint.close()
        self._counters.add_gone(gone, self._clock.now)

    def sample(self, seconds: float) -> None:
        """Count what the requests in flight wait for now as the state of the last ``seconds``.

        Samples cost requests nothing, and their sums divided by the number of requests are mean times (Little's law).
        """
        for instance in self._roster.instances:
            if instance.in_flight:
                pool: ConnectionPool = instance.endpoint
                instance.request_seconds += seconds * instance.in_flight
                instance.queued_seconds += seconds * pool.waiting
                instance.connecting_seconds += seconds * pool.connecting

    def status(self) -> list[dict[str, Any]]:
        """Return the state of the instances as JSON-serializable values."""
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

    def counters(self) -> dict[str, Any]:
        """Return the counters of the instances for metrics (see :mod:`.instance_counters`)."""
        return self._counters.snapshot(self._roster.instances, self._roster.leaving, self._clock.now)

    def live(self) -> dict[str, dict[str, float]]:
        """Return the counters of the instances for a live view, by name."""
        return {
            i.name: {
                "requests": i.total,
                "errors": i.failures,
                "in_flight": i.in_flight,
                "ended": i.total - i.in_flight,
                "seconds": i.seconds,
                "occupied": i.request_seconds,
                "queued": i.queued_seconds,
                "connecting": i.connecting_seconds,
            }
            for i in self._roster.instances
        }

    def close(self) -> None:
        """Close every pool."""
        for instance in [*self._roster.instances, *self._roster.leaving]:
            instance.endpoint.close()

    def in_flight(self) -> int:
        """Return the number of requests and tunnels in flight on all instances, including removed ones."""
        return sum(instance.in_flight for instance in [*self._roster.instances, *self._roster.leaving])

    @property
    def instances(self) -> list[Instance]:
        """The current instances, without removed ones."""
        return self._roster.instances

    @property
    def is_empty(self) -> bool:
        """Whether there are no instances, current or removed with work in flight."""
        return not self._roster.instances and not self._roster.leaving
