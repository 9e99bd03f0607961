"""Groups of nodes: a group is a node, so a service can balance zones and a zone its instances.

A child has a priority and a weight. Priority comes first: the children of the lowest number take everything as long as
they can carry it; what they cannot carry spills to the next number. Within one priority children share by weight, each
as far as its health carries it.

How much a child can carry is its part of instances up, times :data:`OVERPROVISION`:

==========  =======================  ====================================
up of four  health of the child      spilled if it is alone at its priority
==========  =======================  ====================================
4           1.00                     nothing
3           1.00 (0.75 x 1.4 > 1)    nothing
2           0.70                     30 %
1           0.35                     65 %
0           0                        everything
==========  =======================  ====================================

If all priorities together cannot carry everything, each takes in proportion to what it can carry: nothing is refused
here as long as one instance is up.
"""

from __future__ import annotations

import random as _random
from collections.abc import Iterable
from hashlib import blake2b
from math import log
from typing import NamedTuple

from passerelle.balancing import instance as _instance
from passerelle.balancing.edf_scheduler import EdfScheduler
from passerelle.balancing.instance import Instance, Status
from passerelle.balancing.policies import PickerNode, Random

# A child keeps its whole share until its healthy part falls under 1/1.4 = 71 %: one of four may fail without a shift.
OVERPROVISION = 1.4


class Child(NamedTuple):
    """A node in a group. ``name`` (of a zone, say) must be unlike its siblings' if requests have keys."""

    node: PickerNode
    weight: float = 1.0
    priority: int = 0
    name: str = ""


class Group:
    """A node made of nodes. Cost of a pick: that of the child's, and O(log n) in the number of children.

    Requests without a key take turns among the children, smoothly; those with one are sent to the same child as long
    as shares stay, and as few as possible move when they change (weighted rendezvous hashing, O(n) in children).
    A child whose instances are all excluded is passed over; then those too are asked that had no share.
    """

    __slots__ = ("_children", "_fresh", "_reserve", "_schedule", "_shares", "_size", "_status", "_up", "parent")

    def __init__(
        self, children: Iterable[Child | tuple[PickerNode, float]] = (), *, random: Random = _random.random
    ) -> None:
        """A pair (node, weight) is a child of priority 0. Raises what :meth:`replace` raises."""
        self.parent: PickerNode | None = None
        self._children: tuple[Child, ...] = ()
        self._schedule: EdfScheduler[Child] = EdfScheduler(random)
        self._shares: dict[Child, float] = {}
        self._reserve: list[Child] = []
        self._size = 0
        self._up = 0
        self._status = Status.DOWN
        self._fresh = False
        self.replace(children)

    acquire = staticmethod(_instance.acquire)
    release = staticmethod(_instance.release)

    def replace(self, children: Iterable[Child | tuple[PickerNode, float]]) -> None:
        """Take these children. Raises ValueError for a weight that is not positive and finite."""
        new = tuple(Child(*child) for child in children)
        for child in new:
            if not 0 < child.weight < float("inf"):
                raise ValueError(f"a weight is a positive number, not {child.weight!r}")
        for child in self._children:
            if child.node.parent is self:
                child.node.parent = None
        for child in new:
            child.node.parent = self
        self._children = new
        self.changed()

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`.policies.PickerNode.pick`."""
        if not self._fresh:
            self._refresh()
        if key is not None:
            for child in self._by_preference(key):
                chosen = child.node.pick(exclude, key)
                if chosen is not None:
                    return chosen
        else:
            passed: tuple[Child, ...] = ()
            while (turn := self._schedule.next(passed)) is not None:
                chosen = turn.node.pick(exclude)
                if chosen is not None:
                    return chosen
                passed = (*passed, turn)
        for child in self._reserve:
            chosen = child.node.pick(exclude, key)
            if chosen is not None:
                return chosen
        return None

    def changed(self) -> None:
        """Something below changed: have the totals and shares worked out again at the next pick."""
        self._fresh = False
        if self.parent is not None:
            self.parent.changed()

    @property
    def children(self) -> tuple[Child, ...]:
        """The children."""
        return self._children

    @property
    def members(self) -> tuple[Instance, ...]:
        """All instances below, in any status."""
        return tuple(instance for child in self._children for instance in child.node.members)

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

    @property
    def shares(self) -> dict[Child, float]:
        """The part of all requests that each child gets now, adding up to 1; children that get none are absent."""
        self._refresh()
        return dict(self._shares)

    def _refresh(self) -> None:
        if not self._fresh:
            nodes = [child.node for child in self._children]
            self._size = sum(node.size for node in nodes)
            self._up = sum(node.up for node in nodes)
            self._status = max((node.status for node in nodes), default=Status.DOWN)
            self._fresh = True
            self._shares = shares(self._children)
            rest = [child for child in self._children if child not in self._shares and child.node.up]
            self._reserve = sorted(rest, key=lambda child: child.priority)
            self._schedule.replace(self._shares.items())

    def _by_preference(self, key: bytes) -> list[Child]:
        """Children in the order in which ``key`` prefers them."""

        def score(child: Child) -> float:
            digest = blake2b(b"%b\0%b" % (child.name.encode(), key), digest_size=8).digest()
            return log((int.from_bytes(digest, "big") + 1) / 2**64) / self._shares[child]

        return sorted(self._shares, key=score, reverse=True)


def health(node: PickerNode) -> float:
    """How much of its share ``node`` can carry, 0 to 1."""
    size = node.size
    return min(1.0, OVERPROVISION * node.up / size) if size else 0.0


def shares(children: Iterable[Child]) -> dict[Child, float]:
    """The part of all requests for each child with an instance up, adding up to 1 (module docstring)."""
    levels: dict[int, dict[Child, float]] = {}
    for child in children:
        levels.setdefault(child.priority, {})[child] = health(child.node)
    left = 1.0
    result: dict[Child, float] = {}
    for priority in sorted(levels):
        level = levels[priority]
        weights = {child: child.weight * able for child, able in level.items() if able > 0}
        if weights and left > 1e-9:
            total = sum(weights.values())
            size = sum(child.node.size for child in level)
            taken = min(left, OVERPROVISION * sum(child.node.up for child in level) / size)
            left -= taken
            for child, weight in weights.items():
                result[child] = taken * weight / total
    carried = sum(result.values())
    return {child: share / carried for child, share in result.items()}
