"""One instance of a service, as the balancer sees it, and the only code that changes its counters.

``in_flight`` counts open work: it goes up by one in :func:`acquire` and down by one in :func:`release`, and nothing
else writes it. It belongs to the instance, not to a member list, so it is true whatever happens to the lists while
work is open: an instance that is removed settles its own count, and one that comes back before that does
(:class:`Roster`) starts from what is really open.

Everything here runs on one event loop: no locks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol


class Status(enum.IntEnum):
    """What may be sent to an instance, worst first, so that the best of several is their ``max``."""

    DOWN = 0  # fails its probes, or has not passed one yet
    DRAINING = 1  # finishes what it has; takes nothing new
    EJECTED = 2  # passes its probes but failed real requests; comes back by itself
    UP = 3  # takes requests


class InstanceOwner(Protocol):
    """The node that an instance belongs to, told when what may be picked has changed."""

    def changed(self) -> None:
        """An instance's status or weight changed."""


class LoadMetric(Protocol):
    """What "load" means: it keeps ``instance.load`` up to date, and a policy only compares loads.

    A lower load is a better choice. Loads are comparable between instances at one moment; a metric must be such that
    the *order* of two loads changes only in these calls, never by time alone.
    """

    def acquired(self, instance: Instance) -> None:
        """The instance has one more request in flight (already counted)."""

    def released(self, instance: Instance, ok: bool | None, seconds: float) -> None:
        """One request ended (already counted)."""

    def reweighed(self, instance: Instance) -> None:
        """The instance's weight changed, or the metric has just been given the instance."""


class Instance:
    """One process, or one address, that serves a service.

    ``weight`` is the configured share (> 0); ``share`` (0 < share <= 1) scales it while an instance starts slowly.
    ``address`` is for logs only. ``endpoint`` carries requests to it: the balancer never looks at it.
    Read everything; change ``up``, ``status``, ``weight``, ``share`` and the counters only through this module.
    """

    __slots__ = (
        "address",
        "cost",
        "cost_at",
        "counted",
        "deadline",
        "endpoint",
        "entry",
        "failures",
        "in_flight",
        "load",
        "metric",
        "name",
        "owner",
        "share",
        "status",
        "streak",
        "tier",
        "total",
        "unit",
        "up",
        "watcher",
        "weight",
        "zone",
    )

    def __init__(
        self,
        name: str,
        address: str = "",
        weight: float = 1.0,
        zone: str = "",
        endpoint: Any = None,
        status: Status = Status.UP,
    ) -> None:
        self.name = name
        self.address = address
        self.zone = zone
        self.tier = 0  # lower ones first, where its node looks at that (:mod:`.priority_tiers`)
        self.endpoint = endpoint
        self.status = status
        self.up = status is Status.UP
        # counters
        self.in_flight = 0  # requests and tunnels open now
        self.total = 0  # ever acquired
        self.failures = 0  # ever released with ok=False
        self.streak = 0  # failures since the last success, or since it came up
        # share of the work
        self.weight = _checked_weight(weight)
        self.share = 1.0
        self.unit = 1.0 / weight  # what one request adds to `load`
        # how it is compared with others
        self.load = 0.0
        self.metric: LoadMetric | None = None  # None: requests in flight per weight
        self.owner: InstanceOwner | None = None
        self.watcher: Callable[[Instance], None] | None = None  # told when `load` changed
        # what policies and metrics remember of it
        self.entry: tuple[float, int, Instance] | None = None
        self.deadline = 0.0
        self.cost = 0.0
        self.cost_at = 0.0
        self.counted = 0

    @property
    def identity(self) -> str:
        """What it is known by in snapshots and on hash rings; unique in a service."""
        return identity(self.name, self.address)

    def __repr__(self) -> str:
        return f"<Instance {self.name} {self.status.name} in_flight={self.in_flight} weight={self.weight:g}>"


def identity(name: str, address: str) -> str:
    """The key of an instance, a string so that it can be one in JSON."""
    return f"{name}@{address}"


def acquire(instance: Instance) -> None:
    """Count one more request (or tunnel) on ``instance``. Exactly one :func:`release` must follow."""
    instance.in_flight = in_flight = instance.in_flight + 1
    instance.total += 1
    metric = instance.metric
    if metric is None:
        instance.load = in_flight * instance.unit
    else:
        metric.acquired(instance)
    watcher = instance.watcher
    if watcher is not None:
        watcher(instance)


