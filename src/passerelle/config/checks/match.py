"""Checks of routes with the same host and path.

One of them must be the most specific, and each must be reachable. Requests that lack the conditions of a protected
route should meet no open one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from passerelle.config.models.config import Config, Route
from passerelle.config.problems import Finding, Loc, key_of
from passerelle.routing.conditions import implies, never_together
from passerelle.routing.paths import Pattern

Place = tuple[Loc, Route]


def route_order_errors(routes: Sequence[Place]) -> Iterator[Finding]:
    """Find pairs of routes that can match one request, and of which none is more specific."""
    reported: set[tuple[Loc, Loc]] = set()  # several hosts of two routes are one finding
    for group in _groups(routes).values():
        for (first, one), (loc, other) in itertools.combinations(group, 2):
            methods = _same_methods(one, other)
            if not methods or (first, loc) in reported:
                continue
            message = ""
            if set(one.conditions) == set(other.conditions):
                same = "host, path" if one.host and other.host else "path"
                more = ", and the same conditions," if one.conditions else ""
                message = f"same {same} and method ({', '.join(methods)}){more} as {key_of(first)}"
            elif one.priority == other.priority and len(one.conditions) == len(other.conditions):
                pairs = itertools.product(one.conditions, other.conditions)
                if not any(never_together(*pair) for pair in pairs):
                    message = f"a request can match this route and {key_of(first)}, and neither is more specific; "
                    message += "give one of them a higher priority"
            if message:
                reported.add((first, loc))
                yield Finding((*loc, "path"), message)


def match_warnings(config: Config) -> Iterator[Finding]:
    """Find routes that no request reaches or that are open by mistake, useless priorities, and other preflights."""
    places: list[Place] = [(("routes", index), route) for index, route in enumerate(config.routes)]
    groups = _groups(places)
    shared = {loc for group in groups.values() if len(group) > 1 for loc, _ in group}
    hidden: dict[Loc, list[Loc | None]] = defaultdict(list)
    for group in groups.values():
        for loc, route in group:
            for method in sorted(route.accepted) if route.accepted is not None else [None]:
                hidden[loc].append(_hider(route, method, [place for place in group if place[0] != loc]))
    for loc, route in places:
        first = hidden[loc][0]
        if first is not None and None not in hidden[loc]:
            message = f"no request reaches the route: {key_of(first)} comes first, and takes them all"
            yield Finding((*loc, "path"), message)
        if route.priority and loc not in shared:
            yield Finding((*loc, "priority"), "without an effect: no other route has the same host and path")
    yield from _open_fallbacks(config, groups.values())
    for group in groups.values():
        for (first, one), (loc, other) in itertools.pairwise(group):
            if (one.conditions or other.conditions) and one.cors != other.cors:
                message = f"differs from cors of {key_of(first)}; a preflight has no cookies and no values of fields"
                yield Finding((*loc, "cors") if other.cors is not None else (*loc, "path"), f"cors {message}")


def _open_fallbacks(config: Config, groups: Iterable[Sequence[Place]]) -> Iterator[Finding]:
    """Find routes without `auth` that take the requests that lack the conditions of a route with `auth`."""
    found: dict[Loc, Loc] = {}
    for group in groups:
        for (first, one), (loc, other) in itertools.permutations(group, 2):
            if one.auth and one.conditions and loc not in found and _is_open(config, other):
                shared = one.accepted is None or other.accepted is None or one.accepted & other.accepted
                if shared and _falls_to(one, other):
                    found[loc] = first
    for loc, first in found.items():
        message = f"has no auth, and takes the requests that lack the conditions of {key_of(first)}, which has auth"
        yield Finding((*loc, "path"), message)


def _is_open(config: Config, route: Route) -> bool:
    """Return whether every client gets what the route serves; redirects and fixed responses serve nothing."""
    guarded = route.auth or route.forward_auth or any(config.plugins[name].kind == "guard" for name in route.plugins)
    return not guarded and (bool(route.destinations) or route.static is not None) and not route.login


def _falls_to(one: Route, other: Route) -> bool:
    """Return whether a request that lacks conditions of ``one`` may reach ``other``, and needs no other condition."""
    if any(never_together(*pair) for pair in itertools.product(one.conditions, other.conditions)):
        return False
    return not all(any(implies(each, wanted) for each in other.conditions) for wanted in one.conditions)


def _groups(routes: Sequence[Place]) -> dict[tuple[str | None, str], list[Place]]:
    """Return the routes by host and path, apart from the names of parameters."""
    groups: dict[tuple[str | None, str], list[Place]] = defaultdict(list)
    for loc, route in routes:
        shape = Pattern.parse(route.path).shape
        for host in dict.fromkeys(route.hosts):
            groups[host, shape].append((loc, route))
    return groups


def _same_methods(one: Route, other: Route) -> list[str]:
    """Return the methods that both routes list, or that neither lists."""
    if one.accepted is None or other.accepted is None:
        return ["every method"] if one.accepted is other.accepted else []
    return sorted(method.decode() for method in one.accepted & other.accepted)


def _hider(route: Route, method: bytes | None, others: Sequence[Place]) -> Loc | None:
    """Return the route that takes all requests with ``method`` (None: with any) that ``route`` would match."""
    own = (-route.priority, method is None, -len(route.conditions))
    for loc, other in others:
        if other.accepted is not None and method not in other.accepted:
            continue
        known = all(any(implies(each, wanted) for each in route.conditions) for wanted in other.conditions)
        if known and (-other.priority, other.accepted is None, -len(other.conditions)) < own:
            return loc
    return None
