"""passerelle: one worker, ``passerelle gateway CONFIG``, metrics on, access log to a file or off."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Command, Site

BODY_LIMIT = "unlimited"


class Passerelle:
    """passerelle, with metrics at ``admin_port`` as in production."""

    name = "ours"

    def __init__(self, admin_port: int, access_log: bool = True):
        self._admin_port = admin_port
        self._access_log = access_log

    @property
    def admin_port(self) -> int:
        """The port of metrics and of the dashboard."""
        return self._admin_port

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"passerelle {importlib.metadata.version('passerelle')}, Python {sys.version.split()[0]}"

    def forward(
        self,
        site: Site,
        balance: str = "p2c",
        keepalive: str = "4s",
        connections: int = 10_000,
        more: Mapping[str, Any] | None = None,
        on_route: Mapping[str, Any] | None = None,
        **service: Any,
    ) -> Command:
        """Configure one service and one route. ``balance`` names the policy; ``weighted`` gets the weights 1, 2, 3 in
        turn.

        ``service`` are further keys of the service, ``on_route`` of the route, ``more`` of the file.
        """
        targets: list[Any] = [f"http://{address}" for address in site.upstreams]
        if balance == "weighted":
            targets = [{"url": url, "weight": 1 + number % 3} for number, url in enumerate(targets)]
        services = {"user": {"targets": targets, "balance": balance, "keepalive": keepalive, **service}}
        routes = [{"path": "/user/{user_id}", "service": "user", **(on_route or {})}]
        return self._command(site, services, routes, {"connections": connections}, more)

    def compose(self, site: Site) -> Command:
        targets = [f"http://{address}" for address in site.upstreams]
        return self.compose_of(site, targets, targets)

    def compose_of(self, site: Site, users: Sequence[str], products: Sequence[str]) -> Command:
        """Configure the composed route over two services, each with its own targets (URLs)."""
        parts = {
            "user": {"service": "user", "path": "/user/{user_id}"},
            "product": {"service": "product", "path": "/product/{product_id}"},
        }
        services = {"user": {"targets": list(users)}, "product": {"targets": list(products)}}
        return self._command(site, services, [{"path": "/api/{user_id}/{product_id}", "compose": parts}])

    def stream(self, site: Site) -> Command:
        services = {"files": {"targets": [f"http://{address}" for address in site.upstreams]}}
        return self._command(
            site, services, [{"path": "/{rest*}", "service": "files", "body": BODY_LIMIT, "timeout": "10m"}]
        )

    def static(self, site: Site, folder: Path) -> Command:
        """Serve the files of ``folder``."""
        return self._command(site, {}, [{"path": "/{rest*}", "static": str(folder)}])

    def cached(self, site: Site, memory: int) -> Command:
        """Configure one cached route, controlled by the upstream's ``Cache-Control`` alone. ``memory`` is in bytes."""
        services = {"user": {"targets": [f"http://{address}" for address in site.upstreams]}}
        routes = [{"path": "/user/{user_id}", "service": "user", "cache": {}}]
        return self._command(site, services, routes, more={"cache": {"memory": f"{memory >> 20}MiB"}})

    def policy(self, site: Site, secret: str) -> Command:
        """Verify a JSON web token (HS256), and apply a rate limit that is never reached."""
        services = {"user": {"targets": [f"http://{address}" for address in site.upstreams]}}
        limit = {"rate": "1000000/s", "burst": 1_000_000}
        routes = [{"path": "/user/{user_id}", "service": "user", "auth": ["jwt"], "rate_limit": limit}]
        return self._command(site, services, routes, more={"jwt": {"algorithms": ["HS256"], "secret": secret}})

    def routes(self, site: Site, count: int) -> Command:
        """Configure ``count`` routes ``/catalogue-N/item/{id}``, N from 1, all to the same service."""
        services = {"user": {"targets": [f"http://{address}" for address in site.upstreams]}}
        routes = [
            {"path": f"/catalogue-{number}/item/{{item_id}}", "service": "user", "rewrite": "/user/{item_id}"}
            for number in range(1, count + 1)
        ]
        return self._command(site, services, routes)

    def _command(
        self,
        site: Site,
        services: Mapping[str, Any],
        routes: Sequence[Mapping[str, Any]],
        limits: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Command:
        config: dict[str, Any] = {
            "listen": f"127.0.0.1:{site.port}",
            "admin": f"127.0.0.1:{self._admin_port}",
            "access_log": str(site.folder / "access.log") if self._access_log else "off",
            **({"services": services} if services else {}),
            "routes": routes,
            **(more or {}),
        }
        if limits:
            config["limits"] = limits
        # JSON is valid YAML, and writing ten thousand routes as YAML would take seconds.
        file = site.write("gateway.yaml", json.dumps(config, indent=1))
        return Command([str(Path(sys.executable).with_name("passerelle")), "gateway", str(file)])
