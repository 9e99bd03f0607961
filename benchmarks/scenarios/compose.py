"""Scenario ``compose``: one response composed of two calls, a user and a product, 100 bytes of JSON each."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.figures import Figure, Target
from benchmarks.peers import upstreams
from benchmarks.peers.base import Composer
from benchmarks.peers.by_hand import Aiohttp, FastAPI
from benchmarks.peers.nginx import Nginx
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import BOTH_LOG, FIXED, VARYING, Bench

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
        yield from bench.with_and_without_logs(
            self.name,
            addresses,
            LOADS,
            upstreams.COMPOSED,
            {BOTH_LOG: logging, "": silent},
            lambda peer, site: peer.compose(site),
            lambda _, name: TARGETS.get(name),
        )
