"""One Redis behind many gateways: how much of its one CPU they use, and how long requests wait for it.

The CPU time of gateways and of Redis is measured (scenario ``many``). Queues, connections and the network are
simulated: each worker is one queue, and Redis serves its connections in turn, all commands that have arrived on one
together. A turn costs a read and a write, so commands that arrive together are cheaper than commands alone.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.simulation.events import Loop
from benchmarks.simulation.fleet import percentile

NETWORK = 0.0001  # seconds from a gateway to Redis, and back
LOAD = 0.5  # of the peak of a worker, as docs/how-to/size-a-system.md advises
FULL = 0.7  # of the CPU of Redis: what is beyond it, is needed for bursts
REQUESTS = 40_000  # of one simulation
WARM = 0.2  # part of the requests that does not count
OVER = 1.5  # of the CPU of Redis, for commands that arrive together: beyond it, nothing is worth a simulation
FULLEST = 0.98  # of the CPU of Redis: beyond it, the queue grows as long as the load lasts
MICRO = 1e-6

LIMIT = "limit"
FOUND, STORED = "found in redis", "stored in redis"


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds. ``worker`` is for each request of a gateway, by what it does.

    ``turn`` and ``check`` are for Redis: each turn of a connection, and each check of a limit in it; ``read`` and
    ``write`` for a response that Redis has, or stores; ``invalidation`` and ``receiver`` for each invalidation, and
    for each worker that receives it.
    """

    worker: Mapping[str, float]
    turn: float
    check: float
    read: float
    write: float
    invalidation: float
    receiver: float

    @property
    def limit(self) -> float:
        """A check of a limit that is alone on its connection."""
        return self.turn + self.check


def costs_of(scenario: Mapping[str, Any]) -> Costs:
    """Return the costs in the results of scenario ``many``. Raises ``ValueError`` if figures are missing."""
    figures = {line["variant"]: line for line in scenario["figures"]}
    try:
        worker = {name: figures[f"worker: {name}"]["ours_us"] * MICRO for name in ("forward", LIMIT, FOUND, STORED)}
        alone, together = (figures[f"redis: limit, {count} in flight"]["ours_us"] * MICRO for count in (1, 16))
        read, write = (figures[f"worker: {name}"]["redis_us"] * MICRO for name in (FOUND, STORED))
    except KeyError as error:
        raise ValueError(f"the results of scenario many have no figure {error.args[0]!r}") from None
    points = [
        (int(variant.removeprefix(_INVALIDATION).split()[0]), line["ours_us"] * MICRO)
        for variant, line in figures.items()
        if variant.startswith(_INVALIDATION)
    ]
    if len(points) < 2:
        raise ValueError("the results of scenario many have no invalidations with several numbers of workers")
    invalidation, receiver = _line(points)
    turn = max(0.0, (alone - together) * 16 / 15)
    return Costs(worker, turn, alone - turn, read, write, invalidation, receiver)


