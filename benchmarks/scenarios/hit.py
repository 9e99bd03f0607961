"""Scenario ``hit``: serve from the cache, with ten entries up to a million.

The load is that of the other scenarios without two fields that would prevent hits: ``Cache-Control: no-cache`` and
``Authorization``. Two other fields replace them. If only the path varies, a third field replaces the one that otherwise
differs in every request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers import upstreams
from benchmarks.peers.base import Command, Peer, Site
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.varnish import Varnish
from benchmarks.rig import procfs, wrk
from benchmarks.rig.pairs import Cell
from benchmarks.rig.server import RigError, Server
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import BOTH_LOG, FIXED, OURS, VARYING, Bench

HEADERS = {name: value for name, value in wrk.BROWSER.items() if name not in ("Authorization", "Cache-Control")} | {
    "X-Requested-With": "XMLHttpRequest",
    "Priority": "u=1, i",
}
LOADS = {
    FIXED: Load("/user/42", headers=HEADERS),
    VARYING: Load("/user/{}", varying=True, spread=10, headers=HEADERS),
}
_ALIKE = {name: value for name, value in HEADERS.items() if name != "X-Trace"} | {"Sec-Fetch-Site": "same-origin"}
PATHS = replace(LOADS[VARYING], headers=_ALIKE)
TEN = "10-entries"
MEMORY = 4 << 30  # bytes: enough for a million entries
MANY = 1_000_000
TARGETS: dict[str | None, Target] = {"nginx": Target(0.75), "varnish": Target(0.6)}
_FILL_RUNS = 30
_FILL_SECONDS = 10


class Cacher(Peer, Protocol):
    """Caches ``/user/ID`` as the upstream's ``Cache-Control`` allows, in at most ``memory`` bytes."""

    def cached(self, site: Site, memory: int) -> Command: ...


class Hit:
    """Cache hits only, with and without access logs; Varnish, whose log is written by another process, without."""

    name = "hit"
    about = "answer out of the cache"
    peers = ("nginx", "varnish")

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig, kept=True)
        logging: list[Cacher] = bench.present([Nginx(access_log=True)])
        silent: list[Cacher] = bench.present([Nginx(), Varnish()])
        yield from bench.with_and_without_logs(
            self.name,
            addresses,
            {**LOADS, TEN: PATHS},
            upstreams.USER,
            {BOTH_LOG: logging, "": silent},
            lambda peer, site: peer.cached(site, MEMORY),
            lambda _, name: TARGETS.get(name),
        )


class Entries:
    """Hits with ten entries and with ``MANY``, which are requested in turn so that none is in the CPU's caches.

    nginx has ten entries in both cases: a million of its files would measure the disk. ``bytes_per_entry`` is the
    growth of passerelle's process per entry, including key, fields and a body of 100 bytes.
    """

    name = "entries"
    about = "hits among ten and among a million entries"
    peers = ("nginx",)

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig, kept=True)
        contestants: list[Cacher] = bench.present([Nginx()])
        cells = []
        for peer in (bench.ours(access_log=False), *contestants):
            site = bench.site(peer.name, addresses)
            server = bench.start(peer.name, site, peer.cached(site, MEMORY), LOADS[FIXED].path, upstreams.USER)
            cells.append(Cell(f"few {peer.name}", server, PATHS, bench.seconds))
        site = bench.site("ours-many", addresses)
        gateway = bench.ours(access_log=False)
        server = bench.start("ours-many", site, gateway.cached(site, MEMORY), LOADS[FIXED].path, upstreams.USER)
        many = replace(PATHS, spread=MANY)
        before = procfs.memory(server.pid).rss
        fill(bench, server, many)
        each = (procfs.memory(server.pid).rss - before) / MANY
        cells.append(Cell(f"many {OURS}", server, many, bench.seconds))
        runs = bench.in_turn(cells)
        figure = cpu_figure(self.name, "many-few", runs[f"many {OURS}"], OURS, runs[f"few {OURS}"])
        figure.more["bytes_per_entry"] = each
        yield figure
        for peer in contestants:
            target = TARGETS.get(peer.name)
            for variant in ("few", "many"):
                ours, theirs = runs[f"{variant} {OURS}"], runs[f"few {peer.name}"]
                yield cpu_figure(self.name, variant, ours, peer.name, theirs, target)


def fill(bench: Bench, server: Server, load: Load) -> None:
    """Request every entry at least once. Raises ``RigError`` if that takes too long."""
    bench.progress(f"filling {server.name} with {load.spread:,} entries")
    asked = 0
    for _ in range(_FILL_RUNS):
        rest = replace(load, start=asked)
        asked += wrk.run(rest, server.port, _FILL_SECONDS, bench.rig.load_cpu, bench.rig.folder).requests
        if asked >= load.spread:
            return
    raise RigError(f"{server.name} was not filled: {asked:,} of {load.spread:,} entries")
