"""Adaptive limit in front of a service with a queue: random arrivals, several distributions of work, and any load."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulation.events import Loop
from benchmarks.simulation.fleet import percentile
from passerelle.resilience.adaptive_limit import AdaptiveLimit
from passerelle.resilience.admission import AdmissionQueue

MEAN = 0.05  # mean seconds of work per request
WAITING = 256  # queue before the limit, the default of `max_waiting`
TIMEOUT = 30.0  # a later response is of no use to any client
UNTIL = 60.0
WORKERS = 40
LOADS = (0.5, 0.9, 3.0)

Work = Callable[[random.Random], float]
WORK: dict[str, Work] = {
    "alike": lambda chance: MEAN * chance.uniform(0.9, 1.1),
    "exponential": lambda chance: chance.expovariate(1 / MEAN),
    "a long tail": lambda chance: MEAN * chance.lognormvariate(-1.125, 1.5),
    "two routes": lambda chance: MEAN * (5 if chance.random() < 0.1 else 5 / 9),
}


@dataclass(frozen=True, slots=True)
class Limited:
    """Result of a run. Times are in seconds from arrival to the end, including the wait."""

    work: str
    load: float
    adaptive: bool
    served: float  # successful throughput in time, as a part of the service's capacity
    refused: float  # part of the arrived requests
    least: int  # the minimum of the limit in the last two thirds
    most: int
    p50: float
    p99: float


class _Run:
    def __init__(self, work: Work, workers: int, load: float, limit: AdaptiveLimit | None, seed: int) -> None:
        self.loop = Loop()
        self.chance = random.Random(seed)
        self.work = work
        self.rate = load * workers / MEAN
        self.limit = limit
        self.gate = AdmissionQueue(limit.limit if limit is not None else 10**9, WAITING)
        self.free = [0.0] * workers  # when each worker becomes idle
        self.queue: deque[float] = deque()
        self.came = self.refused = self.served = 0
        self.latencies: list[float] = []
        self.limits: list[int] = []

    def arrive(self) -> None:
        now = self.loop.now
        self.came += 1
        admission = self.gate.enter().value
        if admission == "run":
            self.begin(now)
        elif admission == "wait":
            self.queue.append(now)
        else:
            self.refused += 1
        self.loop.at(now + self.chance.expovariate(self.rate), self.arrive)
        self.limits.append(self.gate.limit)

    def begin(self, since: float) -> None:
        now = self.loop.now
        done = max(heapq.heappop(self.free), now) + self.work(self.chance)
        heapq.heappush(self.free, done)
        self.loop.at(done, self.end, since, now)

    def end(self, since: float, begun: float) -> None:
        now = self.loop.now
        self.latencies.append(now - since)
        self.served += now - since <= TIMEOUT
        if self.limit is not None:
            self.limit.observe(now - begun, self.gate.running, True, now)
            self.gate.limit = self.limit.limit
        moved = self.gate.leave()
        while moved:
            self.begin(self.queue.popleft())
            moved = self.gate.promote()


def simulate(
    work: str,
    load: float,
    limit: AdaptiveLimit | None,
    *,
    workers: int = WORKERS,
    until: float = UNTIL,
    seed: int = 1,
) -> Limited:
    """Run once; without ``limit`` all requests go to the service at once and queue there."""
    run = _Run(WORK[work], workers, load, limit, seed)
    run.loop.at(0.0, run.arrive)
    run.loop.run(until)
    limits = run.limits[len(run.limits) // 3 :]
    latencies = sorted(run.latencies)
    return Limited(
        work,
        load,
        limit is not None,
        run.served * MEAN / workers / until,
        run.refused / run.came,
        min(limits),
        max(limits),
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
    )


def all_of_them() -> list[Limited]:
    """Run every kind of work at every load, with the limit and without."""
    return [
        simulate(work, load, AdaptiveLimit() if adaptive else None)
        for work in WORK
        for load in LOADS
        for adaptive in (False, True)
    ]