def release(instance: Instance, ok: bool | None, seconds: float) -> None:
    """Count the end of one acquired request, whatever became of the instance meanwhile.

    ``ok`` is False if the instance failed, None if the end says nothing about it (the client left).
    ``seconds`` is how long the instance took to answer. Raises RuntimeError for a release without an acquire:
    that is a fault of the caller, and a count below zero would send everything to this instance.
    """
    in_flight = instance.in_flight - 1
    if in_flight < 0:
        raise RuntimeError(f"released more often than acquired: {instance!r}")
    instance.in_flight = in_flight
    if ok is False:
        instance.failures += 1
        instance.streak += 1
    elif ok and instance.streak:
        instance.streak = 0
    metric = instance.metric
    if metric is None:
        instance.load = in_flight * instance.unit
    else:
        metric.released(instance, ok, seconds)
    watcher = instance.watcher
    if watcher is not None:
        watcher(instance)


def set_status(instance: Instance, status: Status) -> None:
    """Change what may be sent to ``instance``; its node notices at its next pick. Costs O(1)."""
    if status is instance.status:
        return
    instance.status = status
    instance.up = status is Status.UP
    if instance.up:
        instance.streak = 0
    if instance.owner is not None:
        instance.owner.changed()


def set_weight(instance: Instance, weight: float | None = None, share: float | None = None) -> None:
    """Change the configured weight, or the share of it that counts now (slow start), or both.

    Raises ValueError unless the weight is positive and finite and the share is in (0, 1].
    """
    weight = instance.weight if weight is None else _checked_weight(weight)
    share = instance.share if share is None else _checked_weight(share)
    if share > 1:
        raise ValueError(f"a share is at most 1, not {share!r}")
    if weight == instance.weight and share == instance.share:
        return
    instance.weight = weight
    instance.share = share
    instance.unit = 1.0 / (weight * share)
    recompute_load(instance)
    if instance.owner is not None:
        instance.owner.changed()


def recompute_load(instance: Instance) -> None:
    """Work out ``load`` anew, after its weight or its metric changed."""
    if instance.metric is None:
        instance.load = instance.in_flight * instance.unit
    else:
        instance.metric.reweighed(instance)
    if instance.watcher is not None:
        instance.watcher(instance)


def _checked_weight(weight: float) -> float:
    if not 0 < weight < float("inf"):
        raise ValueError(f"a weight is a positive number, not {weight!r}")
    return float(weight)


class InstanceConfig(NamedTuple):
    """What a source of instances (configuration, runner, DNS) says of one: no state."""

    name: str
    address: str
    weight: float = 1.0
    zone: str = ""


class Roster:
    """The instances of one service over time: the same member is the same :class:`Instance`.

    A member is known by its name *and* address: a process that was replaced on another port is another instance.
    One that left while work was open on it is kept until that has ended, and is the same again if it returns first.
    """

    __slots__ = ("_current", "_leaving", "_status")

    def __init__(self, status: Status = Status.UP) -> None:
        """``status`` is the one that members join with."""
        self._current: dict[str, Instance] = {}
        self._leaving: dict[str, Instance] = {}
        self._status = status

    def replace(self, members: Iterable[InstanceConfig]) -> list[Instance]:
        """The instances of ``members``, in their order; those that stay keep all their state."""
        current: dict[str, Instance] = {}
        for member in members:
            key = identity(member.name, member.address)
            instance = self._current.get(key)
            if instance is None:
                instance = self._leaving.pop(key, None)
                if instance is None:
                    instance = Instance(member.name, member.address, member.weight, member.zone, status=self._status)
                else:
                    set_status(instance, self._status)
            set_weight(instance, weight=member.weight)
            instance.zone = member.zone
            current[key] = instance
        for key, instance in self._current.items():
            if key not in current:
                set_status(instance, Status.DRAINING)
                self._leaving[key] = instance
        self._current = current
        return list(current.values())

    @property
    def instances(self) -> list[Instance]:
        """The members now."""
        return list(self._current.values())

    @property
    def leaving(self) -> list[Instance]:
        """Members that were removed and not yet forgotten."""
        return list(self._leaving.values())

    def forget_idle(self) -> list[Instance]:
        """Forget the removed members with nothing in flight and return them: their endpoints can be closed."""
        idle = [instance for instance in self._leaving.values() if instance.in_flight == 0]
        self._leaving = {key: instance for key, instance in self._leaving.items() if instance.in_flight > 0}
        return idle
