"""Balancing policies, which pick the instance for a request.

A policy is a leaf of the tree of nodes (:mod:`.group` has the branches). A policy keeps tuples of the instances that
may be picked, and rebuilds them at the first pick after a change, so that a pick itself looks at one or two instances
whatever their number. Policies do not wait, lock, or read a clock. Random numbers come from the given ``random``.

=================  ==========================================  =====================================
policy             instance picked                             cost in the number of instances
=================  ==========================================  =====================================
RoundRobin         each in turn, weights ignored               O(1)
Weighted           each in proportion to its weight, smoothly  O(log n), a heap of next turns
LeastLoaded        the least loaded, ties in turn              O(log n) amortized, a heap of loads
PowerOfTwo         the less loaded of two at random            O(1); O(log n) with unequal weights
=================  ==========================================  =====================================
"""

from __future__ import annotations

import random as _random
from bisect import bisect
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate, count
from typing import Protocol

from passerelle.balancing import instance as _instance
from passerelle.balancing.edf_scheduler import EdfScheduler
from passerelle.balancing.instance import Instance, LoadMetric, Status

Random = Callable[[], float]  # uniform in [0, 1), like random.random

MAX_DRAWS = 8  # pairs tried before a full scan; with a third of the instances excluded, all fail once in 43 million


class PickerNode(Protocol):
    """A node that picks an instance: a policy over instances, or a group of nodes."""

    parent: PickerNode | None

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """Return an instance that is up and not in ``exclude``, or None.

        ``exclude`` contains the instances already tried. ``key`` is the key for hashing policies. A pick does not
        count a request: the caller calls :meth:`acquire`, before it does anything that may wait.
        """

    def acquire(self, instance: Instance) -> None:
        """:func:`.instance.acquire`."""

    def release(self, instance: Instance, ok: bool | None, seconds: float) -> None:
        """:func:`.instance.release`."""

    def changed(self) -> None:
        """The status or the weight of an instance below this node has changed."""

    @property
    def status(self) -> Status:
        """The best status of the instances below this node; DOWN without instances."""

    @property
    def size(self) -> int:
        """The number of instances below this node, in any status but DRAINING."""

    @property
    def up(self) -> int:
        """The number of instances below this node that are up."""

    @property
    def members(self) -> tuple[Instance, ...]:
        """All instances below this node."""


