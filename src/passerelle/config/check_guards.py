"""What the guards of a route cannot do as they are configured."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.models import Config, Route
from passerelle.config.problems import Finding, Loc

# Where the credentials of each kind are configured.
_BLOCKS = {"key": "keys"}


def route_guards(loc: Loc, route: Route, touched: frozenset[str], blocks: frozenset[str]) -> Iterator[Finding]:
    """Findings about the guards of the route at ``loc``, without its keys that could not be read;
    ``blocks`` are the keys at the top of the file."""
    if "auth" in touched:
        return
    for index, method in enumerate(route.auth):
        place = (*loc, "auth", index)
        if method in route.auth[:index]:
            yield Finding(place, f"found {method} twice; once is enough")
        elif _BLOCKS[method] not in blocks:
            yield Finding(place, f"found {method}, but the file has no {_BLOCKS[method]}: at its top")
    if route.require is not None and not route.auth:
        yield Finding((*loc, "require"), "found without auth; nobody could meet it", at_key=True)
    if "rate_limit" not in touched:
        yield from _limits((*loc, "rate_limit"), route)


def _limits(loc: Loc, route: Route) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, limit in enumerate(route.rate_limit):
        place = (*loc, index)
        if limit.cost > limit.size:
            yield Finding((*place, "cost"), f"found {limit.cost}, more than the burst of {limit.size}: never admitted")
        if limit.by == "consumer" and not route.auth:
            yield Finding((*place, "by"), "found consumer without auth; there are consumers on routes with auth only")
        if limit.by == "key" and "key" not in route.auth:
            yield Finding((*place, "by"), "found key; allowed on routes with auth: [key] only")
        first = seen.setdefault(limit.label, index)
        if first != index:
            yield Finding((*place, "rate"), f"found {limit.label} twice; once is enough")


def unused_blocks(config: Config) -> Iterator[Finding]:
    """Blocks at the top of the file that no route refers to."""
    used = {_BLOCKS[method] for route in config.routes for method in route.auth}
    for block in _BLOCKS.values():
        if getattr(config, block) is not None and block not in used:
            yield Finding((block,), "no route accepts these credentials", at_key=True)
