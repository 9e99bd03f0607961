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
from benchmarks.scenarios.base import OURS, Bench, peer_names

FIXED = Load("/user/42")
VARYING = Load("/user/{}", varying=True)
TARGETS: dict[str | None, Target] = {"nginx": Target(1.6), "envoy": Target(0.6)}


class Forward:
    """Forwarding; passerelle counts every request (metrics), and only the variant ``log`` writes an access log."""

    name = "forward"
    about = "forward to one of three upstreams"
    peers = ("nginx", "haproxy", "envoy", "caddy", "varnish")

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        contestants: list[Forwarder] = bench.present([Nginx(), HAProxy(), Envoy(), Caddy(), Varnish()])
        cells = []
        for server_name, gateway in [
            (OURS, bench.ours(access_log=False)),
            *((peer.name, peer) for peer in contestants),
        ]:
            site = bench.site(server_name, addresses)
            server = bench.start(server_name, site, gateway.forward(site), FIXED.path, upstreams.USER)
            cells.append(Cell(f"10hdr {server_name}", server, FIXED, bench.seconds))
            cells.append(Cell(f"varying {server_name}", server, VARYING, bench.brief))
        site = bench.site("ours-logging", addresses)
        logging = bench.start("ours-logging", site, bench.ours().forward(site), FIXED.path, upstreams.USER)
        cells.append(Cell("log ours", logging, FIXED, bench.brief))
        # The headline's runs are adjacent, so that its pairs are pairs.
        runs = bench.in_turn(sorted(cells, key=lambda cell: not cell.label.startswith("10hdr")))

        for variant in ("10hdr", "varying", "log"):
            measured = runs[f"{variant} {OURS}"]
            beside = "10hdr" if variant == "log" else variant  # the peers do not log
            for name in peer_names(contestants):
                theirs = runs[f"{beside} {name}"] if name else ()
                yield cpu_figure(self.name, variant, measured, name, theirs, TARGETS.get(name))
