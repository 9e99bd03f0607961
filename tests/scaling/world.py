"""A simulated service: clients, instances with threads, and something behind them that all instances wait for."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from passerelle.scaling.autoscaler import Autoscaler, Decision, Limits, LoadSample

START_SECONDS = 2  # until an added instance is up


@dataclass
class World:
    """Open-loop clients that send ``arrivals(second)`` requests per second, or ``clients(second)`` closed-loop ones.

    An instance serves at most ``threads`` requests at a time, in ``seconds`` each. All of them together serve at most
    ``behind`` requests per second: a database, for example.
    """

    limits: Limits
    instances: int
    seed: int
    arrivals: Callable[[int], float] | None = None
    clients: Callable[[int], int] | None = None
    seconds: float = 0.05
    threads: int = 4
    behind: float = 1e9
    silent: Callable[[int], bool] = lambda second: False
    comes_up: bool = True
    machine_cpu: Callable[[int], float] = lambda instances: 0.1
    scaler: Autoscaler = field(default_factory=Autoscaler)
    changes: list[tuple[int, int, Decision]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._queue = 0.0
        self._second = 0
        self._up = self.instances
        self._pending: tuple[int, int, int] | None = None

    def run(self, seconds: int) -> None:
        """Let ``seconds`` pass."""
        for _ in range(seconds):
            self._second += 1
            self._apply()
            load, rate = self._serve()
            cpu = self.machine_cpu(self._up)
            sample = LoadSample(
                float(self._second),
                None if self.silent(self._second) else load,
                rate,
                self.instances,
                self._up,
                cpu,
                cpu * 0.9,
            )
            self.scaler.add(sample)
            if self._pending is not None:
                continue  # as in the supervisor: no decision while a change is made
            decision = self.scaler.decide(self.limits)
            self.decisions.append(decision)
            if decision.wanted != self.instances:
                self.changes.append((self._second, decision.wanted, decision))
                late = START_SECONDS if decision.wanted > self.instances else 0
                self._pending = (self._second + late, self.instances, decision.wanted)
                self.instances = decision.wanted

    def _apply(self) -> None:
        if self._pending is not None and self._second > self._pending[0]:
            _, before, after = self._pending
            self._pending = None
            self._up = after if self.comes_up or after < before else before
            self.scaler.changed(float(self._second), before, after)

    def _serve(self) -> tuple[float, float]:
        """Return the requests in flight at the end of this second, and those served in it."""
        capacity = min(self._up * self.threads / self.seconds, self.behind)
        if self.clients is not None:
            load = self.clients(self._second)
            return load, min(load / self.seconds, capacity)
        assert self.arrivals is not None
        arrived = self.arrivals(self._second)
        self._queue = max(0.0, self._queue + arrived - capacity)
        served = min(capacity, arrived + self._queue)
        load = self._queue + self._poisson(min(arrived, capacity) * self.seconds)
        return load, served

    def _poisson(self, mean: float) -> int:
        count, left = 0, self._rng.expovariate(1.0)
        while left < mean:
            count += 1
            left += self._rng.expovariate(1.0)
        return count
