"""Checks of the balancing of a service: combinations of valid values that cannot work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from passerelle.config.models.config import Route, Service
from passerelle.config.models.units import duration_text
from passerelle.config.problems import Finding, Loc
from passerelle.config.reading.wording import hint
from passerelle.routing.paths import Pattern


class PlacedRoute(Protocol):
    """A route and its keys that had to be left out."""

    @property
    def route(self) -> Route:
        """The route."""

    @property
    def repaired(self) -> frozenset[str]:
        """Keys whose values are not those of the file."""


def errors(name: str, service: Service, routes: Iterable[PlacedRoute]) -> Iterator[Finding]:
    """Check the service called ``name``, which ``routes`` use."""
    loc: Loc = ("services", name)
    yield from _parameter(name, service, routes)
    limits = [("eject", "max_time", service.eject.time, service.eject.max_time)] if service.eject is not None else []
    if service.breaker is not None:
        limits.append(("breaker", "max_open", service.breaker.open, service.breaker.max_open))
    limits.append(("retries", "max_backoff", service.retries.backoff, service.retries.max_backoff))
    for key, inner, least, most in limits:
        if most < least:
            message = (
                f"it is {duration_text(most)}; it must be at least {inner.removeprefix('max_')}, {duration_text(least)}"
            )
            yield Finding((*loc, key, inner), message)
    yield from _concurrency(loc, service)
    number = service.instances
    if number.max < number.min:
        yield Finding((*loc, "instances", "max"), f"it is {number.max}; it must be at least min, {number.min}")
    if service.breaker is not None and service.breaker.threshold == 0:
        yield Finding((*loc, "breaker", "threshold"), "found 0%; a breaker that opens without a failure never closes")


def _concurrency(loc: Loc, service: Service) -> Iterator[Finding]:
    """Check the bounds of the adaptive limit."""
    found = service.concurrency
    if found is None:
        return
    if found.max <= found.min:
        message = f"it is {found.max}; it must be more than min, {found.min}; for a fixed limit use max_connections"
        yield Finding((*loc, "concurrency", "max"), message)
    elif not found.min <= found.first <= found.max:
        yield Finding(
            (*loc, "concurrency", "initial"), f"it is {found.first}; it must be from {found.min} to {found.max}"
        )


def _parameter(name: str, service: Service, routes: Iterable[PlacedRoute]) -> Iterator[Finding]:
    """Check that the paths of all routes of the service have the parameter of ``balance.by``."""
    by = service.balance.by
    if by is None or by.source != "param":
        return
    for placed in routes:
        route = placed.route
        if route.login is not None or name not in route.destinations or "path" in placed.repaired:
            continue
        known = Pattern.parse(route.path).names
        if by.name not in known:
            has = f"has {', '.join(f'{{{other}}}' for other in known)}" if known else "has no parameter"
            message = f"found the parameter {{{by.name}}}; the route {route.path} {has}{hint(by.name, known)}"
            yield Finding(("services", name, "balance", "by"), message)
