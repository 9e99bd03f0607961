"""Scenario ``connections``: the cost of ten thousand clients with an idle persistent connection after one request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from benchmarks.figures import Figure, Target
from benchmarks.peers import upstreams
from benchmarks.peers.base import Command, Site
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.nginx import Nginx
from benchmarks.rig import procfs, wrk
from benchmarks.rig.procfs import Memory
from benchmarks.rig.server import RigError
from benchmarks.rig.sockets import IdleConnections
from benchmarks.rig.wrk import BROWSER, Load
from benchmarks.scenarios.base import OURS, Bench, peer_names

COUNT = 10_000
LIMIT = 12_000  # the limit in the servers' configuration: the idle connections and some more
TARGET = Target(6_000, absolute=True)
_LOAD = Load("/user/42")
_SECONDS = 30.0


@dataclass(frozen=True)
class Filled:
    """Memory of one server before, with all connected, and after one request each; responses that were not 200."""

    before: Memory
    connected: Memory
    answered: Memory
    errors: int

    def each(self, state: str, kind: str) -> float:
        """Return the bytes per connection: ``kind`` is ``rss`` or ``pss``."""
        grown: int = getattr(getattr(self, state), kind) - getattr(self.before, kind)
        return grown / COUNT


class Connections:
    """Memory does not depend on other work of the machine, so each server is filled once."""

    name = "connections"
    about = "10,000 idle keep-alive connections"
    peers = ("nginx", "envoy")

    def run(self, bench: Bench) -> Iterable[Figure]:
        if bench.rig.files < LIMIT:
            raise RigError(f"{LIMIT} open files are needed: raise the hard limit (ulimit -Hn)")
        _, addresses = upstreams.start(bench.rig)
        site = bench.site(OURS, addresses)
        found = {OURS: fill(bench, OURS, site, bench.ours().forward(site, connections=LIMIT))}
        contestants: list[Nginx | Envoy] = bench.present([Nginx(), Envoy()])
        for peer in contestants:
            site = bench.site(peer.name, addresses)
            found[peer.name] = fill(bench, peer.name, site, peer.forward(site, connections=LIMIT))
        for state in ("answered", "connected"):
            for kind in ("rss", "pss"):
                for name in peer_names(contestants):
                    yield _figure(found, state, kind, name)


def fill(bench: Bench, name: str, site: Site, command: Command) -> Filled:
    """Start a server, warm it up, and let ten thousand clients connect and then send one request each in turn."""
    server = bench.start(name, site, command, _LOAD.path)
    wrk.run(_LOAD, server.port, 1, bench.rig.load_cpu, bench.rig.folder)
    files, before = procfs.open_files(server.pid), procfs.memory(server.pid)
    with IdleConnections(server.port, COUNT) as clients:
        # Up to 64 upstream connections left over from the warm-up may be closed meanwhile.
        server.wait_until(
            lambda: procfs.open_files(server.pid) >= files + COUNT - _LOAD.connections, _SECONDS, "accepting them all"
        )
        connected = procfs.memory(server.pid)
        errors = clients.ask_each(_LOAD.path, BROWSER)
        answered = procfs.memory(server.pid)
    server.check_alive()
    bench.rig.stop(server)
    filled = Filled(before, connected, answered, errors)
    bench.keep(name, [asdict(filled)])
    bench.progress(f"{name}: {filled.each('answered', 'rss'):,.0f} bytes a connection")
    return filled


def _figure(found: dict[str, Filled], state: str, kind: str, peer: str | None) -> Figure:
    ours = found[OURS].each(state, kind)
    theirs = found[peer].each(state, kind) if peer else None
    return Figure(
        Connections.name,
        state,
        f"{kind}_bytes",
        ours,
        peer,
        theirs,
        ours / theirs if theirs else None,
        errors=found[OURS].errors + (found[peer].errors if peer else 0),
        target=TARGET if (state, kind) == ("answered", "rss") else None,
    )
