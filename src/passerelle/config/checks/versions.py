"""Checks of services with versions: settings that cannot work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from passerelle.config.models.alerts import AlertSettings
from passerelle.config.models.config import Route, Service
from passerelle.config.problems import Finding, Loc
from passerelle.config.versions import version_name

_LONGEST = 63  # characters of the name of a service


def version_errors(name: str, service: Service, services: Mapping[str, object]) -> Iterator[Finding]:
    """Check the versions of a service."""
    loc: Loc = ("services", name)
    for version in service.versions or {}:
        found = version_name(name, version)
        if found in services:
            message = f"found {version!r}, but {found} is a service of its own; give one of them another name"
            yield Finding((*loc, "versions", version), message, at_key=True)
        elif len(found) > _LONGEST:
            yield Finding((*loc, "versions", version), f"{found} has more than {_LONGEST} characters", at_key=True)
    if service.rollout is not None and service.rollout.shadow is not None:
        yield Finding((*loc, "rollout", "shadow"), "found; versions of a service are not compared", at_key=True)


def version_route_errors(
    loc: Loc, route: Route, services: Mapping[str, Service | None], blocks: frozenset[str]
) -> Iterator[Finding]:
    """Check a route with respect to the versions of its services. ``blocks`` are the top-level keys of the file."""
    identified = bool(route.auth) or (route.forward_auth is not None and route.forward_auth.consumer is not None)
    places = [(loc, route.service, route.split)]
    places += [((*loc, "compose", key), part.service, part.split) for key, part in (route.compose or {}).items()]
    for place, name, split in places:
        service = services.get(name) if name is not None else None
        if split is not None:
            if service is not None and service.versions is not None:
                message = f"found on a route to {name}, which has versions: these are its split"
                yield Finding((*place, "split"), message, at_key=True)
            for side in split.weights:
                other = services.get(side)
                if other is not None and other.versions is not None:
                    message = f"found {side!r}, which has versions; a split is between services without"
                    yield Finding((*place, "split", "weights", side), message, at_key=True)
        by = service.split_by if service is not None else None
        if by is not None and by.source == "consumer" and not identified:
            message = f"{name} has split_by: consumer; it needs auth, or forward_auth with consumer, on the route"
            yield Finding((*place, "service"), message)
        if by is not None and by.source == "session" and "sessions" not in blocks:
            message = f"{name} has split_by: session; it needs sessions: at the top level of the file"
            yield Finding((*place, "service"), message)


def version_alert_errors(alerts: AlertSettings | None, services: Mapping[str, Service | None]) -> Iterator[Finding]:
    """Find alerts on a service with versions, which are services of their own."""
    for index, rule in enumerate(alerts.rules if alerts is not None else ()):
        service = services.get(rule.service) if rule.service is not None else None
        if service is not None and service.versions is not None:
            message = f"found {rule.service!r}, which has versions; leave service out, or use a route"
            yield Finding(("alerts", "rules", index, "service"), message)
