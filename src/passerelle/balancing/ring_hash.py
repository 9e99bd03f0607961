"""Consistent hashing with bounded load: requests with the same key go to the same instance unless it is overloaded.

A flat table of cells holds the owner of each part of the key space, so that a lookup is one index instead of a search.
The table depends only on the places (:attr:`.instance.Instance.place`) and weights of the members, not on their order
or history: all workers and replicas have the same table.

Up to :data:`MAX_RENDEZVOUS` instances, each cell has the instance with the highest weighted random score (rendezvous
hashing, Thaler and Ravishankar 1998). The loss of an instance moves its own keys only, and the shares are within a few
percent of the weights. This costs 1 to 3 ms per instance. Larger fleets are therefore placed on a ring (Karger 1997),
the instance with the highest weight at :data:`POINTS` points, the others at fewer in proportion. A cell then has the
owner of the first point at or after it.

A key has not one position but an endless sequence of positions, each the hash of the one before. A request goes to the
first instance in this sequence that is up, not excluded, and below its bound, ``BOUND`` times its fair share of all
requests in flight (Mirrokni, Thorup, Zadimoghaddam 2016). So the requests of a hot key or of a lost instance spread
over all others instead of one neighbour. An instance that comes back gets exactly its old keys back. A change of status
never rebuilds the table.

The bound also makes precisely equal shares unnecessary in large fleets: with 40 points the standard deviation of the
shares is 16 %, and the bound cuts off at 25 %.
"""

from __future__ import annotations

import random as _random
import struct
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import inf, log

from passerelle.balancing.instance import Instance, LoadMetric
from passerelle.balancing.policies import Policy, Random

MAX_RENDEZVOUS = 64
CELLS = 1 << 13  # at least 128 per instance: the standard deviation of the shares is 9 %, with five instances 2 %
POINTS = 40  # a multiple of 8, the number of points from one digest
BOUND = 1.25
MAX_POSITIONS = 32  # positions tried before a full scan; with half of all instances down, all fail once in four billion

_MASK = (1 << 64) - 1


def ring_position(key: bytes) -> int:
    """Return the first position of ``key`` on the ring, 0 to 2**64 - 1; the same in every process."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def next_position(position: int) -> int:
    """Return the next position in the sequence of a key (the finalizer of SplitMix64, a bijection)."""
    position = (position + 0x9E3779B97F4A7C15) & _MASK
    position = ((position ^ (position >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    position = ((position ^ (position >> 27)) * 0x94D049BB133111EB) & _MASK
    return position ^ (position >> 31)


def ring_points(instance: Instance, number: int) -> tuple[int, ...]:
    """Return the first ``number`` points of an instance, which depend on its place."""
    identity = instance.place.encode()
    found: list[int] = []
    for part in range(-(-number // 8)):
        digest = blake2b(identity, digest_size=64, salt=part.to_bytes(8, "big")).digest()
        found.extend(struct.unpack(">8Q", digest))
    return tuple(found[:number])


def build_ring(members: Sequence[Instance]) -> list[Instance]:
    """Return the owner of each cell, for a ring of 2**k cells with k >= 1. ``members`` must not be empty."""
    if len(members) <= MAX_RENDEZVOUS:
        return _rendezvous(members)
    heaviest = max(instance.weight for instance in members)
    bits = (2 * POINTS * len(members)).bit_length()
    shift = 64 - bits
    lowest = [1 << 64] * (1 << bits)  # the first point in each cell
    owners: list[Instance | None] = [None] * (1 << bits)
    for instance in members:
        for point in ring_points(instance, max(1, round(POINTS * instance.weight / heaviest))):
            cell = point >> shift
            if point < lowest[cell]:
                lowest[cell] = point
                owners[cell] = instance
    following = next(owner for owner in owners if owner is not None)  # after the last point follows the first one
    cells = [following] * (1 << bits)
    for cell in range(len(cells) - 1, -1, -1):
        following = owners[cell] or following
        cells[cell] = following
    return cells


def _rendezvous(members: Sequence[Instance]) -> list[Instance]:
    """Return the owner of each of :data:`CELLS` cells: the instance with the highest weighted score."""
    owners: list[Instance] = [members[0]] * CELLS
    best = [-inf] * CELLS
    for instance in members:
        weight = instance.weight
        for cell, unweighted in enumerate(_scores(instance.place)):
            score = unweighted / weight
            if score > best[cell]:
                best[cell] = score
                owners[cell] = instance
    return owners


@lru_cache(maxsize=MAX_RENDEZVOUS)
def _scores(place: str) -> array[float]:
    """Return the scores of an instance of weight 1 for all cells, the same in every process (64 KiB)."""
    seed = int.from_bytes(blake2b(place.encode(), digest_size=16).digest(), "big")
    draw = _random.Random(seed).random
    return array("d", [log(1.0 - draw()) for _ in range(CELLS)])


class BoundedHash(Policy):
    """Picks by key, with bounded load (module docstring). Requests without a key are random, with the same bound.

    A pick takes O(1). A new list of members costs 1 to 3 ms per member up to :data:`MAX_RENDEZVOUS`, above that 15 µs
    (30 µs with 5,000). Status and slow start do not rebuild the table: during slow start, an instance keeps its keys
    and has a lower bound.
    """

    __slots__ = ("_cells", "_in_flight", "_placed", "_shift", "_weight")

    def __init__(
        self, members: Iterable[Instance] = (), *, metric: LoadMetric | None = None, random: Random = _random.random
    ) -> None:
        self._cells: list[Instance] = []
        self._placed: dict[Instance, float] = {}  # the weights that the cells were built from
        self._shift = 64
        self._weight = 0.0  # the sum over members that are up
        self._in_flight = 0  # the sum over all members
        super().__init__(members, metric=metric, random=random)

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`.policies.PickerNode.pick`."""
        if not self._fresh:
            self._refresh()
        if not self._up:
            return None
        weight = self._weight
        for instance in exclude:  # an excluded instance has no share
            if instance.up and instance.owner is self:
                weight -= instance.weight * instance.share
        bound = BOUND * (self._in_flight + 1) / weight if weight > 0 else inf
        position = ring_position(key) if key else int(self._random() * 2**64)
        cells = self._cells
        shift = self._shift
        for _ in range(MAX_POSITIONS):
            chosen = cells[position >> shift]
            # in_flight + 1 <= ceil(bound * weight), without the ceil
            if chosen.up and chosen.in_flight * chosen.unit < bound and (not exclude or chosen not in exclude):
                return chosen
            position = next_position(position)
        first = position % len(self._up)
        left = [instance for instance in self._up[first:] + self._up[:first] if instance not in exclude]
        return min(left, key=lambda instance: instance.in_flight * instance.unit, default=None)

    def _adopt(self, instance: Instance) -> None:
        instance.counted = instance.in_flight
        instance.watcher = self._count

    def _count(self, instance: Instance) -> None:
        self._in_flight += instance.in_flight - instance.counted
        instance.counted = instance.in_flight

    def _rebuild(self) -> None:
        self._in_flight = sum(instance.in_flight for instance in self._members)
        self._weight = sum(instance.weight * instance.share for instance in self._up)
        places: dict[str, Instance] = {}
        for instance in self._members:
            # During a restart, a new process shares the place of the one it replaces. The one that is up has the keys.
            former = places.get(instance.place)
            if former is None or instance.up or not former.up:
                places[instance.place] = instance
        placed = {instance: instance.weight for instance in places.values()}
        if placed != self._placed:
            self._placed = placed
            self._cells = build_ring(list(placed)) if placed else []
            self._shift = 64 - (len(self._cells).bit_length() - 1)
