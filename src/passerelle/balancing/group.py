"""Groups of nodes: a group is a node, so a service can balance zones and a zone its instances."""

from __future__ import annotations

import random as _random
from collections.abc import Iterable

from passerelle.balancing import instance as _instance
from passerelle.balancing.instance import Instance, Status
from passerelle.balancing.policies import Node, Random
from passerelle.balancing.schedule import Schedule

# A group keeps its whole share until its healthy part falls under 1/1.4 = 71 %: one of four may fail without a shift.
OVERPROVISION = 1.4


def health(node: Node, overprovision: float = OVERPROVISION) -> float:
    """How much of its share ``node`` can carry, 0 to 1: its part of instances up, times ``overprovision``."""
    size = node.size
    return min(1.0, overprovision * node.up / size) if size else 0.0


class Group:
    """What all groups share: children, and totals over them that are rebuilt after something changed below."""

    __slots__ = ("_children", "_fresh", "_random", "_size", "_status", "_up", "parent")

    def __init__(self, random: Random) -> None:
        self.parent: Node | None = None
        self._children: tuple[Node, ...] = ()
        self._random = random
        self._size = 0
        self._up = 0
        self._status = Status.DOWN
        self._fresh = False

    acquire = staticmethod(_instance.acquire)
    release = staticmethod(_instance.release)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`.policies.Node.pick`."""
        raise NotImplementedError

    def changed(self) -> None:
        """Something below changed: have the totals rebuilt at the next pick."""
        self._fresh = False
        if self.parent is not None:
            self.parent.changed()

    @property
    def children(self) -> tuple[Node, ...]:
        """The nodes of this group."""
        return self._children

    @property
    def members(self) -> tuple[Instance, ...]:
        """All instances below, in any status."""
        return tuple(instance for child in self._children for instance in child.members)

    @property
    def status(self) -> Status:
        """The status of the best child; DOWN if there is none."""
        self._refresh()
        return self._status

    @property
    def size(self) -> int:
        """How many instances are below but for those that drain."""
        self._refresh()
        return self._size

    @property
    def up(self) -> int:
        """How many of them may be picked."""
        self._refresh()
        return self._up

    def _adopt(self, children: tuple[Node, ...]) -> None:
        for child in self._children:
            if child.parent is self and child not in children:
                child.parent = None
        for child in children:
            child.parent = self
        self._children = children
        self.changed()

    def _refresh(self) -> None:
        if not self._fresh:
            self._size = sum(child.size for child in self._children)
            self._up = sum(child.up for child in self._children)
            self._status = max((child.status for child in self._children), default=Status.DOWN)
            self._fresh = True
            self._rebuild()

    def _rebuild(self) -> None:
        """Something below changed: derive what a pick needs."""


class WeightedGroup(Group):
    """Each child in proportion to its weight, as far as its health carries it; what it cannot carry goes to the others.

    A child whose instances are all down or already tried is passed over.
    """

    __slots__ = ("_schedule", "_weights")

    def __init__(self, children: Iterable[tuple[Node, float]] = (), *, random: Random = _random.random) -> None:
        super().__init__(random)
        self._weights: dict[Node, float] = {}
        self._schedule: Schedule[Node] = Schedule(random)
        self.replace(children)

    def replace(self, children: Iterable[tuple[Node, float]]) -> None:
        """Take these nodes and their weights. Raises ValueError for a weight that is not positive and finite."""
        weights = dict(children)
        for weight in weights.values():
            if not 0 < weight < float("inf"):
                raise ValueError(f"a weight is a positive number, not {weight!r}")
        self._weights = weights
        self._adopt(tuple(weights))

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`.policies.Node.pick`."""
        if not self._fresh:
            self._refresh()
        child = self._schedule.next()
        if child is None:
            return None
        chosen = child.pick(exclude, key)
        passed: tuple[Node, ...] = ()
        while chosen is None:
            passed = (*passed, child)
            child = self._schedule.next(passed)
            if child is None:
                return None
            chosen = child.pick(exclude, key)
        return chosen

    def _rebuild(self) -> None:
        able = ((child, weight * health(child)) for child, weight in self._weights.items())
        self._schedule.replace((child, weight) for child, weight in able if weight > 0)
