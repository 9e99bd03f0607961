"""Scenario ``bodies``: 1 MB and 1 GB, down and up: bytes forwarded per CPU second, and the growth of the memory."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Target
from benchmarks.peers import programs
from benchmarks.peers.base import Streamer
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.nginx import Nginx, NginxTuned
from benchmarks.rig import procfs, wrk
from benchmarks.rig.core import Rig
from benchmarks.rig.pairs import FOREIGN_LIMIT, median_ratio
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import Server
from benchmarks.rig.sockets import download, upload
from benchmarks.rig.wrk import BROWSER, Load
from benchmarks.scenarios.base import OURS, Bench, peer_names

MB, GB = 10**6, 10**9
RATE, GROWTH = "mb_per_cpu_second", "growth_bytes"
RATE_TARGET = Target(0.6, at_most=False)
GROWTH_TARGET = Target(20 * MB, absolute=True)
_MEMORY = "/dev/shm"  # noqa: S108 - the point is that it is memory
_CLIENTS = 8
_DOWN = Load(f"/{MB}", connections=_CLIENTS)
_UP = Load("/sink", method="PUT", body=MB, connections=_CLIENTS)


@dataclass(frozen=True)
class Moved:
    """One measurement: ``bytes`` of bodies in ``cpu`` seconds of the server, and the peak growth of its memory."""

    bytes: int
    cpu: float
    seconds: float
    growth: int
    errors: int
    foreign: float  # see Run

    @property
    def rate(self) -> float:
        """Return bytes per CPU second; the clock's resolution is one tick."""
        return self.bytes / max(self.cpu, 1 / procfs.TICKS_PER_SECOND)


class Bodies:
    """Bodies of 1 GB over one connection (sent by the kernel on both ends), and of 1 MB over eight."""

    name = "bodies"
    about = "bodies of 1 MB and 1 GB, down and up"
    peers = ("nginx", "nginx-tuned", "haproxy", "envoy")

    def run(self, bench: Bench) -> Iterable[Figure]:
        with sparse_file(GB) as file:
            address = start_upstream(bench, Path(file.name))
            contestants: list[Streamer] = bench.present([Nginx(), NginxTuned(), HAProxy(), Envoy()])
            servers = {}
            for name, gateway in [(OURS, bench.ours()), *((peer.name, peer) for peer in contestants)]:
                site = bench.site(name, [address])
                servers[name] = bench.start(name, site, gateway.stream(site), "/1")
            kinds: dict[str, Callable[[Server], tuple[int, int]]] = {
                "1 GB down": lambda server: (download(server.port, f"/{GB}", BROWSER), 0),
                "1 GB up": lambda server: (upload(server.port, "/sink", BROWSER, file, GB), 0),
                "1 MB down": lambda server: many(bench, server, _DOWN),
                "1 MB up": lambda server: many(bench, server, _UP),
            }
            moved: dict[tuple[str, str], list[Moved]] = {}
            for number in range(1, bench.pairs + 1):
                for kind, move in kinds.items():
                    for name, server in servers.items():
                        each = account(bench.rig, server, move)
                        moved.setdefault((kind, name), []).append(each)
                        bench.keep(f"{kind} {name}", [asdict(each)])
                        bench.progress(
                            f"{number}/{bench.pairs} {kind} {name}: {each.rate / MB:,.0f} MB per CPU second, "
                            f"grown by {each.growth / MB:.1f} MB, {each.seconds:.1f} s"
                        )
        for unit in (RATE, GROWTH):
            for kind in kinds:
                for peer in peer_names(contestants):
                    yield _figure(unit, kind, moved[kind, OURS], peer, moved[kind, peer] if peer else [])


def sparse_file(size: int) -> Any:
    """Open a sparse file, in memory if possible: it takes no space and needs no disk."""
    folder = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    file = tempfile.NamedTemporaryFile(prefix="passerelle-bench-", dir=folder)  # noqa: SIM115 - the caller closes it
    file.truncate(size)
    return file


def start_upstream(bench: Bench, file: Path) -> str:
    """Start the upstream that sends and receives the bodies; return its address."""
    site = bench.site("bodies", ())
    argv = [sys.executable, str(Path(programs.__file__).with_name("bodies.py")), str(site.port), str(file)]
    bench.rig.start("bodies", argv, site.port, site.folder, ready="/1", under_test=False)
    return f"{LOOPBACK}:{site.port}"


def many(bench: Bench, server: Server, load: Load) -> tuple[int, int]:
    """Return the bytes of bodies forwarded, and the errors."""
    answers = wrk.run(load, server.port, bench.brief, bench.rig.load_cpu, bench.rig.folder)
    return answers.requests * MB, answers.errors


def account(rig: Rig, server: Server, move: Callable[[Server], tuple[int, int]]) -> Moved:
    """Run ``move``, and measure the server's CPU time and peak memory meanwhile."""
    procfs.reset_peaks(server.pid)
    memory, cpu, watch = procfs.memory(server.pid).rss, server.cpu_seconds(), rig.watch()
    size, errors = move(server)
    seconds = watch.seconds
    server.check_alive()
    growth = procfs.peak_rss(server.pid) - memory
    return Moved(size, server.cpu_seconds() - cpu, seconds, growth, errors, watch.foreign())


def _figure(unit: str, kind: str, ours: list[Moved], peer: str | None, theirs: list[Moved]) -> Figure:
    errors = sum(each.errors for each in [*ours, *theirs])
    noisy = any(each.foreign > FOREIGN_LIMIT for each in [*ours, *theirs])
    if unit == GROWTH:
        worst = max(each.growth for each in theirs) if theirs else None
        own = max(each.growth for each in ours)
        return Figure(Bodies.name, kind, unit, own, peer, worst, None, len(ours), errors, noisy, GROWTH_TARGET)
    rates, others = [each.rate / MB for each in ours], [each.rate / MB for each in theirs]
    return Figure(
        Bodies.name,
        kind,
        unit,
        statistics.median(rates),
        peer,
        statistics.median(others) if others else None,
        median_ratio(rates, others) if others else None,
        len(ours),
        errors,
        noisy,
        RATE_TARGET if peer in ("nginx", "nginx-tuned") else None,
    )
