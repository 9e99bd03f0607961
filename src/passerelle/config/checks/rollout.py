"""Checks of rollouts: settings that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.config.models.config import Route
from passerelle.config.problems import Finding, Loc


def rollout_errors(loc: Loc, route: Route) -> Iterator[Finding]:
    """Check the rollout of ``route``."""
    rollout, split = route.rollout, route.split
    if rollout is None or split is None:
        return
    if len(split.weights) > 1:
        names = ", ".join(split.weights)
        message = (
            f"found with a split among {1 + len(split.weights)} services; a rollout needs one other: one of {names}"
        )
        yield Finding((*loc, "rollout"), message, at_key=True)
        return
    (new,) = split.weights
    if rollout.shadow is None:
        return
    if route.shadow is None:
        message = f"found on a route without shadow; add shadow: {{service: {new}}} to the route"
        yield Finding((*loc, "rollout", "shadow"), message, at_key=True)
    elif route.shadow.service != new:
        message = f"found, but the shadow of the route compares {route.shadow.service!r}; users would move to {new!r}"
        yield Finding((*loc, "rollout", "shadow"), message, at_key=True)
