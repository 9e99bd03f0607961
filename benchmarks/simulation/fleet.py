"""Simulated servers, each with a number of workers, a speed, and one queue in order of arrival."""

from __future__ import annotations

import math
import random
from heapq import heapreplace

WORKERS = 4  # requests that one instance processes at a time
WORK = 0.010  # mean seconds of work per request at speed 1, exponentially distributed
SLOW_PART = 0.2  # part of the instances in the slow zone
SLOW = 3.0  # times slower
UNEVEN = 0.25  # standard deviation of the logarithm of the speed of any instance


class Server:
    """Simulated server of an instance. The end of a request is known on arrival, since nothing can overtake it."""

    __slots__ = ("_free", "speed", "zone")

    def __init__(self, speed: float, zone: str) -> None:
        self.speed = speed
        self.zone = zone
        self._free = [0.0] * WORKERS  # when each worker becomes idle, as a heap

    def serve(self, now: float, work: float) -> float:
        """Queue ``work`` (seconds at speed 1); return when it will be done."""
        done = max(now, self._free[0]) + work / self.speed
        heapreplace(self._free, done)
        return done

    def backlog(self, now: float) -> float:
        """Return the seconds until a request that arrives now would start."""
        return max(0.0, self._free[0] - now)

    def freeze(self, until: float) -> None:
        """Freeze all workers until ``until``; queued work stays queued."""
        for _ in range(WORKERS):
            heapreplace(self._free, max(self._free[0], until))


def fleet(number: int, chance: random.Random) -> list[Server]:
    """Return ``number`` servers of uneven speed, the last fifth of them in a zone that is three times slower."""
    servers = []
    for place in range(number):
        slow = place >= number * (1 - SLOW_PART)
        speed = math.exp(chance.gauss(0.0, UNEVEN)) / (SLOW if slow else 1.0)
        servers.append(Server(speed, "slow" if slow else "fast"))
    return servers


def capacity(servers: list[Server]) -> float:
    """Return the requests per second that the servers can process."""
    return sum(server.speed for server in servers) * WORKERS / WORK


def percentile(ordered: list[float], part: float) -> float:
    """Return the value below or at which ``part`` of a sorted list lies."""
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
