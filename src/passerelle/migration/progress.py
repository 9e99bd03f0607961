"""How far a migration is: which routes of a configuration still use the monolith."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from passerelle.config.models.config import Config, Route
from passerelle.migration.found_routes import CATCH_ALL
from passerelle.migration.gateway_file import SERVICE
from passerelle.routing.paths import Pattern

_REST = Pattern.parse(CATCH_ALL).shape


@dataclass(frozen=True, slots=True)
class RouteProgress:
    """One route: ``state`` is ``monolith``, ``shadowed`` (on the monolith, and compared), or ``services``.

    ``differing`` is the number of differing comparisons; None if nothing was compared yet, or no gateway runs.
    """

    route: str
    services: tuple[str, ...]
    state: str
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


def progress_of(config: Config, monolith: str, reports: Mapping[str, Mapping[str, Any]]) -> list[RouteProgress]:
    """Return the state of each route, except for the one for everything else.

    ``reports`` are those of :func:`passerelle.crossing.report.merge_reports`, by route; empty if no gateway runs.
    """
    return [_progress(route, monolith, reports) for route in config.routes if not _is_rest(route)]


def _progress(route: Route, monolith: str, reports: Mapping[str, Mapping[str, Any]]) -> RouteProgress:
    parts = (route.compose or {}).values()
    names = [route.service] if route.service is not None else [part.service for part in parts]
    if route.login is not None:
        names = [route.login.service]
    services = tuple(dict.fromkeys(names))
    if monolith not in services:
        return RouteProgress(route.label, services, "services")
    if route.shadow is None:
        return RouteProgress(route.label, services, "monolith")
    report = reports.get(route.label)
    if report is None:
        return RouteProgress(route.label, services, "shadowed")
    return RouteProgress(route.label, services, "shadowed", report["verdict"], report["compared"], report["differing"])


def summary(found: list[RouteProgress]) -> str:
    """Return the progress in one line."""
    moved = sum(each.state == "services" for each in found)
    shadowed = [each for each in found if each.state == "shadowed"]
    differing = sum(bool(each.differing) for each in shadowed)
    line = f"{moved} of {len(found)} routes are on services; {len(shadowed)} shadowed"
    return line + (f", {differing} with differences" if differing else "")


def _is_rest(route: Route) -> bool:
    return route.methods is None and route.host is None and Pattern.parse(route.path).shape == _REST
