"""The balancing policies by their names in the configuration.

A new policy has one entry here, and its name in ``PolicyName`` of ``config/models/balance.py``. The table of policies
in the reference is generated from the entries.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from passerelle.balancing.instance import Instance
from passerelle.balancing.peak_ewma import PeakEwma
from passerelle.balancing.policies import LeastLoaded, Policy, PowerOfTwo, Random, RoundRobin, Weighted
from passerelle.balancing.ring_hash import BoundedHash


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """A policy and its row in the reference pages.

    ``picks`` completes "the policy picks …", ``suits`` completes "use it if …".
    """

    policy: type[Policy]
    picks: str
    suits: str
    has_weights: bool = True
    by_latency: bool = False  # load is the peak EWMA of the latency instead of the requests in flight


REGISTRY: dict[str, PolicyEntry] = {
    "round_robin": PolicyEntry(
        RoundRobin, "each instance in turn; weights are ignored", "requests and instances are alike", has_weights=False
    ),
    "weighted": PolicyEntry(
        Weighted, "each instance in proportion to its weight, evenly spread", "speeds differ and are known"
    ),
    "least_inflight": PolicyEntry(
        LeastLoaded,
        "the instance with the fewest requests in flight relative to its weight; equals in turn",
        "few gateways share the service: it then has the shortest tail",
    ),
    "p2c": PolicyEntry(
        PowerOfTwo,
        "the less loaded of two instances drawn at random, by requests in flight relative to their weight",
        "nothing else applies: it is the default",
    ),
    "ewma": PolicyEntry(
        PowerOfTwo,
        "the better of two instances drawn at random, by latency (a moving average that rises at once) times "
        "requests in flight",
        "speeds differ, or many gateways share the service",
        by_latency=True,
    ),
    "hash": PolicyEntry(
        BoundedHash,
        "the instance that a consistent hash of the key selects: the same instance for the same key, as long as it "
        "has no more than 1.25 times its fair share of the requests in flight",
        "instances hold caches or sessions",
    ),
}


def make(
    name: str,
    members: Iterable[Instance] = (),
    *,
    random: Random = _random.random,
    clock: Callable[[], float] = monotonic,
) -> Policy:
    """Make a policy by its name. Raises KeyError if the name is not in :data:`REGISTRY`."""
    entry = REGISTRY[name]
    return entry.policy(members, metric=PeakEwma(clock) if entry.by_latency else None, random=random)