class Policy:
    """The base of all policies: members, and the tuple of members that are up."""

    __slots__ = ("_fast", "_fresh", "_members", "_metric", "_random", "_size", "_status", "_up", "parent")

    def __init__(
        self, members: Iterable[Instance] = (), *, metric: LoadMetric | None = None, random: Random = _random.random
    ) -> None:
        """``metric`` defines load; None for requests in flight per weight."""
        self.parent: PickerNode | None = None
        self._metric = metric
        self._random = random
        self._members: tuple[Instance, ...] = ()
        self._up: tuple[Instance, ...] = ()
        self._size = 0
        self._status = Status.DOWN
        self._fresh = False  # whether the tuples are valid
        self._fast = False  # whether they are, and the fast path of the policy applies
        self.replace(members)

    acquire = staticmethod(_instance.acquire)
    release = staticmethod(_instance.release)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`PickerNode.pick`."""
        raise NotImplementedError

    def replace(self, members: Iterable[Instance]) -> None:
        """Replace the members. Members that stay keep their state, including their turn.

        An instance is in one node at a time: the last node that it was added to owns it.
        """
        before = set(self._members)
        self._members = tuple(dict.fromkeys(members))
        for instance in before.difference(self._members):
            if instance.owner is self:
                instance.owner = None
                instance.watcher = None
                instance.entry = None
        for instance in self._members:
            if instance.owner is not self:
                instance.owner = self
                instance.watcher = None
                instance.entry = None
                instance.metric = self._metric
                _instance.recompute_load(instance)
                self._adopt(instance)
        self.changed()

    def changed(self) -> None:
        """Rebuild the tuples at the next pick."""
        self._fresh = self._fast = False
        if self.parent is not None:
            self.parent.changed()

    @property
    def members(self) -> tuple[Instance, ...]:
        """All instances, in any status."""
        return self._members

    @property
    def status(self) -> Status:
        """The best status of the members; DOWN without members."""
        self._refresh()
        return self._status

    @property
    def size(self) -> int:
        """The number of members, without draining ones."""
        self._refresh()
        return self._size

    @property
    def up(self) -> int:
        """The number of members that are up."""
        self._refresh()
        return len(self._up)

    def _adopt(self, instance: Instance) -> None:
        """Prepare the data of this policy on a new member."""

    def _refresh(self) -> None:
        if not self._fresh:
            self._up = tuple(instance for instance in self._members if instance.up)
            self._size = sum(instance.status is not Status.DRAINING for instance in self._members)
            self._status = max((instance.status for instance in self._members), default=Status.DOWN)
            self._fresh = True
            self._rebuild()

    def _rebuild(self) -> None:
        """Derive other data from the new ``_up``, and set ``_fast``."""


class RoundRobin(Policy):
    """Picks each instance in turn. Weights and loads are ignored."""

    __slots__ = ("_last", "_turn")

    def __init__(
        self, members: Iterable[Instance] = (), *, metric: LoadMetric | None = None, random: Random = _random.random
    ) -> None:
        self._turn = -1  # index of the next instance in _up; random at first, so that workers differ
        self._last: Instance | None = None
        super().__init__(members, metric=metric, random=random)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`PickerNode.pick`."""
        if not self._fresh:
            self._refresh()
        up = self._up
        # one of len(exclude) + 1 neighbors is not excluded, so this ends before a full round
        for _ in range(min(len(up), len(exclude) + 1)):
            turn = self._turn
            if turn >= len(up):
                turn = 0
            self._turn = turn + 1
            self._last = chosen = up[turn]
            if not exclude or chosen not in exclude:
                return chosen
        return None

    def _rebuild(self) -> None:
        if self._last is None:
            self._turn = int(self._random() * len(self._up))
        else:
            # continue after the last instance picked, at its current place in the list of members
            place = {instance: index for index, instance in enumerate(self._members)}
            after = place.get(self._last)
            if after is not None:
                self._turn = sum(1 for instance in self._up if place[instance] <= after)


class Weighted(Policy):
    """Picks each instance in proportion to its weight, as evenly spread in time as possible, without bursts.

    The order is earliest deadline first: the next turn of an instance is 1/weight after its last one. The smooth
    weighted round robin of nginx gives a similar order, but looks at every instance for each pick.
    """

    __slots__ = ("_schedule",)

    def __init__(
        self, members: Iterable[Instance] = (), *, metric: LoadMetric | None = None, random: Random = _random.random
    ) -> None:
        self._schedule: EdfScheduler[Instance] = EdfScheduler(random)
        super().__init__(members, metric=metric, random=random)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`PickerNode.pick`."""
        if not self._fresh:
            self._refresh()
        return self._schedule.next(exclude)

    def _rebuild(self) -> None:
        self._schedule.replace((instance, instance.weight * instance.share) for instance in self._up)


class LeastLoaded(Policy):
    """Picks the instance with the least load; instances with equal load take turns.

    The loads are in a heap that is corrected lazily. A load that rose is corrected when its entry is at the top. A load
    that fell gets a new entry at once, and the old entry is removed when it is at the top.
    """

    __slots__ = ("_count", "_heap")

    def __init__(
        self, members: Iterable[Instance] = (), *, metric: LoadMetric | None = None, random: Random = _random.random
    ) -> None:
        self._count = count().__next__
        self._heap: list[tuple[float, int, Instance]] = []
        super().__init__(members, metric=metric, random=random)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`PickerNode.pick`."""
        if not self._fresh:
            self._refresh()
        heap = self._heap
        passed: list[tuple[float, int, Instance]] = []
        chosen = None
        while heap and chosen is None:
            entry = heap[0]
            instance = entry[2]
            if entry is not instance.entry:
                heappop(heap)
            elif exclude and instance in exclude:
                passed.append(heappop(heap))
            else:
                if entry[0] == instance.load:
                    chosen = instance
                # the entry was too low; or the instance is picked, and moves behind those with the same load
                instance.entry = (instance.load, self._count(), instance)
                heapreplace(heap, instance.entry)
        for entry in passed:
            heappush(heap, entry)
        return chosen

    def _adopt(self, instance: Instance) -> None:
        instance.watcher = self._moved

    def _moved(self, instance: Instance) -> None:
        entry = instance.entry
        if entry is not None and instance.load < entry[0]:
            instance.entry = (instance.load, self._count(), instance)
            heap = self._heap
            heappush(heap, instance.entry)
            # old entries that never reach the top are removed when they are three in four
            if len(heap) > 64 + 4 * len(self._up):
                self._heap = [entry for entry in heap if entry is entry[2].entry]
                heapify(self._heap)

    def _rebuild(self) -> None:
        # new members are added from a random one on, so that workers do not start with the same
        start = int(self._random() * len(self._members))
        for instance in self._members[start:] + self._members[:start]:
            if not instance.up:
                instance.entry = None
            elif instance.entry is None:
                instance.entry = (instance.load, self._count(), instance)
        self._heap = [instance.entry for instance in self._up if instance.entry is not None]
        heapify(self._heap)


