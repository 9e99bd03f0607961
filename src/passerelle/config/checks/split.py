"""Checks of splits: settings that cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final

from passerelle.config.models.config import Route
from passerelle.config.models.split import Split
from passerelle.config.problems import Finding, Loc

MOST_CHOICES: Final = 64
"""The most combinations of sides of one composition: the gateway prepares a plan for each."""


def split_places(loc: Loc, route: Route) -> Iterator[tuple[Loc, Split]]:
    """Yield the splits of ``route`` and of its parts, with their places in the file."""
    if route.split is not None:
        yield (*loc, "split"), route.split
    for key, part in (route.compose or {}).items():
        if part.split is not None:
            yield (*loc, "compose", key, "split"), part.split


def split_errors(loc: Loc, route: Route, blocks: frozenset[str]) -> Iterator[Finding]:
    """Check the splits of ``route``. ``blocks`` are the top-level keys of the file."""
    services = [route.service, *(part.service for part in (route.compose or {}).values() if part.split is not None)]
    named = [service for service in services if service is not None]
    identified = bool(route.auth) or (route.forward_auth is not None and route.forward_auth.consumer is not None)
    for (place, split), service in zip(split_places(loc, route), named, strict=False):
        if service in split.weights:
            message = f"found {service!r}, the service that has the rest; list the others only"
            yield Finding((*place, "weights", service), message, at_key=True)
        if split.by.source == "consumer" and not identified:
            yield Finding((*place, "by"), "found consumer; it needs auth, or forward_auth with consumer, on the route")
        if split.by.source == "session" and "sessions" not in blocks:
            yield Finding((*place, "by"), "found session; it needs sessions: at the top level of the file")
        if split.override is not None and split.override.roles and not route.auth:
            yield Finding((*place, "override", "roles"), "found without auth; no client would have a role")
    choices = prod(1 + len(split.weights) for _, split in split_places(loc, route))
    if choices > MOST_CHOICES:
        message = f"found splits with {choices} combinations of sides; allowed are {MOST_CHOICES} on one route"
        yield Finding((*loc, "compose"), message, at_key=True)
