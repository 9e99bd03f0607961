"""Scenario ``overload``: three times as many requests as the service can process.

The instances have a known capacity: each processes a fixed number of requests at a time. The gateway admits that many
and queues a few more; further requests are refused. Goodput counts responses with 200. The peak is measured with
slightly more clients than there is room for, so that the service is never idle and nothing is refused.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Target
from benchmarks.peers.base import Command
from benchmarks.rig.clients import Answer, Steady, offer, p99
from benchmarks.rig.pairs import FOREIGN_LIMIT
from benchmarks.rig.ports import LOOPBACK
from benchmarks.scenarios.base import OURS, Bench

TIMES = 3
INSTANCES = 3
PLACES = 4  # per instance
WORK = 0.02  # seconds per request: 600 a second in total
WAITING = 8  # per instance, in the gateway
PATH = "/user/42"
PROGRAM = Path(__file__).parents[1] / "peers" / "programs" / "paced.py"
GOODPUT, REFUSED_MS = Target(0.9, at_most=False), Target(10.0, absolute=True)


@dataclass(frozen=True)
class Round:
    """Requests per second, and latencies in milliseconds."""

    peak_rps: float
    good_rps: float
    offered_rps: float
    refused: int
    refused_p99_ms: float
    admitted_p99_ms: float
    peak_p99_ms: float
    errors: int  # neither responses with 200 nor refusals with 503 and Retry-After
    foreign: float


class Overload:
    """Peak and overload in turn, ``pairs`` times."""

    name = "overload"
    about = f"{TIMES} times the capacity: goodput beside its peak, and how soon refusals come"
    peers = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        ports = [bench.rig.port() for _ in range(INSTANCES)]
        argv = [sys.executable, str(PROGRAM), str(WORK), str(PLACES), *map(str, ports)]
        folder = bench.rig.subfolder("paced")
        bench.rig.start("paced", argv, ports[0], folder, ready=PATH, under_test=False)
        site = bench.site(OURS, [f"{LOOPBACK}:{port}" for port in ports])
        command: Command = bench.ours().forward(site, max_connections=PLACES, max_waiting=WAITING)
        server = bench.start(OURS, site, command, PATH)
        _peak(server.port, 1.0)  # warm up
        rounds = []
        for number in range(1, bench.pairs + 1):
            rounds.append(_round(bench, server.port))
            last = rounds[-1]
            bench.progress(
                f"{number}/{bench.pairs} peak {last.peak_rps:,.0f}/s, then {last.good_rps:,.0f}/s of "
                f"{last.offered_rps:,.0f}/s; refusals p99 {last.refused_p99_ms:.1f} ms; {last.errors} errors"
            )
        bench.rig.stop(server)
        bench.keep(OURS, [vars(each) for each in rounds])
        yield from figures(rounds)


def _peak(port: int, seconds: float) -> list[Answer]:
    """Return the responses to half as many clients again as there are places."""
    with Steady(port, [PATH], INSTANCES * PLACES * 3 // 2) as load:
        begun = time.monotonic()
        time.sleep(seconds)
        return load.between(begun, begun + seconds)


def _round(bench: Bench, port: int) -> Round:
    watch = bench.rig.watch()
    peak = _peak(port, bench.seconds)
    rate = len(peak) / bench.seconds
    answers = offer(port, PATH, TIMES * rate, bench.seconds)
    good = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 503 and answer.retry_after]
    begun, end = min(answer.at for answer in answers), max(answer.end for answer in answers)
    return Round(
        rate,
        len(good) / (end - begun),
        len(answers) / bench.seconds,
        len(refused),
        p99([answer.seconds for answer in refused]) * 1e3,
        p99([answer.seconds for answer in good]) * 1e3,
        p99([answer.seconds for answer in peak]) * 1e3,
        len(answers) - len(good) - len(refused) + sum(answer.status != 200 for answer in peak),
        watch.foreign(),
    )


def figures(rounds: list[Round]) -> Iterable[Figure]:
    """Return the two headline figures, with further values that explain them."""
    errors = sum(each.errors for each in rounds)
    noisy = any(each.foreign > FOREIGN_LIMIT for each in rounds)

    def median(name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in rounds))

    yield Figure(
        Overload.name,
        f"goodput at {TIMES} x",
        "rps",
        median("good_rps"),
        "its peak",
        median("peak_rps"),
        statistics.median(each.good_rps / each.peak_rps for each in rounds),
        len(rounds),
        errors,
        noisy,
        GOODPUT,
        {
            "offered_rps": median("offered_rps"),
            "p99_ms": median("admitted_p99_ms"),
            "peak_p99_ms": median("peak_p99_ms"),
        },
    )
    yield Figure(
        Overload.name,
        f"refusals at {TIMES} x",
        "p99_ms",
        median("refused_p99_ms"),
        pairs=len(rounds),
        noisy=noisy,
        target=REFUSED_MS,
        more={"refused": sum(each.refused for each in rounds)},
    )
