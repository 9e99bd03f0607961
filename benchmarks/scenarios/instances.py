"""Scenario ``instances``: the same work over 3 and over 1,000 upstream instances, for each policy."""

from __future__ import annotations

import random
import statistics
from collections import deque
from collections.abc import Callable, Iterable

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers import upstreams
from benchmarks.rig import timing
from benchmarks.rig.pairs import Cell, median_ratio
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench
from passerelle.balancing.instance import Instance, acquire, release
from passerelle.balancing.registry import make

POLICIES = ("round_robin", "weighted", "least_inflight", "p2c")
FEW, MANY = 3, 1_000
TARGET = Target(1.5)
PICK_NS = "pick_ns"
_IN_FLIGHT = 64
_PICKS = 10_000
_LOAD = Load("/user/42")
_UPSTREAM_CONNECTIONS = 16_384


class Instances:
    """Compared with itself: a whole request, then a pick with both counters alone in this process.

    Idle connections are kept for longer than a round takes, so that the time for new connections is not measured.
    """

    name = "instances"
    about = "3 to 1,000 upstream instances, for each policy"
    peers = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig, MANY, connections=_UPSTREAM_CONNECTIONS)
        cells = []
        for policy in POLICIES:
            for count in (FEW, MANY):
                site = bench.site(f"{policy}-{count}", addresses[:count])
                command = bench.ours().forward(site, balance=policy, keepalive="60s")
                server = bench.start(f"ours-{policy}-{count}", site, command, _LOAD.path, upstreams.USER)
                cells.append(Cell(_label(policy, count), server, _LOAD, bench.brief))
        runs = bench.in_turn(cells)
        for policy in POLICIES:
            many, few = runs[_label(policy, MANY)], runs[_label(policy, FEW)]
            yield cpu_figure(self.name, _label(policy, MANY), many, f"{FEW} instances", few, TARGET)

        works = {_label(policy, count): picks(policy, count) for policy in POLICIES for count in (FEW, MANY)}
        times = timing.in_turn(works, bench.pairs)
        bench.keep("pick", [dict(zip(times, row, strict=True)) for row in zip(*times.values(), strict=True)])
        for policy in POLICIES:
            ours, theirs = times[_label(policy, MANY)], times[_label(policy, FEW)]
            yield Figure(
                self.name,
                _label(policy, MANY),
                PICK_NS,
                statistics.median(ours),
                f"{FEW} instances",
                statistics.median(theirs),
                median_ratio(ours, theirs),
                bench.pairs,
                target=TARGET,
            )


def _label(policy: str, count: int) -> str:
    return f"{policy}, {count:,} instances"


def picks(policy: str, count: int) -> Callable[[], int]:
    """Return a function that makes ten thousand picks; each is released after 63 more, as with that many in flight."""
    instances = [Instance(str(number), weight=1 + number % 3 if policy == "weighted" else 1) for number in range(count)]
    node = make(policy, instances, random=random.Random(count).random)
    open_work: deque[Instance] = deque()

    def work() -> int:
        pick = node.pick
        for _ in range(_PICKS):
            instance = pick()
            if instance is None:
                raise AssertionError("every instance is up, yet none was picked")
            acquire(instance)
            open_work.append(instance)
            if len(open_work) == _IN_FLIGHT:
                release(open_work.popleft(), True, 0.001)
        return _PICKS

    return work
