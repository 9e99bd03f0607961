"""Routes of the configuration as rules of the router. Workers need this, and none of the checks."""

from __future__ import annotations

from passerelle.config.models.config import Config, Route
from passerelle.routing.router import RouteRule
from passerelle.routing.rules import specificity


def rules(config: Config) -> list[RouteRule]:
    """Convert the routes to rules of :class:`passerelle.routing.router.Router`, with each :class:`Route` as value."""
    return [rule for route in config.routes for rule in rules_of(route)]


def rules_of(route: Route) -> list[RouteRule]:
    """Convert a route to rules of the router, one for each of its hosts."""
    hosts = [host.encode() if host is not None else None for host in route.hosts]
    more = (route.keeps_slashes, route.conditions, route.priority)
    return [RouteRule(host, route.accepted, route.path, route, *more) for host in hosts]


def rule_of(route: Route) -> RouteRule:
    """Convert a route to the most specific of its rules."""
    return min(rules_of(route), key=specificity)
