"""Gateways for tests of rollouts: the real splits and rollouts, with traffic and time from the test."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import exp
from pathlib import Path
from typing import Any

from passerelle.config.loader import load_text
from passerelle.crossing.latency import LatencyHistogram
from passerelle.observability.events import EventLog
from passerelle.supervisor.rollouts import Rollouts
from passerelle.supervisor.split_store import FileStore, SplitStore
from passerelle.supervisor.splits import Settings, Splits

ROUTE = "/a"
PLAN = "steps: [1%, 5%, 25%, 50%, 100%], at_least: 10m, requests: 50"
PLANNED = (0, 10, 50, 250, 500, 1000)


def text(rollout: str | None = PLAN, weight: int = 0, new: str = "new", more: str = "") -> str:
    """Return a configuration; without ``rollout``, the route has a split only."""
    plan = f", rollout: {{{rollout}}}" if rollout is not None else ""
    return f"""
services: {{old: {{targets: ['http://127.0.0.1:1']}}, {new}: {{targets: ['http://127.0.0.1:2']}}}}
routes: [{{path: {ROUTE}, service: old, split: {{weights: {{{new}: {weight}}}}}{plan}{more}}}]
"""


class Time:
    """The time of a test, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def poisson(source: random.Random, mean: float) -> int:
    """Draw from a Poisson distribution: Knuth's method for small means, the normal approximation for large ones."""
    if mean > 30:
        return max(0, round(source.gauss(mean, mean**0.5)))
    limit, number, product = exp(-mean), 0, source.random()
    while product > limit:
        number += 1
        product *= source.random()
    return number


class Gateway:
    """A supervisor's splits and rollouts. What its workers would count comes from :meth:`serve`."""

    def __init__(self, config: str, store: SplitStore, time: Time, seed: int = 0) -> None:
        self.config = load_text(config, "gateway.yaml")
        self.time = time
        self.events = EventLog()
        self.lines: list[str] = []
        self.sent: list[Settings] = []
        self.splits = Splits(self.config, self.events, self.lines.append, self._send, self._read)
        self.shadow: dict[str, Any] = {}
        self.store = store
        self.rollouts = Rollouts(
            lambda: self.config, self.splits, self._shadows, lambda: store, self.events, self.lines.append, time
        )
        self._source = random.Random(seed)
        self._counts: dict[str, dict[str, Any]] = {}

    async def _send(self, settings: Settings) -> None:
        self.sent.append(settings)

    async def _read(self) -> dict[str, Any]:
        return {"splits": {ROUTE: {side: dict(counts) for side, counts in self._counts.items()}}}

    async def _shadows(self) -> list[dict[str, Any]]:
        return [{ROUTE: self.shadow}] if self.shadow else []

    @property
    def share(self) -> int:
        """The share of the new side, in per mille."""
        return list(self.splits.weights(ROUTE).values())[1]

    @property
    def shares(self) -> list[int]:
        """The shares that the workers have received, one after the other."""
        found = [list(settings[ROUTE]["weights"].values())[1] for settings in self.sent]
        return [share for number, share in enumerate(found) if number == 0 or share != found[number - 1]]

    @property
    def status(self) -> dict[str, Any]:
        return self.rollouts.status()[ROUTE]

    async def change(self, action: str, by: str = "admin") -> dict[str, Any]:
        return await self.rollouts.change({"route": ROUTE, "action": action}, by)

    def reload(self, config: str) -> Any:
        self.config = load_text(config, "gateway.yaml")
        return self.splits.adopt(self.config)

    def count(self, side: str, requests: int, failed: int = 0, slow: int = 0, seconds: float = 0.01) -> None:
        """Add to what the workers have counted."""
        counts = self._counts.setdefault(
            side, {"requests": 0, "failed": 0, "failed_users": 0, "slow_users": 0, "latency": LatencyHistogram().counts}
        )
        times = LatencyHistogram()
        times.add(seconds)
        counts["latency"] = [one + requests * two for one, two in zip(counts["latency"], times.counts, strict=True)]
        counts["requests"] += requests
        counts["failed"] += failed
        counts["failed_users"] += failed
        counts["slow_users"] += slow

    def serve(self, rate: float, fails: Mapping[str, float], slow: Mapping[str, float]) -> None:
        """Serve about ``rate`` requests, by the weights in force."""
        for side, weight in self.splits.weights(ROUTE).items():
            requests = rate * weight / 1000
            numbers = (
                poisson(self._source, part) for part in (requests, requests * fails[side], requests * slow[side])
            )
            self.count(side, *numbers)


def gateway(folder: Path, time: Time, config: str | None = None, seed: int = 0) -> Gateway:
    """Return a gateway that keeps its state in ``folder``."""
    made = Gateway(config or text(), FileStore(folder, lambda line: made.lines.append(line), time), time, seed)
    return made


async def minutes(
    made: Gateway, number: int, rate: float = 600.0, new_fails: float = 0.005, new_slow: float = 0.1
) -> None:
    """Let minutes pass, with traffic and one look in each; stop when the rollout has ended."""
    for _ in range(number):
        made.time.now += 60.0
        made.serve(rate, {"old": 0.005, "new": new_fails}, {"old": 0.1, "new": new_slow})
        await made.rollouts.tick()
        if made.status["status"] in ("done", "rolled_back", "aborted"):
            return


class MemoryStore(FileStore):
    """The store without its disk, for many simulations."""

    async def _save(self) -> None:
        self._unsaved = False


async def simulated(seed: int, rate: float, alpha: str, minutes_at_most: int = 240) -> Gateway:
    """Roll out a service that is like the old one, at ``rate`` requests a minute."""
    time = Time()
    config = text(f"{PLAN}, alpha: {alpha}")
    made = Gateway(config, MemoryStore(Path("none"), print, time), time, seed)
    await made.change("start")
    await minutes(made, minutes_at_most, rate)
    return made
