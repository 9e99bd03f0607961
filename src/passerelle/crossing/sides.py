"""Which side of a split a user is on: from a hash of the user alone, so that it is the same in every process.

A user has a position on a line, and each side a stretch of it. The first side is the old one and has the middle. The
second side begins at one end of the line and the others at the other end. So when the share of a new side grows at the
expense of the old side, users move from the old side to it and nowhere else. When it shrinks, the same users move back.
This holds for the first two new sides. The growth of a further one also shifts those between it and the old side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

WHOLE: Final = 1000
"""The sum of the weights of all sides: weights are in per mille."""
_LINE: Final = 1 << 64


def position(salt: bytes, user: bytes) -> int:
    """Return the position of ``user``, 0 to 2**64 - 1: the same for the same ``salt`` (0 to 64 bytes)."""
    return int.from_bytes(blake2b(user, digest_size=8, key=salt).digest(), "big")


class Sides:
    """The sides of one split with their weights. :meth:`of` is called for each request."""

    __slots__ = ("_bounds", "_order", "names", "weights")

    def __init__(self, weights: Mapping[str, int]) -> None:
        """``weights`` are in per mille, that of the old side first, and have the sum :data:`WHOLE`."""
        check_weights(weights)
        self.weights = dict(weights)
        self.names = tuple(weights)
        numbers = range(len(weights))
        self._order = [*numbers[1:2], *numbers[:1], *numbers[2:]]
        edges, sum_so_far = [], 0
        for number in self._order:
            sum_so_far += weights[self.names[number]]
            edges.append(sum_so_far * _LINE // WHOLE)
        self._bounds = edges[:-1]

    def of(self, place: int) -> int:
        """Return the number of the side of a user with the position ``place``."""
        number: int = self._order[bisect_right(self._bounds, place)]
        return number


def check_weights(weights: Mapping[str, int]) -> None:
    """Check weights in per mille. :raises ValueError: if one is out of range, or their sum is not 1000."""
    for name, weight in weights.items():
        if not 0 <= weight <= WHOLE:
            raise ValueError(f"found {name}={weight}; a weight is a whole number from 0 to {WHOLE}, in per mille")
    if sum(weights.values()) != WHOLE:
        found = " + ".join(map(str, weights.values()))
        raise ValueError(f"found the weights {found} = {sum(weights.values())}; their sum must be {WHOLE}")
