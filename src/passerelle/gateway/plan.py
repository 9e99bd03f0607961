"""Routes compiled from configuration to immutable plans, ready to run. A reload builds all of it anew and swaps it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from passerelle.composition import Composition, Part
from passerelle.config.models import Config, Route
from passerelle.config.models import Service as ServiceConfig
from passerelle.gateway.breaking import GuardedForward
from passerelle.gateway.cache import Cache, CachePlan, make_plan
from passerelle.gateway.deadlines import Deadlines
from passerelle.gateway.forward import Forward
from passerelle.gateway.guards import Guards
from passerelle.gateway.login import MAX_BODY
from passerelle.gateway.service import Service
from passerelle.gateway.timed import TimedForward
from passerelle.gateway.whole import OwnLeg
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import RouteMetrics
from passerelle.paths import Pattern, Template
from passerelle.routing import Router, Rule
from passerelle.security.guard import Guard

if TYPE_CHECKING:
    from passerelle.gateway.exchange import ExchangeState


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How one part of a composition is asked for; ``key`` stands for the host in its cache keys."""

    name: str
    service: Service
    path: Template
    deadlines: Deadlines
    attempts: int
    cache: CachePlan | None
    key: bytes
    attempt_deadlines: Deadlines | None
    tells_deadline: bool
    forward: type[Forward]


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What every route has. ``body_limit`` in bytes; ``log`` is None when there is no access log; ``guards`` are asked
    in their order."""

    metrics: RouteMetrics
    log: RouteLog | None
    body_limit: int
    guards: tuple[Guard, ...]


@dataclass(frozen=True, slots=True)
class ForwardPlan(RoutePlan):
    """A route that one service answers; ``rewrite`` is None where it sees the client's path.

    ``cache`` is None where no route of the gateway is cached. Else what is changed on any route is let go of.
    """

    service: Service
    deadlines: Deadlines
    attempts: int
    rewrite: Template | None
    cache: CachePlan | None
    attempt_deadlines: Deadlines | None
    tells_deadline: bool
    forward: type[Forward]


@dataclass(frozen=True, slots=True)
class ComposePlan(RoutePlan):
    """A route that several services answer together, a part each."""

    composition: Composition
    parts: tuple[PartPlan, ...]


@dataclass(frozen=True, slots=True)
class OwnPlan(RoutePlan):
    """A route that the gateway answers itself: a login or a logout."""

    answer: Callable[[ExchangeState], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """What plans are built from besides the configuration: each gives the same object for the same argument."""

    services: Mapping[str, Service]
    deadlines: Callable[[float], Deadlines]
    metrics: Callable[[str], RouteMetrics]
    log: Callable[[str, str | None], RouteLog | None]
    guards: Guards
    cache: Cache | None
    era: object


def build_router(config: Config, environment: Environment) -> Router:
    """The route table of ``config``, its values :class:`ForwardPlan` or :class:`ComposePlan`."""
    return Router(
        Rule(
            route.host.encode("ascii") if route.host else None,
            route.accepted,
            route.path,
            _plan(config, route, environment),
        )
        for route in config.routes
    )


def cache_of(plan: object) -> CachePlan | None:
    """The cache of a route whose answers are stored, else None."""
    return plan.cache if isinstance(plan, ForwardPlan) and plan.cache is not None and plan.cache.stores else None


def _plan(config: Config, route: Route, environment: Environment) -> RoutePlan:
    limit = config.body_limit(route)
    metrics = environment.metrics(route.label)
    log = environment.log(route.label, route.login.service if route.login is not None else route.service)
    body_limit = sys.maxsize if limit is None else limit
    guards = environment.guards.of(route, metrics)
    rest = _rest_names(route.path)
    attempt = environment.deadlines(route.attempt_timeout) if route.attempt_timeout is not None else None
    tells = route.tell_deadline
    if route.service is not None:
        service = environment.services[route.service]
        rewrite = Template(route.rewrite, rest) if route.rewrite is not None else None
        deadlines = environment.deadlines(route.timeout)
        shared = environment.cache
        cache = make_plan(shared, environment.era, route.cache, metrics.cache) if shared is not None else None
        forward = _forward(config.services[route.service], route)
        of_leg = (service, deadlines, route.attempts, rewrite, cache, attempt, tells, forward)
        return ForwardPlan(metrics, log, body_limit, guards, *of_leg)
    if route.compose is None:
        leg = None
        if route.login is not None:
            name = route.login.service
            limits = environment.deadlines(route.timeout), route.attempts
            leg = OwnLeg(environment.services[name], *limits, _forward(config.services[name], route))
        return OwnPlan(metrics, log, min(body_limit, MAX_BODY), guards, environment.guards.own(route, leg))
    parts = []
    plans = []
    for name, part in route.compose.items():
        fallback = None if part.required else orjson.dumps(part.fallback)
        parts.append(Part(name, fallback, frozenset(part.pass_status)))
        seconds = min(route.timeout, part.timeout) if part.timeout is not None else route.timeout
        service = environment.services[part.service]
        path = Template(part.path, rest)
        key = f"part:{route.label}:{name}".replace(" ", "_").encode()  # a host has no colon, so no route's key is this
        shared = environment.cache if part.cache is not None else None
        cache = make_plan(shared, environment.era, part.cache, metrics.cache) if shared is not None else None
        forward = _forward(config.services[part.service], route)
        deadlines = environment.deadlines(seconds)
        of_part = (deadlines, route.attempts, cache, key, attempt, tells, forward)
        plans.append(PartPlan(name, service, path, *of_part))
    return ComposePlan(metrics, log, body_limit, guards, Composition(parts), tuple(plans))


def _forward(service: ServiceConfig, route: Route) -> type[Forward]:
    """The plainest that does what the service and the route ask for: what is not asked for costs nothing."""
    if route.attempt_timeout is not None or route.tell_deadline:
        return TimedForward
    return GuardedForward if service.breaker is not None else Forward


def _rest_names(path: str) -> frozenset[str]:
    return frozenset(s.text for s in Pattern.parse(path).segments if str(s).endswith("*}"))
