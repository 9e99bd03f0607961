"""Scenario ``crossing``: the founding design's monolith, split behind its own gateway and behind passerelle.

Each gateway composes a user and a product. Both gateways use the same services, in three settings:

``memory``
    nginx serves the services' JSON from memory, so the gateway is the bottleneck.
``services``
    The design's two Flask services run on the load's CPU; behind passerelle they are the bottleneck.
``one-core``
    Gateway and Flask services share the CPU of the server under test: the throughput of the whole system.

For comparison, the monolith runs on the server's CPU, without services behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.figures import Figure, Target, rps_figure
from benchmarks.peers.base import Command, Site
from benchmarks.peers.founding import FlaskGateway, Monolith, serve
from benchmarks.peers.nginx import command
from benchmarks.rig.pairs import Cell
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import OURS, Bench, peer_names

LOAD = Load("/api/{}/{}", varying=True)
SETTINGS = ("memory", "services", "one-core")
TARGET = Target(20, at_most=False)
_FOUNDING = (("users", "/user/1"), ("products", "/product/1"))
ANSWER = (
    '{"user":{"user_id":"1","username":"user_1","email":"user_1@example.com"},'
    '"product":{"product_id":"1","name":"Produit_1","price":19.99}}'
)
_USER = r'{"user_id":"$1","username":"user_$1","email":"user_$1@example.com"}'
_PRODUCT = r'{"product_id":"$1","name":"Produit_$1","price":19.99}'


class Crossing:
    """Requests per second of the gateway; every request is for another user and product."""

    name = "crossing"
    about = "the founding design's gateway and monolith, and ours"
    peers = ("flask", "monolith")

    def run(self, bench: Bench) -> Iterable[Figure]:
        flask, monolith = bench.present([FlaskGateway()]), bench.present([Monolith()])
        cells = []
        for setting in SETTINGS:
            if setting != "memory" and not flask:
                continue
            services = start_memory(bench) if setting == "memory" else start_founding(bench, setting)
            for peer in flask:
                cells.append(_cell(bench, f"{setting} {peer.name}", peer.compose, services))
            cells.append(_cell(bench, f"{setting} {OURS}", _ours(bench), services))
        for alone in monolith:
            cells.append(_cell(bench, alone.name, alone.compose, ()))
        runs = bench.in_turn(cells)

        for setting in SETTINGS:
            if f"{setting} {OURS}" not in runs:
                continue
            for name in peer_names(flask):
                theirs = runs[f"{setting} {name}"] if name else ()
                target = TARGET if name and setting == "memory" else None
                yield rps_figure(self.name, setting, runs[f"{setting} {OURS}"], name, theirs, target)
        for alone in monolith:
            yield rps_figure(self.name, "memory", runs[f"memory {OURS}"], alone.name, runs[alone.name])


def _ours(bench: Bench) -> Callable[[Site], Command]:
    def compose(site: Site) -> Command:
        users, products = (f"http://{address}" for address in site.upstreams)
        return bench.ours().compose_of(site, [users], [products])

    return compose


def _cell(bench: Bench, label: str, compose: Callable[[Site], Command], services: Sequence[str]) -> Cell:
    """Start a gateway to measure."""
    site = bench.site(label.replace(" ", "-"), services)
    server = bench.start(label.replace(" ", "-"), site, compose(site), LOAD.sample(), ANSWER)
    return Cell(label, server, LOAD, bench.brief)


def start_memory(bench: Bench) -> Sequence[str]:
    """Start both services as nginx on the load's CPU, with the founding services' responses; return their addresses."""
    ports = [bench.rig.port(), bench.rig.port()]
    site = Site(bench.rig.subfolder("memory"), ports[0], ())
    servers = "".join(
        f"""
  server {{
    listen {LOOPBACK}:{port} backlog=4096;
    location ~ ^/{kind}/([^/]+)$ {{ return 200 '{body}'; }}
  }}"""
        for port, kind, body in zip(ports, ("user", "product"), (_USER, _PRODUCT), strict=True)
    )
    set_up = command(site, "  default_type application/json;" + servers)
    bench.rig.start("memory", set_up.argv, ports[0], site.folder, ready="/user/1", under_test=False)
    return [f"{LOOPBACK}:{port}" for port in ports]


def start_founding(bench: Bench, setting: str) -> Sequence[str]:
    """Start the design's two Flask services, on the CPU of the setting; return their addresses."""
    addresses = []
    for module, path in _FOUNDING:
        name = f"{setting}-{module}"
        site = bench.site(name, ())
        bench.rig.start(
            name, serve(module, site).argv, site.port, site.folder, ready=path, under_test=setting == "one-core"
        )
        addresses.append(f"{LOOPBACK}:{site.port}")
    return addresses