class PowerOfTwo(Policy):
    """Picks the less loaded of two different instances, drawn at random in proportion to their weights.

    This is as good as a look at all instances to within a constant (Mitzenmacher 2001). Unlike that, gateways that see
    the same loads do not all pick the same instance.
    """

    __slots__ = ("_pairs", "_sums")

    def __init__(
        self, members: Iterable[Instance] = (), *, metric: LoadMetric | None = None, random: Random = _random.random
    ) -> None:
        self._pairs = 0
        self._sums: list[float] = []
        super().__init__(members, metric=metric, random=random)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`PickerNode.pick`."""
        if exclude or not self._fast:
            return self._pick_slowly(exclude)
        up = self._up
        pair = int(self._random() * self._pairs)
        n = len(up)
        first = pair % n
        a = up[first]
        b = up[first - 1 - pair // n]  # 1 to n-1 places before the first one, with negative indices
        return a if a.load <= b.load else b

    def _pick_slowly(self, exclude: tuple[Instance, ...]) -> Instance | None:
        """Pick with excluded instances, unequal weights, fewer than two instances, or invalid tuples."""
        if not self._fresh:
            self._refresh()
            if self._fast and not exclude:
                return self.pick()
        up = self._up
        if len(up) < 2:
            return up[0] if up and up[0] not in exclude else None
        if not exclude:
            a, b = self._draw()
            return a if a.load <= b.load else b
        for _ in range(MAX_DRAWS):
            left = [instance for instance in self._draw() if instance not in exclude]
            if left:
                return left[0] if len(left) == 1 or left[0].load <= left[1].load else left[1]
        return min((instance for instance in up if instance not in exclude), key=_load, default=None)

    def _draw(self) -> tuple[Instance, Instance]:
        """Draw two different instances by weight: the second one from the line of weights without the first one."""
        up = self._up
        sums = self._sums
        last = len(up) - 1
        first = bisect(sums, self._random() * sums[last], 0, last)
        start = sums[first - 1] if first else 0.0
        width = sums[first] - start
        point = self._random() * (sums[last] - width)
        second = bisect(sums, point + width if point >= start else point, 0, last)
        if second == first:  # only by rounding, at a boundary
            second = first - 1 if first else 1
        return up[first], up[second]

    def _rebuild(self) -> None:
        up = self._up
        self._pairs = len(up) * (len(up) - 1)
        self._sums = list(accumulate(instance.weight * instance.share for instance in up))
        self._fast = len(up) > 1 and len({instance.unit for instance in up}) == 1


def _load(instance: Instance) -> float:
    return instance.load
