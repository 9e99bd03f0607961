"""Checks of shadow requests: settings that cannot work, and those that are probably a mistake."""

from __future__ import annotations

from collections.abc import Iterator

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
    accepted = route.accepted
    for index, method in enumerate(route.shadow.methods):
        is_accepted = accepted is None or method.encode() in accepted or (method == "HEAD" and b"GET" in accepted)
        if not is_accepted and "methods" in route.shadow.model_fields_set:
            names = ", ".join(sorted(name.decode() for name in accepted or ()))
            yield Finding((*loc, "shadow", "methods", index), f"found {method!r}; the route accepts {names}")


def shadow_warnings(config: Config) -> Iterator[Finding]:
    """Find shadow requests that change data."""
    for index, route in enumerate(config.routes):
        for number, method in enumerate(route.shadow.methods if route.shadow is not None else ()):
            if method.encode() not in SAFE_METHODS:
                message = f"{method} requests are sent to both services; the second must not share data with the first"
                yield Finding(("routes", index, "shadow", "methods", number), message)
