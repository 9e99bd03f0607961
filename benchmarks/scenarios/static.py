"""Scenario ``static``: files of a folder, one of 10 KB and one of 100 MB, beside nginx."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.figures import CPU_US, Figure, Target, cpu_figure
from benchmarks.peers.base import Command, Peer, Site
from benchmarks.peers.nginx import Nginx
from benchmarks.rig.pairs import FOREIGN_LIMIT, Cell, median_ratio
from benchmarks.rig.server import Server
from benchmarks.rig.sockets import download
from benchmarks.rig.wrk import BROWSER, Load
from benchmarks.scenarios.base import BOTH_LOG, OURS, Bench, peer_names
from benchmarks.scenarios.bodies import Moved, account

SMALL, LARGE = "10 KB", "100 MB"
LOAD = Load("/10k.json?{}", varying=True)
FILES = 10  # downloads of a run: the clock of the CPU time has a resolution of 10 ms
TARGETS = {SMALL: Target(1.5), LARGE: Target(1.3)}


class FileServer(Peer, Protocol):
    """Serves the files of a folder, with one process."""

    def static(self, site: Site, folder: Path) -> Command: ...


class Static:
    """The small file with and without access logs; the large one over one connection at a time, in the page cache."""

    name = "static"
    about = "serve a file of 10 KB, and one of 100 MB"
    peers = ("nginx",)

    def run(self, bench: Bench) -> Iterable[Figure]:
        folder = bench.rig.subfolder("files")
        noise = random.Random(1)
        (folder / "10k.json").write_bytes(b'["' + noise.randbytes(4998).hex().encode() + b'"]')
        (folder / "100m.bin").write_bytes(noise.randbytes(1_000_000) * 100)
        cells, servers = [], {}
        for suffix in (BOTH_LOG, ""):
            logs = suffix == BOTH_LOG
            contestants: list[FileServer] = bench.present([Nginx(access_log=logs)])
            for peer in (bench.ours(access_log=logs), *contestants):
                label = peer.name + suffix
                site = bench.site(label, ())
                server = bench.start(label, site, peer.static(site, folder), LOAD.sample())
                cells.append(Cell(f"{SMALL} {label}", server, LOAD, bench.seconds if logs else bench.brief))
                servers[label] = server
        runs = bench.in_turn(cells)
        names = peer_names(contestants)
        for suffix in (BOTH_LOG, ""):
            for name in names:
                theirs = runs[f"{SMALL} {name}{suffix}"] if name else ()
                ours = runs[f"{SMALL} {OURS}{suffix}"]
                yield cpu_figure(self.name, SMALL + suffix, ours, name, theirs, TARGETS[SMALL])
        moved: dict[str, list[Moved]] = {}
        for number in range(1, bench.pairs + 1):
            for label in (OURS, *(name for name in names if name)):
                each = account(bench.rig, servers[label], _downloads)
                moved.setdefault(label, []).append(each)
                bench.keep(f"{LARGE} {label}", [{"us": _cpu(each), "seconds": each.seconds, "growth": each.growth}])
                bench.progress(f"{number}/{bench.pairs} {LARGE} {label}: {_cpu(each):,.0f} us of CPU a file")
        for name in names:
            yield _large(moved[OURS], name, moved[name] if name else ())


def _downloads(server: Server) -> tuple[int, int]:
    return sum(download(server.port, "/100m.bin", BROWSER) for _ in range(FILES)), 0


def _cpu(moved: Moved) -> float:
    """Return the CPU time of one file in microseconds."""
    return moved.cpu * 1e6 / FILES


def _large(ours: Sequence[Moved], peer: str | None, theirs: Sequence[Moved]) -> Figure:
    own, others = [_cpu(each) for each in ours], [_cpu(each) for each in theirs]
    noisy = any(each.foreign > FOREIGN_LIMIT for each in [*ours, *theirs])
    return Figure(
        Static.name,
        LARGE,
        CPU_US,
        statistics.median(own),
        peer,
        statistics.median(others) if others else None,
        median_ratio(own, others) if others else None,
        len(own),
        0,
        noisy,
        TARGETS[LARGE],
    )
