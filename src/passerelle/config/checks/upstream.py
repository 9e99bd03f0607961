"""Checks of what goes to services and comes from them: probes, addresses of targets, rewritten responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from passerelle.config.models.config import Route, Service, Target
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
    if health.port is not None and any(
        target.url is not None and target.url.is_socket for target in service.all_targets
    ):
        yield Finding((*loc, "port"), "found together with a Unix socket, which has no ports")
    if health.body is not None and health.method == "HEAD":
        yield Finding((*loc, "body"), "found together with method: HEAD, whose responses have no body")


def target_errors(name: str, service: Service) -> Iterator[Finding]:
    """Find targets of a service with different paths: the path belongs to the service, whichever instance is picked."""
    groups: list[tuple[Loc, tuple[Target, ...]]] = [(("services", name, "targets"), service.targets or ())]
    for zone, settings in (service.zones or {}).items():
        groups.append((("services", name, "zones", zone, "targets"), settings.targets))
    for loc, targets in groups:
        for index, target in enumerate(targets):
            if target.url is not None and target.url.path != service.path:
                message = (
                    f"found the path {target.url.path or '/'!r}; all targets of a service have the same path, here "
                )
                yield Finding((*loc, index), f"{message}{service.path or '/'!r}")


def rewriting_errors(loc: Loc, route: Route, services: Mapping[str, Service | None]) -> Iterator[Finding]:
    """Find a ``rewrite_response`` that has nothing to change."""
    service = services.get(route.service or "")
    if not route.rewrite_response or service is None:
        return
    if not route.prefix and not service.path and service.host == "client":
        message = "has no effect: no literal prefix is stripped, and the service has the path and the host of clients"
        yield Finding((*loc, "rewrite_response"), message)
    for name in route.split.weights if route.split is not None else ():
        side = services.get(name)
        if side is not None and side.path != service.path:
            found, first = side.path or "/", service.path or "/"
            message = f"found the path {found!r}; with rewrite_response all sides have the same path, here {first!r}"
            yield Finding((*loc, "split", "weights", name), message)
