"""A survey of a monolith: its routes from one source, and its traffic from logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from passerelle.migration.access_log import LogSummary, read_log
from passerelle.migration.application import read_application
from passerelle.migration.folding import NOT_ROUTES, PathTree
from passerelle.migration.found_routes import FoundRoute, RefusedRoute, SourceError, arrange, why_not_shadowed
from passerelle.migration.openapi import read_openapi
from passerelle.migration.traffic import Together, Traffic

MOST_LOGGED: Final = 1000
"""Most routes that are taken from logs, the busiest first. The catch-all covers the others."""
MOST_PARTNERS: Final = 5


@dataclass(slots=True)
class Survey:
    """What is known of a monolith. Without logs, ``traffic`` is None and nothing is known of requests."""

    routes: list[FoundRoute]
    refused: list[RefusedRoute] = field(default_factory=list)
    traffic: Traffic | None = None
    together: list[Together] = field(default_factory=list)
    summary: LogSummary | None = None
    left_out: int = 0
    """Requests of logs whose routes are left to the catch-all, because there are too many."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        partners: dict[int, list[dict[str, Any]]] = {}
        for pair in self.together:
            for number, other in ((pair.first, pair.second), (pair.second, pair.first)):
                known = partners.setdefault(number, [])
                if len(known) < MOST_PARTNERS:
                    share = round(pair.share, 4)
                    known.append({"route": self.routes[other].label, "visits": pair.visits, "share": share})
        routes = []
        for number, route in enumerate(self.routes):
            why = why_not_shadowed(route)
            described: dict[str, Any] = {
                "path": route.path,
                "methods": list(route.methods) or None,
                "host": route.host,
                "source": route.source,
                "notes": list(route.notes),
                "shadow": {"safe": why is None, "why": why},
            }
            if self.traffic is not None:
                described["requests"] = self.traffic.requests[number]
                described["visits"] = self.traffic.visits[number]
                described["together"] = partners.get(number, [])
            routes.append(described)
        found: dict[str, Any] = {
            "routes": routes,
            "refused": [{"source": each.source, "why": each.why} for each in self.refused],
        }
        if self.summary is not None and self.traffic is not None:
            found["log"] = {
                "lines": self.summary.lines,
                "requests": self.summary.requests,
                "unreadable": dict(self.summary.unreadable),
                "examples": self.summary.examples,
                "unmatched": self.traffic.unmatched,
                "not_found": self.traffic.not_found,
                "left_out": self.left_out,
            }
        return found


def from_application(app: str, python: str, folder: Path, limit: float) -> Survey:
    """Survey the routes of an application. Raises :class:`SourceError` (see :func:`.read_application`)."""
    found, refused = read_application(app, python, folder, limit)
    return Survey(arrange(found), refused)


def from_openapi(path: Path) -> Survey:
    """Survey the routes of a document. Raises :class:`SourceError` (see :func:`.read_openapi`)."""
    found, refused = read_openapi(path)
    return Survey(arrange(found), refused)


def from_logs(paths: Sequence[Path]) -> Survey:
    """Survey the routes of the requests in logs, which are read a second time by :func:`add_traffic`."""
    tree = PathTree()
    for path in paths:
        for request in read_log(path, LogSummary()):
            if request.status not in NOT_ROUTES:
                tree.add(request.method, request.path)
    busiest = sorted(tree.routes(), key=lambda pair: -pair[1])
    most = MOST_LOGGED
    while True:
        routes = arrange(route for route, _ in busiest[:most])
        try:
            Traffic(routes)
        except ValueError:  # the table is too complex for the gateway: a log can have any paths
            most //= 2
            continue
        return Survey(routes, left_out=tree.not_kept + sum(requests for _, requests in busiest[most:]))


def add_traffic(survey: Survey, paths: Sequence[Path]) -> None:
    """Count the requests of logs, and sort the routes by them.

    :raises SourceError: if a log cannot be read, or the gateway cannot have the table.
    """
    try:
        traffic = Traffic(survey.routes)
    except ValueError as error:
        raise SourceError(f"the gateway cannot have this table of routes: {error}") from None
    summary = LogSummary()
    for path in paths:
        for request in read_log(path, summary):
            traffic.add(request)
    together = traffic.finish()
    order = sorted(range(len(survey.routes)), key=lambda number: -traffic.requests[number])
    place = {number: index for index, number in enumerate(order)}
    traffic.renumber(place)
    survey.routes = [survey.routes[number] for number in order]
    survey.together = [Together(place[pair.first], place[pair.second], pair.visits, pair.share) for pair in together]
    survey.traffic, survey.summary = traffic, summary