_INVALIDATION = "redis: invalidation, "


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Fit a line by least squares through the point with the fewest workers, which is measured best.

    Return its value at 0, and its slope, neither of them negative.
    """
    (first, lowest), *others = sorted(points)
    slope = sum((at - first) * (value - lowest) for at, value in others) / sum((at - first) ** 2 for at, _ in others)
    slope = max(0.0, slope)
    return max(0.0, lowest - slope * first), slope


@dataclass(frozen=True, slots=True)
class Use:
    """How gateways use Redis: parts of the requests, and invalidations per second of each gateway.

    ``lease`` is the number of requests that one check admits; ``pause`` the seconds in which a worker collects checks
    that it sends together.
    """

    name: str
    checks: float = 0.0
    reads: float = 0.0
    writes: float = 0.0
    invalidations: float = 0.0
    lease: int = 1
    pause: float = 0.0


LIMITS = Use("a limit on every request", checks=1.0)
CACHE = Use("a cache: 10 % of the requests read from Redis, 2 % store", reads=0.10, writes=0.02, invalidations=1.0)
BOTH = Use("both", checks=1.0, reads=0.10, writes=0.02, invalidations=1.0)


def rate_of_worker(costs: Costs, use: Use) -> float:
    """Return the requests per second of a worker at :data:`LOAD` of its peak."""
    each = costs.worker["forward"]
    each += use.checks / use.lease * max(0.0, costs.worker[LIMIT] - costs.worker["forward"])
    each += use.reads * max(0.0, costs.worker[FOUND] - costs.worker["forward"])
    each += use.writes * max(0.0, costs.worker[STORED] - costs.worker["forward"])
    return LOAD / each


def parts_of_redis(costs: Costs, use: Use, gateways: int, workers: int) -> tuple[float, float]:
    """Return the CPUs of Redis for checks of limits that are alone on their connections, and for all else."""
    everyone = gateways * workers
    rate = rate_of_worker(costs, use)
    checks = rate * use.checks / use.lease
    together = max(1.0, checks * use.pause)
    stored = rate * (use.reads * costs.read + use.writes * costs.write)
    invalidation = costs.invalidation + costs.receiver * everyone
    other = everyone * stored + gateways * use.invalidations * invalidation
    return everyone * checks * (costs.check + costs.turn / together), other


def cpu_of_redis(costs: Costs, use: Use, gateways: int, workers: int) -> float:
    """Return how many CPUs Redis would need if each command were alone on its connection."""
    return sum(parts_of_redis(costs, use, gateways, workers))


def most_gateways(costs: Costs, use: Use, workers: int, most: int = 1000) -> int:
    """Return the largest number of gateways whose Redis stays below :data:`FULL`, at most ``most``."""
    return max((count for count in range(1, most + 1) if cpu_of_redis(costs, use, count, workers) <= FULL), default=0)


@dataclass(frozen=True, slots=True)
class Shared:
    """Result: the load of Redis, and the seconds that requests wait for it, network included.

    ``cpu`` is of commands that are alone; ``busy`` what the simulation found, where commands share turns. The times
    are None beyond the capacity of Redis.
    """

    gateways: int
    workers: int
    rps: float
    cpu: float
    busy: float | None
    p50: float | None
    p99: float | None


class _Worker:
    __slots__ = ("arrived", "free", "sending")

    def __init__(self) -> None:
        self.free = 0.0  # when the worker has done what it has to do
        self.sending = False  # collected checks will be sent
        self.arrived: list[float] = []  # when the checks were issued that have not been sent


class _Redis:
    """One CPU that serves connections in turn."""

    def __init__(self, loop: Loop, costs: Costs) -> None:
        self._loop = loop
        self._costs = costs
        self._ready: deque[int] = deque()
        self._queues: dict[int, list[float]] = {}
        self._serving = False
        self.worked = 0.0
        self.waits: list[float] = []

    def receive(self, connection: int, issued: Sequence[float]) -> None:
        queue = self._queues.setdefault(connection, [])
        if not queue:
            self._ready.append(connection)
        queue.extend(issued)
        if not self._serving:
            self._serve()

    def occupy(self, seconds: float) -> None:
        """Do other work for a while, as one turn of a connection of its own."""
        self.receive(-1, [-seconds])

    def _serve(self) -> None:
        if not self._ready:
            self._serving = False
            return
        self._serving = True
        connection = self._ready.popleft()
        issued, self._queues[connection] = self._queues[connection], []
        checking = self._costs.turn + self._costs.check * len(issued)
        took = checking if connection >= 0 else -sum(issued)
        self.worked += took
        self._loop.at(self._loop.now + took, self._done, connection, issued)

    def _done(self, connection: int, issued: Sequence[float]) -> None:
        if connection >= 0:
            self.waits += [self._loop.now + NETWORK - at for at in issued]
        self._serve()


def simulate(costs: Costs, use: Use, gateways: int, workers: int, seed: int = 1) -> Shared:
    """Simulate checks of limits of all workers, and the rest of ``use`` as other work of Redis."""
    everyone = gateways * workers
    rate = rate_of_worker(costs, use)
    cpu = cpu_of_redis(costs, use, gateways, workers)
    checks = everyone * rate * use.checks / use.lease
    _, other = parts_of_redis(costs, use, gateways, workers)
    if not checks or checks * costs.check + other >= OVER:
        return Shared(gateways, workers, everyone * rate, cpu, None, None, None)
    loop, chance = Loop(), random.Random(seed)
    redis = _Redis(loop, costs)
    known = [_Worker() for _ in range(everyone)]
    until = REQUESTS / checks
    each = 1 / rate * LOAD  # seconds of CPU of a worker for one request

    def arrive() -> None:
        number = chance.randrange(everyone)
        worker = known[number]
        worker.free = max(worker.free, loop.now) + each / 2
        loop.at(worker.free, issue, number)
        if loop.now < until:
            loop.at(loop.now + chance.expovariate(checks), arrive)

    def issue(number: int) -> None:
        worker = known[number]
        worker.arrived.append(loop.now)
        if not worker.sending:
            worker.sending = True
            loop.at(loop.now + use.pause, send, number)

    def send(number: int) -> None:
        worker = known[number]
        worker.sending = False
        issued, worker.arrived = worker.arrived, []
        loop.at(loop.now + NETWORK, redis.receive, number, issued)

    def distract() -> None:
        """Spend the time of reads, writes and invalidations in pieces of one turn each."""
        redis.occupy(piece)
        if loop.now < until:
            loop.at(loop.now + chance.expovariate(other / piece), distract)

    piece = max(costs.read, costs.invalidation, MICRO)
    loop.at(0.0, arrive)
    if other:
        loop.at(0.0, distract)
    loop.run(until)
    if redis.worked >= FULLEST * until:
        return Shared(gateways, workers, everyone * rate, cpu, None, None, None)
    waits = sorted(redis.waits[int(len(redis.waits) * WARM) :])
    return Shared(
        gateways,
        workers,
        everyone * rate,
        cpu,
        redis.worked / until,
        percentile(waits, 0.5),
        percentile(waits, 0.99),
    )
