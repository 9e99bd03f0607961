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
from benchmarks.scenarios.base import OURS, Bench, peer_names

LOADS = {"10hdr": Load("/api/42/7"), "varying": Load("/api/{}/{}", varying=True)}
TARGETS: dict[str | None, Target] = {"nginx": Target(1.25), "aiohttp": Target(0.25)}


class Compose:
    """Composition; nginx uses server-side includes, which copy the parts without parsing them, while the others parse
    them."""

    name = "compose"
    about = "compose a user and a product"
    peers = ("nginx", "aiohttp", "fastapi")

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        contestants: list[Composer] = bench.present([Nginx(), Aiohttp(), FastAPI()])
        servers = {}
        for server_name, gateway in [
            (OURS, bench.ours(access_log=False)),
            *((peer.name, peer) for peer in contestants),
        ]:
            site = bench.site(server_name, addresses)
            path = LOADS["10hdr"].path
            servers[server_name] = bench.start(server_name, site, gateway.compose(site), path, upstreams.COMPOSED)
        lengths = {"10hdr": bench.seconds, "varying": bench.brief}
        runs = bench.in_turn(
            [
                Cell(f"{variant} {server_name}", server, load, lengths[variant])
                for variant, load in LOADS.items()
                for server_name, server in servers.items()
            ]
        )
        for variant in LOADS:
            measured = runs[f"{variant} {OURS}"]
            for name in peer_names(contestants):
                theirs = runs[f"{variant} {name}"] if name else ()
                yield cpu_figure(self.name, variant, measured, name, theirs, TARGETS.get(name))
