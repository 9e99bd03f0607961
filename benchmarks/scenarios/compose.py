"""Scenario ``compose``: one response composed of two calls, a user and a product, 100 bytes of JSON each."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers import upstreams
from benchmarks.peers.base import Composer
from benchmarks.peers.by_hand import Aiohttp, FastAPI
from benchmarks.peers.nginx import Nginx
from benchmarks.rig.pairs import Cell
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import BOTH_LOG, FIXED, OURS, VARYING, Bench, peer_names

LOADS = {FIXED: Load("/api/42/7"), VARYING: Load("/api/{}/{}", varying=True)}
TARGETS: dict[str | None, Target] = {"nginx": Target(1.25), "aiohttp": Target(0.25)}


class Compose:
    """Composition, with and without access logs; the gateways written by hand take part without one only.

    nginx uses server-side includes, which copy the parts without parsing them, while the others parse them.
    """

    name = "compose"
    about = "compose a user and a product"
    peers = ("nginx", "aiohttp", "fastapi")

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        logging: list[Composer] = bench.present([Nginx(access_log=True)])
        silent: list[Composer] = bench.present([Nginx(), Aiohttp(), FastAPI()])
        cells = []
        for suffix, gateway, peers in ((BOTH_LOG, bench.ours(), logging), ("", bench.ours(access_log=False), silent)):
            for server_name, peer in [(OURS, gateway), *((peer.name, peer) for peer in peers)]:
                label = server_name + suffix
                site = bench.site(label, addresses)
                server = bench.start(label, site, peer.compose(site), LOADS[FIXED].path, upstreams.COMPOSED)
                cells += [Cell(f"{variant} {label}", server, load, bench.brief) for variant, load in LOADS.items()]
        runs = bench.in_turn(bench.headline_first(cells, VARYING + " ", BOTH_LOG))
        for variant in (VARYING, FIXED):
            for suffix, peers in ((BOTH_LOG, logging), ("", silent)):
                measured = runs[f"{variant} {OURS}{suffix}"]
                for name in peer_names(peers):
                    theirs = runs[f"{variant} {name}{suffix}"] if name else ()
                    yield cpu_figure(self.name, variant + suffix, measured, name, theirs, TARGETS.get(name))
