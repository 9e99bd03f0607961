"""Checks of routes that keep encoded slashes, which a service may decode into more segments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from passerelle.config.models.config import Config, Route
from passerelle.config.problems import Finding, Loc
from passerelle.routing.paths import REST, Pattern

# What a route can demand of clients.
_GUARDS = ("clients", "auth", "require", "forward_auth", "rate_limit")
_PARAMETER = re.compile(r"\{([^{}*]*)\*?\}")
# Segments of a set of paths other than literals: exactly one, or any number.
_ONE, _ANY = "{}", "{*}"

Segments = tuple[str, ...]


def slash_errors(loc: Loc, route: Route, pattern: Pattern) -> Iterator[Finding]:
    """Check ``encoded_slashes`` of the route at ``loc`` with ``pattern``."""
    if not route.keeps_slashes:
        if "%2F" in str(pattern):
            yield Finding((*loc, "path"), f"found {route.path!r}; a path with %2F needs encoded_slashes: keep")
        return
    rest = {segment.text for segment in pattern.segments if segment.kind == REST}
    for name in dict.fromkeys(_PARAMETER.findall(route.rewrite or "")):
        if name in pattern.names and name not in rest:
            message = f"found {{{name}}} together with encoded_slashes: keep, so its value could add segments"
            yield Finding((*loc, "rewrite"), f"{message}; only a {{rest*}} of the path may be used")


def slash_warnings(config: Config) -> Iterator[Finding]:
    """Find routes whose encoded slashes, once decoded, lead past the guards of another route or of a login."""
    for index, route in enumerate(config.routes):
        if not route.keeps_slashes:
            continue
        reached = _segments(route.rewrite or _unconstrained(route), route, decoded=True)
        for other in config.routes:
            more = _has_more_guards(other, route)
            paths = [path for name in route.destinations for path in _paths(other, name)] if more else []
            if any(_overlap(reached, _segments(path, other, decoded=False)) for path in paths):
                what = "the passwords of" if other.login is not None else "what is guarded by"
                message = f"a service that decodes %2F gives clients {what} the route {other.label} too"
                yield Finding(("routes", index, "encoded_slashes"), message)


def _has_more_guards(other: Route, route: Route) -> bool:
    """Return whether ``other`` has a guard that ``route`` lacks, for requests that both match by their method."""
    if other.login is not None:
        return True
    if route.methods is not None and other.methods is not None and not {*route.methods} & {*other.methods}:
        return False
    return any(getattr(other, key) and getattr(other, key) != getattr(route, key) for key in _GUARDS)


def _paths(route: Route, service: str | None) -> list[str]:
    """Return the paths, with parameters, that ``service`` receives from ``route``."""
    if route.login is not None:
        return [route.login.path] if route.login.service == service else []
    if route.compose is not None:
        return [part.path for part in route.compose.values() if service in part.destinations]
    return [route.rewrite or _unconstrained(route)] if service in route.destinations else []


def _unconstrained(route: Route) -> str:
    return Pattern.parse(route.path).unconstrained


def _segments(path: str, route: Route, *, decoded: bool) -> Segments:
    """Return the segments of ``path``, whose parameters are those of ``route``.

    ``decoded``: encoded slashes, which a parameter may contain, separate segments too.
    """
    rest = {segment.text for segment in Pattern.parse(route.path).segments if segment.kind == REST}
    found: list[str] = []
    for part in path[1:].split("/"):
        names = _PARAMETER.findall(part)
        if not names:
            found += part.split("%2F") if decoded else [part]
        elif names[0] in rest:
            found.append(_ANY)
        else:
            found += [_ONE, _ANY] if decoded else [_ONE]
    return tuple(found)


def _overlap(one: Segments, other: Segments) -> bool:
    """Return whether a path exists that has both forms."""

    @cache
    def meet(left: int, right: int) -> bool:
        if left == len(one) and right == len(other):
            return True
        first, second = one[left : left + 1], other[right : right + 1]
        if first == (_ANY,) and (meet(left + 1, right) or (second and second != (_ANY,) and meet(left, right + 1))):
            return True
        if second == (_ANY,) and (meet(left, right + 1) or (first and first != (_ANY,) and meet(left + 1, right))):
            return True
        if not first or not second or _ANY in first + second:
            return False
        return (first == second or _ONE in first + second) and meet(left + 1, right + 1)

    return meet(0, 0)
