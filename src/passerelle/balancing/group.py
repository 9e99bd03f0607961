"""Groups of nodes: a group is a node itself, so a service can balance zones, and a zone its instances.

A child has a priority and a weight. Priority comes first: the children with the lowest number take all requests as
long as they have the capacity; the excess spills to the next number. Within one priority, children share the requests
by weight, each up to its health.

The health of a child is the part of its instances that is up, times :data:`OVERPROVISION`:

==========  =======================  ======================================
up of four  health of the child      spilled if it is alone at its priority
==========  =======================  ======================================
4           1.00                     nothing
3           1.00 (0.75 x 1.4 > 1)    nothing
2           0.70                     30 %
1           0.35                     65 %
0           0                        everything
==========  =======================  ======================================

If all priorities together lack the capacity, each takes requests in proportion to its health: no request is refused
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

# A child keeps its whole share until less than 1/1.4 = 71 % of it is up: one instance of four may fail without a shift.
OVERPROVISION = 1.4


class Child(NamedTuple):
    """A node in a group. ``name`` (that of a zone, for example) must be unique in the group if requests have keys."""

    node: PickerNode
    weight: float = 1.0
    priority: int = 0
    name: str = ""


class Group:
    """A node made of nodes. A pick costs that of the child, and O(log n) in the number of children.

    Requests without a key alternate among the children, evenly in proportion to the shares. Requests with a key go to
    the same child as long as the shares are unchanged; a change moves as few keys as possible (weighted rendezvous
    hashing, O(n) in the number of children). A child whose instances are all excluded is skipped. If all are, the
    children without a share follow.
    """

    __slots__ = ("_children", "_fresh", "_reserve", "_schedule", "_shares", "_size", "_status", "_up", "parent")

    def __init__(
        self, children: Iterable[Child | tuple[PickerNode, float]] = (), *, random: Random = _random.random
    ) -> None:
        """A pair (node, weight) is a child of priority 0. Raises ValueError as :meth:`replace` does."""
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
        """Replace the children. Raises ValueError for a weight that is not positive and finite."""
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
            skipped: tuple[Child, ...] = ()
            while (turn := self._schedule.next(skipped)) is not None:
                chosen = turn.node.pick(exclude)
                if chosen is not None:
                    return chosen
                skipped = (*skipped, turn)
        for child in self._reserve:
            chosen = child.node.pick(exclude, key)
            if chosen is not None:
                return chosen
        return None

    def changed(self) -> None:
        """Recompute totals and shares at the next pick: a node below has changed."""
        self._fresh = False
        if self.parent is not None:
            self.parent.changed()

    @property
    def children(self) -> tuple[Child, ...]:
        """The children."""
        return self._children

    @property
    def members(self) -> tuple[Instance, ...]:
        """All instances below this node, in any status."""
        return tuple(instance for child in self._children for instance in child.node.members)

    @property
    def status(self) -> Status:
        """The best status of the children; DOWN without children."""
        self._refresh()
        return self._status

    @property
    def size(self) -> int:
        """The number of instances below this node, without draining ones."""
        self._refresh()
        return self._size

    @property
    def up(self) -> int:
        """The number of instances below this node that are up."""
        self._refresh()
        return self._up

    @property
    def shares(self) -> dict[Child, float]:
        """The current share of each child in all requests; the sum is 1. Children without a share are absent."""
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
        """Return the children in the order of preference of ``key``."""

        def score(child: Child) -> float:
            digest = blake2b(b"%b\0%b" % (child.name.encode(), key), digest_size=8).digest()
            return log((int.from_bytes(digest, "big") + 1) / 2**64) / self._shares[child]

        return sorted(self._shares, key=score, reverse=True)


def health(node: PickerNode) -> float:
    """Return the part of its share that ``node`` has the capacity for, 0 to 1."""
    size = node.size
    return min(1.0, OVERPROVISION * node.up / size) if size else 0.0


def shares(children: Iterable[Child]) -> dict[Child, float]:
    """Return the share of each child with an instance up in all requests; the sum is 1. See the module docstring."""
    levels: dict[int, dict[Child, float]] = {}
    for child in children:
        levels.setdefault(child.priority, {})[child] = health(child.node)
    left = 1.0
    result: dict[Child, float] = {}
    for priority in sorted(levels):
        level = levels[priority]
        weights = {child: child.weight * capacity for child, capacity in level.items() if capacity > 0}
        if weights and left > 1e-9:
            total = sum(weights.values())
            size = sum(child.node.size for child in level)
            taken = min(left, OVERPROVISION * sum(child.node.up for child in level) / size)
            left -= taken
            for child, weight in weights.items():
                result[child] = taken * weight / total
    carried = sum(result.values())
    return {child: share / carried for child, share in result.items()}
