"""Checks of what goes to services and comes from them: probes, addresses of targets, rewritten responses."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.models.config import Service
from passerelle.config.problems import Finding, Loc


def probe_errors(name: str, service: Service) -> Iterator[Finding]:
    """Find keys of a probe that cannot work together."""
    health = service.health
    if health is None:
        return
    loc: Loc = ("services", name, "health")
    if health.port is not None and service.is_local:
        # The instances are on one machine, so one port cannot be that of each.
        yield Finding((*loc, "port"), f"found together with {service.source}; allowed with targets or zones only")
    if health.body is not None and health.method == "HEAD":
        yield Finding((*loc, "body"), "found together with method: HEAD, whose responses have no body")
