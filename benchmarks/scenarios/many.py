"""Scenario ``many``: more than one worker and more than one gateway, and what they cost the Redis that they share.

**Throughput.** One worker, two workers, and nginx with the exported file in front of two gateways. All of it uses both
CPUs: gateways, nginx, the upstream, and the load. The shares of the CPU are part of the figures, since a second worker
gets only what the load and the upstream leave.

**Redis.** With a gateway at its peak, whose worker has a CPU of its own, and whose Redis shares the other CPU with the
load: CPU time of the gateway and of Redis for each request. Then Redis alone under the gateway's own clients: checks of
limits with one and with many in flight on each connection, and invalidations that 0 to 300 workers receive.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from benchmarks.figures import CPU_US, RPS, Figure
from benchmarks.peers import upstreams
from benchmarks.peers.base import Command, program
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.redis import Redis, keys_of, keyspace_hits
from benchmarks.rig import procfs, redis_load, wrk
from benchmarks.rig.core import Rig
from benchmarks.rig.pairs import FOREIGN_LIMIT, median_ratio
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.redis_load import Cost
from benchmarks.rig.server import RigError, Server
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench
from benchmarks.scenarios.hit import HEADERS

LOAD = Load("/user/{}", varying=True, headers=HEADERS)
FEWER = replace(LOAD, connections=16)  # so that Redis replies in time on a slow machine, too
STORED = 5_000  # responses that Redis has, and the memory of the gateway has not
MEMORY = "64KiB"
SUBSCRIBERS = (0, 30, 100, 300)
IN_FLIGHT = (1, 16)
ONE, TWO, FRONT = "one worker", "two workers", "nginx, two gateways"
PLAIN, LIMIT, FOUND, STORING = "forward", "limit", "found in redis", "stored in redis"
_MOST = 0.9
_FILL_RUNS = 60
Settings = Mapping[str, Any]
_LIMIT = {"rate": "1000000/s", "burst": 1_000_000, "by": "header:X-Trace"}
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Part:
    """A system under load: the server that clients connect to, and all servers by what they are."""

    name: str
    front: Server
    servers: Mapping[str, Sequence[Server]]
    load: Load = LOAD


@dataclass(frozen=True)
class Taken:
    """One run: requests per second, CPU seconds of each kind of server and of the load, and the CPUs of others.

    ``hits`` is the number of keys that Redis was read for and had.
    """

    rps: float
    requests: int
    seconds: float
    errors: int
    cpu: Mapping[str, float]
    foreign: float
    hits: int

    def us(self, kind: str) -> float:
        """Return the CPU microseconds of one request."""
        return self.cpu[kind] / self.requests * 1e6

    def share(self, kind: str) -> float:
        """Return the part of the two CPUs."""
        return self.cpu[kind] / self.seconds / 2


class Many:
    """Throughput of several workers and gateways, and the cost of sharing a Redis."""

    name = "many"
    about = "one and two workers, nginx with two gateways, and what they cost Redis"
    peers = (Nginx.name, Redis.name)

    def run(self, bench: Bench) -> Iterable[Figure]:
        yield from self._throughput(bench)
        for redis in bench.present([Redis()]):
            yield from self._shared(bench, redis)
            yield from self._redis_alone(bench, redis)

    # ---- throughput

    def _throughput(self, bench: Bench) -> Iterable[Figure]:
        server, addresses = upstreams.start(bench.rig)
        found = [
            Part(name, front, {"gateway": [front], "upstream": [server]})
            for name, workers in ((ONE, 1), (TWO, 2))
            for front in [_up(bench, name, addresses, workers)]
        ]
        if bench.present([Nginx()]):
            found.append(_front(bench, server, addresses))
        runs = _in_turn(bench, found, bench.rig.both_cpus)
        bench.rig.stop(*{each for part in found for servers in part.servers.values() for each in servers})
        for name, beside in ((ONE, None), (TWO, ONE), (FRONT, TWO)):
            if name not in runs:
                continue
            ours, theirs = [run.rps for run in runs[name]], [run.rps for run in runs.get(beside or "", ())]
            yield Figure(
                self.name,
                name,
                RPS,
                statistics.median(ours),
                beside,
                statistics.median(theirs) if theirs else None,
                median_ratio(ours, theirs) if theirs else None,
                more=_shares(runs[name]),
                **_state(runs[name]),
            )

    # ---- a gateway and its Redis

    def _shared(self, bench: Bench, redis: Redis) -> Iterable[Figure]:
        upstream, addresses = upstreams.start(bench.rig, kept=True)
        store = redis.start(bench.rig, under_test=False)
        url = f"redis://{LOOPBACK}:{store.port}"
        parts = []
        cached: Settings = {"cache": {}}
        small: Settings = {"cache": {"memory": MEMORY}}
        kinds: tuple[tuple[str, Load, Settings, Settings], ...] = (
            (PLAIN, LOAD, {}, {}),
            (LIMIT, LOAD, {"rate_limit": _LIMIT}, {}),
            (FOUND, replace(FEWER, spread=STORED), cached, small),
            (STORING, FEWER, cached, small),
        )
        for database, (name, load, route, top) in enumerate(kinds):
            more = {**top, "redis": f"{url}/{database}"} if route else top
            site = bench.site(name, addresses)
            command = bench.ours(access_log=False).forward(site, more=more, on_route=route)
            front = bench.start(name, site, command, LOAD.sample(), headers=HEADERS)
            parts.append(Part(name, front, {"gateway": [front], "redis": [store], "upstream": [upstream]}, load))
        filled = [part.name for part in parts].index(FOUND)
        _fill(bench, parts[filled], store, filled)
        runs = _in_turn(bench, parts, bench.rig.load_cpu)
        bench.rig.stop(upstream, store, *(part.front for part in parts))
        for part in parts:
            taken = runs[part.name]
            _check_hits(part, taken)
            more = {"redis_us": statistics.median(run.us("redis") for run in taken)} if part.name != PLAIN else {}
            own = statistics.median(run.us("gateway") for run in taken)
            rps = statistics.median(run.rps for run in taken)
            yield Figure(
                self.name, f"worker: {part.name}", CPU_US, own, more={"ours_rps": rps, **more}, **_state(taken)
            )

    # ---- Redis alone

    def _redis_alone(self, bench: Bench, redis: Redis) -> Iterable[Figure]:
        store = redis.start(bench.rig, under_test=True)
        for count in IN_FLIGHT:
            yield _cost(
                bench,
                f"redis: limit, {count} in flight",
                partial(redis_load.limit_checks, store, count, bench.brief),
            )
        for count in SUBSCRIBERS:
            yield _cost(
                bench,
                f"redis: invalidation, {count} workers",
                partial(redis_load.invalidations, store, count, bench.brief),
            )


def _up(bench: Bench, name: str, addresses: Sequence[str], workers: int) -> Server:
    """Start the supervisor with a number of workers on both CPUs."""
    site = bench.site(name, addresses)
    words = bench.ours(access_log=False).forward(site).argv
    program_, _, file = words
    command = Command([program_, "up", file, "--workers", str(workers)])
    return bench.start(name, site, command, LOAD.sample(), headers=HEADERS, both=True)


def _front(bench: Bench, upstream: Server, addresses: Sequence[str]) -> Part:
    """Start two gateways, and nginx in front of them with the file that ``passerelle export`` writes."""
    gateways = []
    for number in (1, 2):
        site = bench.site(f"gateway-{number}", addresses)
        command = bench.ours(access_log=False).forward(site, more={"trusted_proxies": [LOOPBACK]})
        gateways.append(bench.start(f"gateway-{number}", site, command, LOAD.sample(), headers=HEADERS, both=True))
    site = bench.site("nginx-front", ())
    program_, _, file = command.argv
    listed = ",".join(f"{LOOPBACK}:{server.port}" for server in gateways)
    words = [program_, "export", "nginx", file, "--gateways", listed, "--listen", f"{LOOPBACK}:{site.port}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"export failed: {done.stderr}")
    temporary = "".join(f"    {kind}_temp_path {site.folder}/{kind};\n" for kind in _TEMPORARY)
    text = done.stdout.replace("\nhttp {\n", f"\nhttp {{\n    access_log off;\n{temporary}", 1)
    path = site.write("nginx.conf", text)
    own = f"daemon off; pid {site.folder}/nginx.pid; error_log stderr warn;"
    argv = [program("nginx"), "-p", str(site.folder), "-c", str(path), "-e", "stderr", "-g", own]
    front = bench.start("nginx-front", site, Command(argv), LOAD.sample(), headers=HEADERS, both=True)
    return Part(FRONT, front, {"nginx": [front], "gateway": gateways, "upstream": [upstream]})


def _fill(bench: Bench, part: Part, redis: Server, database: int) -> None:
    """Request the responses until Redis has nearly all of them. Raises ``RigError`` if that takes too long."""
    bench.progress(f"filling Redis with {part.load.spread:,} responses")
    asked = 0
    for _ in range(_FILL_RUNS):
        rest = replace(part.load, start=asked % part.load.spread)
        asked += wrk.run(rest, part.front.port, 1, bench.rig.load_cpu, bench.rig.folder).requests
        if asked >= part.load.spread and keys_of(redis, database) >= part.load.spread * _MOST:
            return
    raise RigError(f"Redis was not filled: {keys_of(redis, database):,} of {part.load.spread:,} responses")


def _in_turn(bench: Bench, parts: Sequence[Part], load_cpu: int | str) -> dict[str, list[Taken]]:
    """Measure all parts in turn, ``pairs`` times; keep every run."""
    runs: dict[str, list[Taken]] = {part.name: [] for part in parts}
    first = {part.name: wrk.run(part.load, part.front.port, 1, load_cpu, bench.rig.folder).requests for part in parts}
    for number in range(1, bench.pairs + 1):
        for part in parts:
            taken = _measure(bench.rig, part, bench.seconds, load_cpu, first[part.name])
            first[part.name] += taken.requests
            runs[part.name].append(taken)
            bench.progress(f"{number}/{bench.pairs} {part.name}: {taken.rps:,.0f} requests/s")
    for name, each in runs.items():
        bench.keep(name, [asdict(run) for run in each])
    return runs


def _measure(rig: Rig, part: Part, seconds: int, load_cpu: int | str, start: int) -> Taken:
    """Load a system once. The requests follow number ``start``, so that they are new where the load does not repeat."""

    def used() -> dict[str, float]:
        found = {
            kind: sum(procfs.run_nanoseconds(server.pid) for server in servers) / 1e9
            for kind, servers in part.servers.items()
        }
        return {**found, "load": wrk.own_cpu_seconds()}

    redis = part.servers.get("redis", ())
    load = replace(part.load, start=start % part.load.spread if part.load.spread else start)
    watch = rig.watch()
    before, hits = used(), sum(map(keyspace_hits, redis))
    answers = wrk.run(load, part.front.port, seconds, load_cpu, rig.folder)
    after, hits = used(), sum(map(keyspace_hits, redis)) - hits
    foreign = watch.foreign()
    for servers in part.servers.values():
        for server in servers:
            server.check_alive()
    if not answers.requests:
        raise RigError(f"{part.name}: no response in {seconds} s")
    cpu = {kind: after[kind] - before[kind] for kind in before}
    return Taken(answers.rps, answers.requests, answers.seconds, answers.errors, cpu, foreign, hits)


def _check_hits(part: Part, runs: Sequence[Taken]) -> None:
    """Raise ``RigError`` unless Redis has all responses of the one part, and none of the other."""
    found = statistics.median(run.hits / run.requests for run in runs)
    if (part.name == FOUND and found < _MOST) or (part.name == STORING and found > 1 - _MOST):
        raise RigError(f"{part.name}: Redis had {found:.2f} keys for a request")


def _shares(runs: Sequence[Taken]) -> dict[str, float]:
    """Return the medians of what each kind of process takes of the two CPUs."""
    return {f"{kind}_share": statistics.median(run.share(kind) for run in runs) for kind in runs[0].cpu}


def _state(runs: Sequence[Taken]) -> dict[str, Any]:
    return {
        "pairs": len(runs),
        "errors": sum(run.errors for run in runs),
        "noisy": any(run.foreign > FOREIGN_LIMIT for run in runs),
    }


def _cost(bench: Bench, variant: str, measure: Callable[[], Coroutine[Any, Any, Cost]]) -> Figure:
    """Measure an operation ``pairs`` times; the figure is the median."""
    found, foreign = [], []
    for number in range(1, bench.pairs + 1):
        watch = bench.rig.watch()
        cost = asyncio.run(measure())
        foreign.append(watch.foreign())
        found.append(cost)
        bench.progress(f"{number}/{bench.pairs} {variant}: {cost.us:.2f} us")
    bench.keep(variant, [cost._asdict() for cost in found])
    noisy = any(each > FOREIGN_LIMIT for each in foreign)
    return Figure(
        Many.name, variant, CPU_US, statistics.median(cost.us for cost in found), pairs=len(found), noisy=noisy
    )
