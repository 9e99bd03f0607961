"""A retry storm: half of a service's instances freeze for ten seconds while clients have a time-out and try again.

Ten instances at 65 % of what they can do. From 10 s to 20 s half of them do nothing; what was sent to them waits and
is done afterwards, though nobody waits for it any more (as it is with most servers). An attempt has one second. What is
compared is how requests are tried again and held back; the question is when the service is itself again afterwards.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from benchmarks.simulation.events import Loop
from benchmarks.simulation.fleet import WORK, WORKERS, Server
from passerelle.balancing.health import HealthSettings, ServiceHealth, apply_snapshot, reached_failure_limit
from passerelle.balancing.instance import Instance
from passerelle.balancing.policies import PowerOfTwo
from passerelle.resilience.retry_budget import RetryBudget, backoff

INSTANCES = 10
LOAD = 0.65
BEGIN, END, STOP = 10.0, 20.0, 50.0
TIMEOUT = 1.0  # of an attempt
DEADLINE = 4.0  # of a request
BOUND = 64  # requests in flight per instance where they are bounded: 0.16 s of work
STEP = 0.5  # of the curves, in seconds


@dataclass(frozen=True, slots=True)
class Variant:
    """How requests are tried again, and what else holds."""

    name: str
    attempts: int
    budget: bool = False
    bound: bool = False  # an instance with BOUND in flight takes no more; two others are tried, then the answer is 503
    ejection: bool = False


VARIANTS = (
    Variant("no retries", 1),
    Variant("3 attempts", 3),
    Variant("3 attempts, budget", 3, budget=True),
    Variant("3 attempts, bound", 3, bound=True),
    Variant("3 attempts, budget, bound", 3, budget=True, bound=True),
    Variant("3 attempts, budget, ejection", 3, budget=True, ejection=True),
    Variant("3 attempts, budget, bound, ejection", 3, budget=True, bound=True, ejection=True),
)


@dataclass(frozen=True, slots=True)
class Storm:
    """What became of it. Curves hold one value for each :data:`STEP`."""

    variant: str
    failed: float  # part of all requests
    failed_after: float  # part of those that came after the instances were back
    most_load: float  # attempts in one second, by what the whole fleet can do in one
    recovered: float | None  # seconds after the instances were back until 99 % succeed for good; None: never
    goodput: tuple[float, ...]  # part of the requests that came in this step and were answered in time
    load: tuple[float, ...]


class _Request:
    __slots__ = ("attempt", "since", "tried")

    def __init__(self, since: float) -> None:
        self.since = since
        self.attempt = 0
        self.tried: tuple[Instance, ...] = ()


class _Run:
    def __init__(self, variant: Variant, instances: int, seed: int) -> None:
        self.variant = variant
        self.chance = random.Random(seed)
        self.loop = Loop()
        self.servers = [Server(1.0, "") for _ in range(instances)]
        members = [Instance(f"i{n}", f"10.0.0.{n}", endpoint=server) for n, server in enumerate(self.servers)]
        self.node = PowerOfTwo(members, random=self.chance.random)
        self.capacity = instances * WORKERS / WORK
        self.budget = RetryBudget()
        self.health = ServiceHealth(HealthSettings(probed=False, slow_start=0.0))
        self.health.replace([instance.identity for instance in members], 0.0)
        self.timer = inf  # when wake() is due
        self.came: Counter[int] = Counter()
        self.good: Counter[int] = Counter()
        self.attempts: Counter[int] = Counter()

    def arrive(self) -> None:
        loop = self.loop
        self.came[int(loop.now / STEP)] += 1
        self.budget.record_requests(loop.now)
        self.attempt(_Request(loop.now))
        following = loop.now + self.chance.expovariate(self.capacity * LOAD)
        if following < STOP:
            loop.at(following, self.arrive)

    def attempt(self, request: _Request) -> None:
        now = self.loop.now
        instance = self.pick(request.tried)
        if instance is None:
            return  # refused at once
        self.node.acquire(instance)
        self.attempts[int(now / STEP)] += 1
        request.attempt += 1
        request.tried = (*request.tried, instance)
        server = instance.endpoint
        if not isinstance(server, Server):
            raise TypeError("an instance without its server")
        done = server.serve(now, self.chance.expovariate(1 / WORK))
        end: Callable[..., None] = self.answered if done <= now + TIMEOUT else self.timed_out
        self.loop.at(min(done, now + TIMEOUT), end, request, instance, now)

    def pick(self, tried: tuple[Instance, ...]) -> Instance | None:
        instance = self.node.pick(tried) or self.node.pick()
        if not self.variant.bound:
            return instance
        for _ in range(2):
            if instance is not None and instance.in_flight >= BOUND:
                tried = (*tried, instance)
                instance = self.node.pick(tried)
        if instance is not None and instance.in_flight < BOUND:
            return instance
        if self.variant.ejection and self.health.report_overload(self.loop.now):
            self.follow_health()
        return None

    def answered(self, request: _Request, instance: Instance, since: float) -> None:
        now = self.loop.now
        self.node.release(instance, True, now - since)
        self.good[int(request.since / STEP)] += 1

    def timed_out(self, request: _Request, instance: Instance, since: float) -> None:
        now = self.loop.now
        self.node.release(instance, False, now - since)
        if self.variant.ejection and reached_failure_limit(instance):
            self.health.report_failing(instance.identity, now)
            self.follow_health()
        if request.attempt < self.variant.attempts and (not self.variant.budget or self.budget.withdraw(now)):
            left = request.since + DEADLINE - now - TIMEOUT
            wait = backoff(request.attempt, self.chance.random, left=left)
            if wait is not None:
                self.loop.at(now + wait, self.attempt, request)

    def follow_health(self) -> None:
        now = self.loop.now
        self.health.tick(now)
        apply_snapshot(self.health.snapshot(now), self.node.members)
        following = self.health.next_change(now)
        if following is not None and following < self.timer:
            self.timer = following
            self.loop.at(following, self.wake)

    def wake(self) -> None:
        self.timer = inf
        self.follow_health()

    def freeze(self) -> None:
        for server in self.servers[: len(self.servers) // 2]:
            server.freeze(END)


def simulate(variant: Variant, instances: int = INSTANCES, seed: int = 1) -> Storm:
    """All of it, once."""
    run = _Run(variant, instances, seed)
    run.loop.at(0.0, run.arrive)
    run.loop.at(BEGIN, run.freeze)
    run.loop.run()
    steps = range(int(STOP / STEP))
    goodput = tuple(run.good[step] / run.came[step] for step in steps)
    load = tuple(run.attempts[step] / STEP / run.capacity for step in steps)
    after = range(int(END / STEP), steps.stop)
    bad = [step for step in after if goodput[step] < 0.99]
    recovered = ((bad[-1] + 1) * STEP - END) if bad else 0.0
    return Storm(
        variant.name,
        1 - run.good.total() / run.came.total(),
        1 - sum(run.good[step] for step in after) / sum(run.came[step] for step in after),
        max(load),
        recovered if recovered < STOP - END else None,
        goodput,
        load,
    )
