"""Checks of hedged requests: settings that cannot work or have no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from passerelle.config.models.config import Config, Route, Service
from passerelle.config.models.units import duration_text
from passerelle.config.problems import Finding, Loc

_READS = ("GET", "HEAD")


def hedge_errors(
    loc: Loc, route: Route, repaired: frozenset[str], services: Mapping[str, Service | None]
) -> Iterator[Finding]:
    """Check the hedge of ``route``, which sends requests to ``services``."""
    if route.hedge is None:
        return
    after = route.hedge.after
    if route.methods is not None and not set(route.methods) & set(_READS):
        yield Finding(
            (*loc, "hedge"), "found on a route without GET and HEAD; other methods are not hedged", at_key=True
        )
    if route.attempts == 1 and "attempts" not in repaired:
        yield Finding((*loc, "hedge"), "found together with attempts: 1, which tries no other instance", at_key=True)
    limits = [("timeout", route.timeout), ("attempt_timeout", route.attempt_timeout)]
    for key, limit in limits:
        if isinstance(after, float) and limit is not None and after >= limit and key not in repaired:
            message = f"it is {duration_text(after)}; it must be less than {key}, {duration_text(limit)}"
            yield Finding((*loc, "hedge", "after"), message)
            break
    for name, service in services.items():
        if service is not None:
            yield from (Finding((*loc, "hedge"), why, at_key=True) for why in _of_service(name, service))


def _of_service(name: str, service: Service) -> Iterator[str]:
    if service.balance.sticky is not None:
        yield f"found with {name!r}, which binds clients to their instance (balance.sticky)"
    retries = service.retries
    if retries.budget == 0 and retries.floor == 0:
        yield f"found with {name!r}, whose retries have no budget for it"
    if retries.methods is not None and not set(retries.methods) & set(_READS):
        yield f"found with {name!r}, whose retries.methods have neither GET nor HEAD"


def hedge_warnings(config: Config, services_of: Callable[[Route], Iterable[str]]) -> Iterator[Finding]:
    """Find hedges of services with a single instance."""
    for index, route in enumerate(config.routes):
        for name in services_of(route) if route.hedge is not None else ():
            service = config.services[name]
            alone = service.instances.max == 1 if service.is_local else len(service.all_targets) == 1
            if alone and not any(target.is_found for target in service.all_targets):
                message = f"{name!r} has one instance; a hedge needs a second one"
                yield Finding(("routes", index, "hedge"), message, at_key=True)
