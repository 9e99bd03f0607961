"""Keys that use the address of the client, which only a trusted proxy can state."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.problems import Finding
from passerelle.export.deployment import Deployment


def lost_behind(deployment: Deployment, proxy: str) -> Iterator[Finding]:
    """Yield the keys that use the address of ``proxy`` instead, because `trusted_proxies` is not set."""
    if deployment.config.trusted_proxies:
        return
    why = f"needs trusted_proxies with the address of {proxy}: to the gateways, all clients have that address"
    for item in deployment.routes:
        if item.route.clients is not None:
            yield Finding((*item.loc, "clients"), why, at_key=True)
        if item.route.match is not None and item.route.match.clients is not None:
            yield Finding((*item.loc, "match", "clients"), why, at_key=True)
        if item.route.login is not None:
            yield Finding((*item.loc, "login"), why, at_key=True)
        for index, limit in enumerate(item.route.rate_limit):
            if limit.by == "address":
                yield Finding((*item.loc, "rate_limit", index), why)
    for service in deployment.services:
        by = service.service.balance.by
        if by is not None and by.source == "address":
            yield Finding((*service.loc, "balance", "by"), why, at_key=True)
