"""Retry storm: half of a service's instances freeze for ten seconds while clients time out and retry.

Ten instances run at 65 % of their capacity. From 10 s to 20 s half of them do nothing; requests sent to them wait and
are processed afterwards, although their clients have given up (as with most servers). An attempt has a timeout of one
second. The simulation compares retry and limiting policies by how soon the service recovers.
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
TIMEOUT = 1.0  # per attempt
DEADLINE = 4.0  # per request
BOUND = 64  # limit of requests in flight per instance, if there is one: 0.16 s of work
STEP = 0.5  # step of the curves, in seconds


@dataclass(frozen=True, slots=True)
class Variant:
    """How requests are retried, and which other limits apply."""

    name: str
    attempts: int
    budget: bool = False
    bound: bool = False  # an instance with BOUND in flight takes no more; two others are tried before a 503
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
    """Result of one variant. Curves have one value per :data:`STEP`."""

    variant: str
    failed: float  # part of all requests
    failed_after: float  # part of the requests that arrived after the instances were back
    most_load: float  # maximum of attempts in one second, relative to the fleet's capacity
    recovered: float | None  # seconds after the instances were back until 99 % succeed permanently; None: never
    goodput: tuple[float, ...]  # part of the requests that arrived in this step and succeeded in time
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
    """Run the whole simulation once."""
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
