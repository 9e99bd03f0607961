"""An instance of a service, as the balancer sees it, and the only code that changes its counters.

``in_flight`` counts the requests and tunnels in flight: :func:`acquire` adds one, :func:`release` subtracts one, and
no other code writes the count. The count belongs to the instance, not to a list of members, so that it is correct
whatever happens to the lists meanwhile. A removed instance settles its own count. An instance that comes back before
(:class:`Roster`) continues with the true count.

All code runs on one event loop, so there are no locks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol


class Status(enum.IntEnum):
    """The status of an instance. The worst is first, so that the best of several is their ``max``."""

    DOWN = 0  # fails its probes, or has not passed one yet
    DRAINING = 1  # finishes its requests and takes no new ones
    EJECTED = 2  # passes its probes, but real requests failed; returns automatically
    UP = 3  # takes requests


class InstanceOwner(Protocol):
    """The node that an instance belongs to, which is notified of changes."""

    def changed(self) -> None:
        """The status or the weight of an instance has changed."""


class LoadMetric(Protocol):
    """A definition of load: keeps ``instance.load`` up to date. Policies only compare loads.

    A lower load is a better choice. The *order* of the loads of two instances must change only in these calls, never
    by time alone.
    """

    def acquired(self, instance: Instance) -> None:
        """A request was added to ``instance``, and is already counted."""

    def released(self, instance: Instance, ok: bool | None, seconds: float) -> None:
        """A request has ended, and is no longer counted; for the parameters see :func:`release`."""

    def reweighed(self, instance: Instance) -> None:
        """Take the weight of an instance that has changed or is new to the metric."""


class Instance:
    """One process, or one address, that serves a service.

    ``weight`` is the configured weight (> 0). ``share`` (0 < share <= 1) scales the weight during slow start.
    ``address`` is for logs only. ``endpoint`` sends requests to the instance; the balancer does not use it.
    All attributes may be read. Only this module changes ``up``, ``status``, ``weight``, ``share`` and the counters.
    """

    __slots__ = (
        "address",
        "connecting_seconds",
        "cost",
        "cost_at",
        "counted",
        "deadline",
        "endpoint",
        "entry",
        "failed",
        "failures",
        "in_flight",
        "load",
        "metric",
        "name",
        "owner",
        "place",
        "queued_seconds",
        "request_seconds",
        "seconds",
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
        place: str = "",
    ) -> None:
        self.name = name
        self.address = address
        # The key of the instance for hashing and sticky cookies, which does not depend on its number in a list.
        self.place = place or address or name
        self.zone = zone
        self.tier = 0  # the lowest first, with :mod:`.priority_tiers`
        self.endpoint = endpoint
        self.status = status
        self.up = status is Status.UP
        # counters
        self.in_flight = 0  # current requests and tunnels
        self.total = 0  # all acquired so far
        self.failures = 0  # all released with ok=False so far
        self.failed: dict[str, int] = {}  # all that failed so far by kind; see `count_failure`
        self.seconds = 0.0  # the time of all released so far
        # the integrals of three numbers over time, from samples: see `InstanceSet.sample`
        self.request_seconds = 0.0  # requests in flight
        self.queued_seconds = 0.0  # of these, those that wait for a connection to be free
        self.connecting_seconds = 0.0  # of these, those whose connection is being opened
        self.streak = 0  # failures since the last success, or since the instance came up
        # the share of the requests
        self.weight = _checked_weight(weight)
        self.share = 1.0
        self.unit = 1.0 / weight  # the load of one request
        # for the comparison with other instances
        self.load = 0.0
        self.metric: LoadMetric | None = None  # None for requests in flight per weight
        self.owner: InstanceOwner | None = None
        self.watcher: Callable[[Instance], None] | None = None  # called after a change of `load`
        # data of policies and metrics
        self.entry: tuple[float, int, Instance] | None = None
        self.deadline = 0.0
        self.cost = 0.0
        self.cost_at = 0.0
        self.counted = 0

    @property
    def identity(self) -> str:
        """The key of the instance in snapshots, unique in a service."""
        return identity(self.name, self.address)

    def __repr__(self) -> str:
        return f"<Instance {self.name} {self.status.name} in_flight={self.in_flight} weight={self.weight:g}>"


def identity(name: str, address: str) -> str:
    """Return the key of an instance, a string so that it can be a key in JSON."""
    return f"{name}@{address}"


def acquire(instance: Instance) -> None:
    """Count a new request (or tunnel) on ``instance``. Exactly one :func:`release` must follow."""
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
    """Count the end of an acquired request, even if the instance was removed meanwhile.

    ``ok`` is False if the instance failed, None if the outcome does not depend on the instance (the client left).
    ``seconds`` is the time that the instance took to respond. Raises RuntimeError for a release without an acquire,
    which is a bug in the caller: a count below zero would attract all requests to this instance.
    """
    in_flight = instance.in_flight - 1
    if in_flight < 0:
        raise RuntimeError(f"released more often than acquired: {instance!r}")
    instance.in_flight = in_flight
    instance.seconds += seconds
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


def count_failure(instance: Instance, kind: str) -> None:
    """Count an attempt at ``instance`` that failed, by ``kind``; the instance need not be responsible."""
    instance.failed[kind] = instance.failed.get(kind, 0) + 1


def set_status(instance: Instance, status: Status) -> None:
    """Change the status of ``instance``; the next pick of its node uses the new status. O(1)."""
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
    """Recompute ``load`` after a change of the weight or the metric."""
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
    """An instance as its source (configuration, supervisor, DNS) describes it, without state."""

    name: str
    address: str
    weight: float = 1.0
    zone: str = ""
    place: str = ""


class Roster:
    """The instances of one service over time: the same member is the same :class:`Instance`.

    The name *and* the address identify a member: a process that was replaced on another port is another instance. A
    member that was removed with requests in flight is kept until they have ended, and reused if it returns before.
    """

    __slots__ = ("_current", "_leaving", "_status")

    def __init__(self, status: Status = Status.UP) -> None:
        """``status`` is the initial status of members."""
        self._current: dict[str, Instance] = {}
        self._leaving: dict[str, Instance] = {}
        self._status = status

    def replace(self, members: Iterable[InstanceConfig]) -> list[Instance]:
        """Replace the members and return their instances, in order. Instances that stay keep all their state."""
        current: dict[str, Instance] = {}
        for member in members:
            key = identity(member.name, member.address)
            instance = self._current.get(key)
            if instance is None:
                instance = self._leaving.pop(key, None)
                if instance is None:
                    instance = Instance(
                        member.name,
                        member.address,
                        member.weight,
                        member.zone,
                        status=self._status,
                        place=member.place,
                    )
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
        """The current members."""
        return list(self._current.values())

    @property
    def leaving(self) -> list[Instance]:
        """Removed members that are still kept."""
        return list(self._leaving.values())

    def forget_idle(self) -> list[Instance]:
        """Discard and return the removed members without requests in flight, whose endpoints can be closed."""
        idle = [instance for instance in self._leaving.values() if instance.in_flight == 0]
        self._leaving = {key: instance for key, instance in self._leaving.items() if instance.in_flight > 0}
        return idle
