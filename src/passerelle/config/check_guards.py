"""What the guards of a route cannot do as they are configured."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.models import Route
from passerelle.config.problems import Finding, Loc


def route_guards(loc: Loc, route: Route, touched: frozenset[str]) -> Iterator[Finding]:
    """Findings about the guards of the route at ``loc``, without its keys that could not be read."""
    if "rate_limit" not in touched:
        yield from _limits((*loc, "rate_limit"), route)


def _limits(loc: Loc, route: Route) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, limit in enumerate(route.rate_limit):
        place = (*loc, index)
        if limit.cost > limit.size:
            yield Finding((*place, "cost"), f"found {limit.cost}, more than the burst of {limit.size}: never admitted")
        first = seen.setdefault(limit.label, index)
        if first != index:
            yield Finding((*place, "rate"), f"found {limit.label} twice; once is enough")
