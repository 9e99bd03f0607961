"""Scenario ``forward``: forward a request for 100 bytes of JSON to one of three upstreams."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers import upstreams
from benchmarks.peers.base import Forwarder
from benchmarks.peers.caddy import Caddy
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.varnish import Varnish
from benchmarks.rig.pairs import Cell
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import BOTH_LOG, FIXED, OURS, VARYING, Bench, peer_names

LOADS = {FIXED: Load("/user/42"), VARYING: Load("/user/{}", varying=True)}
TARGETS: dict[tuple[str, str | None], Target] = {
    (FIXED, "nginx"): Target(1.6),
    (FIXED, "envoy"): Target(0.6),
    (VARYING, "nginx"): Target(1.5),
    (VARYING, "envoy"): Target(0.5),
}


class Forward:
    """Forwarding with metrics, with and without access logs; Caddy and Varnish take part without one only."""

    name = "forward"
    about = "forward to one of three upstreams"
    peers = ("nginx", "haproxy", "envoy", "caddy", "varnish")

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        logging: list[Forwarder] = bench.present(
            [Nginx(access_log=True), HAProxy(access_log=True), Envoy(access_log=True)]
        )
        silent: list[Forwarder] = bench.present([Nginx(), HAProxy(), Envoy(), Caddy(), Varnish()])
        cells = []
        for suffix, gateway, peers in ((BOTH_LOG, bench.ours(), logging), ("", bench.ours(access_log=False), silent)):
            for server_name, peer in [(OURS, gateway), *((peer.name, peer) for peer in peers)]:
                label = server_name + suffix
                site = bench.site(label, addresses)
                server = bench.start(label, site, peer.forward(site), LOADS[FIXED].path, upstreams.USER)
                cells += [Cell(f"{variant} {label}", server, load, bench.brief) for variant, load in LOADS.items()]
        runs = bench.in_turn(bench.headline_first(cells, VARYING + " ", BOTH_LOG))

        for variant in (VARYING, FIXED):
            for suffix, peers in ((BOTH_LOG, logging), ("", silent)):
                measured = runs[f"{variant} {OURS}{suffix}"]
                for name in peer_names(peers):
                    theirs = runs[f"{variant} {name}{suffix}"] if name else ()
                    target = TARGETS.get((variant, name))
                    yield cpu_figure(self.name, variant + suffix, measured, name, theirs, target)
