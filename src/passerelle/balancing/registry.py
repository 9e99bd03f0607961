"""The names of policies in configuration, each a choice and a load metric."""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterable
from time import monotonic

from passerelle.balancing.instance import Instance
from passerelle.balancing.peak_ewma import PeakEwma
from passerelle.balancing.policies import POLICIES, Policy, PowerOfTwo, Random
from passerelle.balancing.ring_hash import BoundedHash

# name -> (choice, whether load is peak EWMA instead of requests in flight)
CATALOG: dict[str, tuple[type[Policy], bool]] = {
    **{name: (choice, False) for name, choice in POLICIES.items()},
    "ewma": (PowerOfTwo, True),
    "hash": (BoundedHash, False),
}


def make(
    name: str,
    members: Iterable[Instance] = (),
    *,
    random: Random = _random.random,
    clock: Callable[[], float] = monotonic,
) -> Policy:
    """A policy by its name. Raises KeyError for a name that is not in :data:`CATALOG`."""
    choice, by_latency = CATALOG[name]
    return choice(members, metric=PeakEwma(clock) if by_latency else None, random=random)
