"""Scenario ``forward``: forward a request for 100 bytes of JSON to one of three upstreams."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.figures import Figure, Target
from benchmarks.peers import upstreams
from benchmarks.peers.base import Forwarder
from benchmarks.peers.caddy import Caddy
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.varnish import Varnish
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import BOTH_LOG, FIXED, VARYING, Bench

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
        yield from bench.with_and_without_logs(
            self.name,
            addresses,
            LOADS,
            upstreams.USER,
            {BOTH_LOG: logging, "": silent},
            lambda peer, site: peer.forward(site),
            lambda variant, name: TARGETS.get((variant, name)),
        )
