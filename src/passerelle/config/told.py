"""The guards of a route in words, in the order in which they are asked."""

from __future__ import annotations

from passerelle.config.guards import RateLimit
from passerelle.config.models import Route


def guards_told(route: Route) -> list[str]:
    """One text for each guard of ``route``, the first that is asked first; empty where there is none."""
    told = []
    if route.clients is not None:
        for key, networks in (("allow", route.clients.allow), ("deny", route.clients.deny)):
            if networks:
                told.append(f"clients: {key} {', '.join(map(str, networks))}")
    told += [_limit(limit) for limit in route.rate_limit if limit.by not in ("consumer", "key")]
    if route.auth:
        told.append(f"auth: {' or '.join(route.auth)}")
    if route.require is not None:
        told += [f"require: {text}" for text in _required(route)]
    told += [_limit(limit) for limit in route.rate_limit if limit.by in ("consumer", "key")]
    return told


def _limit(limit: RateLimit) -> str:
    cost = f", cost {limit.cost}" if limit.cost != 1 else ""
    return f"rate_limit: {limit.rate} by {limit.by}, burst {limit.size}{cost}{', dry run' if limit.dry_run else ''}"


def _required(route: Route) -> list[str]:
    required = route.require
    assert required is not None
    texts = [f"scopes {', '.join(required.scopes)}"] if required.scopes else []
    if required.consumers is not None:
        texts.append(f"consumer {' or '.join(required.consumers)}")
    if required.roles is not None:
        texts.append(f"role {' or '.join(required.roles)}")
    return texts + [f"claim {claim} is {' or '.join(map(str, values))}" for claim, values in required.claims.items()]
