"""How far a migration is: which routes of a configuration still use the monolith."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from passerelle.config.models.config import Config, Route
from passerelle.crossing.sides import WHOLE
from passerelle.migration.found_routes import CATCH_ALL
from passerelle.migration.gateway_file import SERVICE
from passerelle.routing.paths import Pattern

_REST = Pattern.parse(CATCH_ALL).shape


@dataclass(frozen=True, slots=True)
class RouteProgress:
    """One route.

    ``state`` is ``services``, ``moving`` (some users are on services), ``shadowed`` (all are on the monolith, and a
    service is compared), or ``monolith``. ``share`` of the users are on services. ``differing`` is the number of
    differing comparisons; None if nothing was compared yet, or no gateway runs.
    """

    route: str
    services: tuple[str, ...]
    state: str
    share: float
    verdict: str | None = None
    compared: int | None = None
    differing: int | None = None


def monolith_of(config: Config, given: str | None) -> str:
    """Return the name of the monolith: ``given``, ``monolith``, or the service of the route for everything else.

    :raises ValueError: if there is no such service.
    """
    if given is not None:
        if given not in config.services:
            raise ValueError(f"found no service {given!r}; the file has {', '.join(config.services)}")
        return given
    if SERVICE in config.services:
        return SERVICE
    for route in config.routes:
        if _is_rest(route) and route.service is not None:
            return route.service
    raise ValueError(f"found no service {SERVICE!r} and no route for everything else; name the monolith (--monolith)")


def progress_of(
    config: Config,
    monolith: str,
    reports: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Mapping[str, int]] | None = None,
) -> list[RouteProgress]:
    """Return the state of each route, except for the one for everything else.

    ``reports`` are those of :func:`passerelle.crossing.report.merge_reports`, by route; empty if no gateway runs.
    ``weights`` are those of the splits of a running gateway, in per mille; the others are those of the file.
    """
    known = {**config.splits, **(weights or {})}
    return [_progress(route, monolith, reports, known) for route in config.routes if not _is_rest(route)]


def _progress(
    route: Route, monolith: str, reports: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Mapping[str, int]]
) -> RouteProgress:
    parts = {f"{route.label}#{name}": part.service for name, part in (route.compose or {}).items()}
    if route.service is not None:
        parts = {route.label: route.service}
    elif route.login is not None:
        parts = {"": route.login.service}
    sides = [weights.get(name, {service: WHOLE}) for name, service in parts.items()]
    services = tuple(dict.fromkeys(service for side in sides for service, weight in side.items() if weight))
    # A user of a composition is on services if all of its parts are.
    share = min((WHOLE - side.get(monolith, 0) for side in sides), default=WHOLE) / WHOLE
    if share or route.shadow is None:
        state = {0.0: "monolith", 1.0: "services"}.get(share, "moving")
        return RouteProgress(route.label, services, state, share)
    report = reports.get(route.label)
    if report is None:
        return RouteProgress(route.label, services, "shadowed", share)
    return RouteProgress(
        route.label, services, "shadowed", share, report["verdict"], report["compared"], report["differing"]
    )


def summary(found: list[RouteProgress]) -> str:
    """Return the progress in one line."""
    moved = sum(each.state == "services" for each in found)
    shadowed = [each for each in found if each.state == "shadowed"]
    differing = sum(bool(each.differing) for each in shadowed)
    moving = sum(each.state == "moving" for each in found)
    line = f"{moved} of {len(found)} routes are on services"
    line += f", {moving} in part" * (moving > 0) + f"; {len(shadowed)} shadowed"
    return line + f", {differing} with differences" * (differing > 0)


def _is_rest(route: Route) -> bool:
    return route.methods is None and route.host is None and Pattern.parse(route.path).shape == _REST
