"""Which location of which server gets a request, so that nginx chooses the route that the gateway would choose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from passerelle.config import rules_of
from passerelle.config.models.values import METHODS
from passerelle.config.problems import Finding
from passerelle.export.deployment import RouteExport
from passerelle.export.nginx_text import is_literal
from passerelle.routing.paths import Pattern
from passerelle.routing.rules import specificity


@dataclass(frozen=True, slots=True)
class Location:
    """The routes of one path, the first of them that has the method of a request gets it.

    With ``exact``, it is the location of one path. Otherwise it is a regular expression, tried in order.
    """

    pattern: Pattern
    routes: tuple[RouteExport, ...]
    exact: bool

    @property
    def methods(self) -> frozenset[str] | None:
        """The methods of all its routes, or None for all methods."""
        found: set[str] = set()
        for item in self.routes:
            accepted = accepted_methods(item)
            if accepted is None:
                return None
            found |= accepted
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class Server:
    """The locations for one host, or for all hosts without a server of their own (``host`` is None)."""

    host: str | None
    locations: tuple[Location, ...]


def accepted_methods(item: RouteExport) -> frozenset[str] | None:
    """Return the methods of a route, HEAD included where it has GET, or None for all."""
    accepted = item.route.accepted
    if accepted is None:
        return None
    found = {method.decode() for method in accepted}
    return frozenset(found | {"HEAD"}) if "GET" in found else frozenset(found)


def servers(routes: tuple[RouteExport, ...]) -> list[Server]:
    """Return a server for each host; ``routes`` are in order of precedence. The one for other hosts is the first.

    Routes with conditions are left out: their requests go where requests that do not meet the conditions go.
    """
    routes = tuple(item for item in routes if not item.route.conditions)
    hosts = sorted({host for item in routes for host in item.route.hosts if host is not None})
    return [_server(host, routes) for host in (None, *hosts)]


def _server(host: str | None, routes: tuple[RouteExport, ...]) -> Server:
    # Of the hosts of a route, the most specific one that applies decides its order in this server.
    applying = [(rule, item) for item in routes for rule in rules_of(item.route) if _applies(rule.host, host)]
    groups: dict[str, list[RouteExport]] = {}
    for _, item in sorted(applying, key=lambda pair: specificity(pair[0])):
        group = groups.setdefault(Pattern.parse(item.route.path).shape, [])
        # After a route for all methods, no other of its path is reached.
        if item not in group and (not group or accepted_methods(group[-1]) is not None):
            group.append(item)
    locations: list[Location] = []
    for items in groups.values():
        pattern = Pattern.parse(items[0].route.path)
        # nginx prefers exact locations to all others, so one that comes later here must not be exact.
        earlier = any(not other.exact and other.pattern.overlaps(pattern) for other in locations)
        locations.append(Location(pattern, tuple(items), is_literal(pattern) and not earlier))
    return Server(host, tuple(locations))


def _applies(found: bytes | None, host: str | None) -> bool:
    """Whether a route with the host ``rule`` is a candidate for all requests of a server."""
    rule = found.decode() if found is not None else None
    if rule is None or rule == host:
        return True
    return host is not None and rule.startswith("*.") and host.removeprefix("*").endswith(rule[1:]) and host != rule[2:]


def hidden(server: Server) -> Iterator[Finding]:
    """Yield the routes that requests do not reach, because nginx chooses by the path before it looks at the method."""
    for index, earlier in enumerate(server.locations):
        taken = earlier.methods
        if taken is None:
            continue
        for later in server.locations[index + 1 :]:
            if not earlier.pattern.overlaps(later.pattern):
                continue
            for item in later.routes:
                accepted = accepted_methods(item)
                if accepted is None or accepted - taken:
                    others = ", ".join(m for m in METHODS if m in (accepted or METHODS) and m not in taken)
                    why = f"nginx chooses by path first: {earlier.pattern} hides this route from {others}"
                    yield Finding((*item.loc, "path"), why)
