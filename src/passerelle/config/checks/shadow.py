"""Checks of shadow requests: settings that cannot work, and those that are probably a mistake."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.checks.methods import not_accepted
from passerelle.config.models.config import Config, Route
from passerelle.config.problems import Finding, Loc
from passerelle.http.messages import SAFE_METHODS


def shadow_errors(loc: Loc, route: Route) -> Iterator[Finding]:
    """Check the shadow of ``route``."""
    if route.shadow is None:
        return
    if route.shadow.service == route.service:
        message = f"found {route.shadow.service!r}, the service of the route itself; name the one to compare it with"
        yield Finding((*loc, "shadow", "service"), message)
    if "methods" in route.shadow.model_fields_set:
        yield from not_accepted((*loc, "shadow", "methods"), route.shadow.methods, route)


def shadow_warnings(config: Config) -> Iterator[Finding]:
    """Find shadow requests that change data."""
    for index, route in enumerate(config.routes):
        for number, method in enumerate(route.shadow.methods if route.shadow is not None else ()):
            if method.encode() not in SAFE_METHODS:
                message = f"{method} requests are sent to both services; the second must not share data with the first"
                yield Finding(("routes", index, "shadow", "methods", number), message)
