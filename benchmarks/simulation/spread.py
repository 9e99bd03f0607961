"""Comparison of the policies: latency in a fleet of uneven speed with one slow zone.

Requests arrive at random (Poisson) at 70 % of the fleet's capacity, at some gateways (four) that each see only their
own requests in flight. Keys are drawn from 100 per instance with very uneven frequency (that of the k-th key is
proportional to 1/k).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.simulation.events import Loop
from benchmarks.simulation.fleet import WORK, Server, capacity, fleet, percentile
from passerelle.balancing.instance import Instance
from passerelle.balancing.policies import PickerNode
from passerelle.balancing.registry import REGISTRY, make

SIZES = (10, 100, 1000, 5000)
POLICIES = tuple(REGISTRY)
LOAD = 0.7
GATEWAYS = 4
MORE_GATEWAYS = (1, 4, 32)  # over FEW instances: the loss from seeing only a part of the requests
FEW = 20
WARM_UP = 0.25  # part of the requests that is not counted


@dataclass(frozen=True, slots=True)
class Spread:
    """Result of one policy; latencies are in seconds, without network time."""

    policy: str
    instances: int
    gateways: int
    requests: int
    p50: float
    p99: float
    p999: float
    slow_zone: float  # the zone's part of the requests; its part of the total speed is 0.077
    latencies: tuple[float, ...]  # every 1000th of the sorted list


class _Run:
    def __init__(self, policy: str, number: int, gateways: int, requests: int, seed: int) -> None:
        self.chance = random.Random(seed)
        servers = fleet(number, self.chance)
        self.rate = capacity(servers) * LOAD
        self.loop = Loop()
        # Only "weighted" knows the true speeds: the result of full knowledge without feedback.
        self.nodes: list[PickerNode] = [
            make(
                policy,
                [
                    Instance(
                        f"i{place}", f"10.0.0.{place}", server.speed if policy == "weighted" else 1.0, endpoint=server
                    )
                    for place, server in enumerate(servers)
                ],
                random=self.chance.random,
                clock=self.loop.clock,
            )
            for _ in range(gateways)
        ]
        self.keyed = policy == "hash"
        self.keys = 100 * number
        self.left = requests
        self.warm_up = int(requests * WARM_UP)
        self.latencies: list[float] = []
        self.slow = 0

    def arrive(self) -> None:
        loop, chance = self.loop, self.chance
        node = self.nodes[int(chance.random() * len(self.nodes))]
        chosen = node.pick(key=b"%d" % self.keys ** chance.random() if self.keyed else None)
        if chosen is None:
            raise RuntimeError("no instance was picked although all are up")
        node.acquire(chosen)
        server = chosen.endpoint
        if not isinstance(server, Server):
            raise TypeError("an instance without its server")
        done = server.serve(loop.now, chance.expovariate(1 / WORK))
        loop.at(done, self.leave, node, chosen, loop.now)
        if self.warm_up:
            self.warm_up -= 1
        else:
            self.latencies.append(done - loop.now)
            self.slow += server.zone == "slow"
        self.left -= 1
        if self.left:
            loop.at(loop.now + chance.expovariate(self.rate), self.arrive)

    def leave(self, node: PickerNode, instance: Instance, since: float) -> None:
        node.release(instance, True, self.loop.now - since)


def simulate(policy: str, number: int, requests: int, seed: int = 1, gateways: int = GATEWAYS) -> Spread:
    """Send ``requests`` through ``gateways`` to ``number`` instances and wait for all responses."""
    run = _Run(policy, number, gateways, requests, seed)
    run.loop.at(0.0, run.arrive)
    run.loop.run()
    ordered = sorted(run.latencies)
    return Spread(
        policy,
        number,
        gateways,
        requests,
        percentile(ordered, 0.5),
        percentile(ordered, 0.99),
        percentile(ordered, 0.999),
        run.slow / len(ordered),
        tuple(percentile(ordered, part / 1000) for part in range(1, 1001)),
    )


def requests_for(number: int, *, quick: bool) -> int:
    """Return enough requests for a steady state (60 per instance) and for a 99.9th percentile (at least 100,000).

    ``quick`` suffices for a smoke test and the order of the policies; its tail percentiles are unreliable.
    """
    return min(60_000, max(10_000, number * 40)) if quick else max(100_000, number * 60)


def by_size(number: int, *, quick: bool) -> list[Spread]:
    """Simulate every policy at one size."""
    return [simulate(policy, number, requests_for(number, quick=quick)) for policy in POLICIES]


def by_gateways(*, quick: bool) -> list[Spread]:
    """Simulate every policy with few and with many gateways."""
    requests = requests_for(FEW, quick=quick)
    return [simulate(policy, FEW, requests, gateways=gateways) for gateways in MORE_GATEWAYS for policy in POLICIES]
