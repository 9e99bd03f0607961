"""Scenario ``crossing-cache``: the shop behind its gateway, with its own cache configuration, and the shop's monolith.

Both use both CPUs, together with the load. passerelle is ``passerelle up`` with the example's file: two gateway workers
(one per CPU), five user and five product instances. The monolith has gunicorn with two processes of four threads. Both
read the same rows from SQLite. As in the other headlines, neither logs its requests; both are measured once more with
logs.

Nine requests of ten are for the hottest tenth of the keys, drawn at random each time. First requests, and requests
after the lifetime of 30 seconds, go to the services. A run therefore lasts at least that long: a shorter run would
contain nearly all of this work or nearly none. The same load precedes the run for as long, since everything has aged
while the other server was measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Figure, Target, p99_figure, rps_figure
from benchmarks.peers.base import Command, Site, lacks_modules, module_versions
from benchmarks.peers.founding import SHOP
from benchmarks.rig.pairs import Cell
from benchmarks.rig.server import RigError
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import OURS, Bench, peer_names
from benchmarks.scenarios.crossing import ANSWER
from benchmarks.scenarios.hit import HEADERS

KEYS = 10_000  # number of users in the shop
PRODUCTS = 1_000
LOAD = Load("/api/{}/{}", varying=True, spread=KEYS, hot=KEYS // 10, wrap=PRODUCTS, headers=HEADERS)
READY = "/api/1/1"
WORKERS = 2
LIFETIME = 30  # seconds, as in the shop's file
FASTER = Target(5, at_most=False)
SOONER = Target(1)
_PACKAGES = ("alembic", "flask", "gunicorn", "sqlalchemy")


class ShopMonolith:
    """The shop's ``monolith:app`` as in production, with or without an access log."""

    name = "shop-monolith"

    def missing(self) -> str | None:
        return lacks_modules(*_PACKAGES)

    def version(self) -> str:
        return module_versions("flask", "gunicorn")

    def serve(self, site: Site, env: Mapping[str, str], logs: bool = False) -> Command:
        serving = ["--worker-class", "gthread", "--workers", str(WORKERS), "--threads", "4", "--keep-alive", "60"]
        serving += ["--bind", f"127.0.0.1:{site.port}", "--no-control-socket", "--log-level", "warning"]
        if logs:
            serving += ["--access-logfile", str(site.folder / "access.log")]
        return Command([sys.executable, "-m", "gunicorn", "--chdir", str(SHOP), *serving, "monolith:app"], env)


class CrossingCache:
    """Requests per second and latency of the composition of a user and a product."""

    name = "crossing-cache"
    about = "the shop behind its gateway, cache on, and its monolith, on both CPUs"
    peers = (ShopMonolith.name,)

    def run(self, bench: Bench) -> Iterable[Figure]:
        monoliths = bench.present([ShopMonolith()])
        yield from self._compare(bench, monoliths, "hot-tenth", FASTER, logs=False)
        yield from self._compare(bench, monoliths, "hot-tenth, both log", None, logs=True)

    def _compare(
        self, bench: Bench, monoliths: Sequence[ShopMonolith], variant: str, faster: Target | None, *, logs: bool
    ) -> Iterable[Figure]:
        env = fill(bench.rig.subfolder("data"))
        seconds = max(bench.seconds, LIFETIME)
        suffix = ", log" if logs else ""
        site = bench.site(OURS, ())
        server = bench.start(OURS, site, _ours(bench, site, env, logs), READY, ANSWER, both=True)
        cells = [Cell(OURS + suffix, server, LOAD, seconds, LIFETIME)]
        for peer in monoliths:
            site = bench.site(peer.name, ())
            server = bench.start(peer.name, site, peer.serve(site, env, logs), READY, ANSWER, both=True)
            cells.append(Cell(peer.name + suffix, server, LOAD, seconds, LIFETIME // 3))
        runs = bench.in_turn(cells)
        for name in peer_names(monoliths):
            ours, theirs = runs[OURS + suffix], runs[name + suffix] if name else ()
            yield rps_figure(self.name, variant, ours, name, theirs, faster if name else None)
            yield p99_figure(self.name, variant, ours, name, theirs, SOONER if name and faster else None)
        for cell in cells:
            bench.rig.stop(cell.server)


def _ours(bench: Bench, site: Site, env: Mapping[str, str], logs: bool) -> Command:
    bench.ours()  # reports its version
    text = (SHOP / "gateway.yaml").read_text("utf-8").replace("cwd: .", f"cwd: {SHOP}")
    file = site.write("gateway.yaml", text if logs else f"access_log: off\n{text}")
    program = str(Path(sys.executable).with_name("passerelle"))
    listen = ["--listen", f"127.0.0.1:{site.port}", "--admin", f"127.0.0.1:{bench.rig.port()}"]
    return Command([program, "up", str(file), *listen, "--workers", str(WORKERS)], env)


def fill(folder: Path) -> dict[str, str]:
    """Create and fill the shop's three databases in ``folder``; return the environment that names them. Raises
    RigError."""
    env = {
        f"{service.upper()}_DATABASE_URL": f"sqlite:///{folder / service}.db"
        for service in ("users", "products", "monolith")
    }
    command = [sys.executable, "-m", "shopkit.prepare"]
    done = subprocess.run(command, cwd=SHOP, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"the shop was not filled: {done.stdout}{done.stderr}")
    return env
