"""Caddy: a reverse proxy, with GOMAXPROCS of 1."""

from __future__ import annotations

import json

from benchmarks.peers.base import Command, Site, first_line, lacks_program, program


class Caddy:
    name = "caddy"

    def missing(self) -> str | None:
        return lacks_program("caddy", "caddy")

    def version(self) -> str:
        return first_line("caddy", "version")

    def forward(self, site: Site) -> Command:
        proxy = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": address} for address in site.upstreams],
            "load_balancing": {"selection_policy": {"policy": "round_robin"}},
            "transport": {"protocol": "http", "keep_alive": {"max_idle_conns_per_host": 256}},
        }
        server = {
            "listen": [f"127.0.0.1:{site.port}"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [proxy]}],
        }
        config = {"admin": {"disabled": True}, "apps": {"http": {"servers": {"clients": server}}}}
        file = site.write("caddy.json", json.dumps(config))
        folders = {name: str(site.folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        return Command([program("caddy"), "run", "--config", str(file)], {"GOMAXPROCS": "1", **folders})
