"""Routes compiled from configuration to immutable plans, ready to run. A reload builds all of it anew and swaps it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

import orjson

from passerelle.balancing.hedging import HedgeDelay
from passerelle.coding import Rule as Coding
from passerelle.composition import Composition, Part
from passerelle.config.hedge import Percentile
from passerelle.config.models import Config, Route
from passerelle.config.models import Service as ServiceConfig
from passerelle.gateway.breaking import GuardedForward
from passerelle.gateway.cache import Cache, CachePlan, make_plan
from passerelle.gateway.compress import rule_of
from passerelle.gateway.deadlines import Deadlines
from passerelle.gateway.forward import Forward
from passerelle.gateway.guards import Guards
from passerelle.gateway.hedging import HedgedForward
from passerelle.gateway.limiting import LimitedForward
from passerelle.gateway.login import MAX_BODY
from passerelle.gateway.outgoing import Outgoing, outgoing, request_rules
from passerelle.gateway.own import OwnLeg
from passerelle.gateway.preflight import Preflight
from passerelle.gateway.service import Service
from passerelle.gateway.timed import TimedForward
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import UNMATCHED, Metrics, RouteMetrics
from passerelle.paths import Pattern, Template
from passerelle.routing import Router, Rule
from passerelle.security.field_rules import RequestRules
from passerelle.security.guard import Guard

if TYPE_CHECKING:
    from passerelle.gateway.exchange import ExchangeState

# The field in which a composed answer tells the cache its terms: one of the gateway's own, so it goes no further.
TERMS: Final = b"passerelle-cache-control"


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How one part of a composition is asked for; ``key`` stands before the origin in its cache keys."""

    name: str
    service: Service
    path: Template
    deadlines: Deadlines
    attempts: int
    cache: CachePlan | None
    key: bytes
    attempt_deadlines: Deadlines | None
    hedge: HedgeDelay | None
    stream_idle: float
    tells_deadline: bool
    forward: type[Forward]

    def renewing(self) -> PartPlan:
        """The same: there is nothing stale about asking a service."""
        return self


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What every route has. ``body_limit`` in bytes; ``log`` is None when there is no access log; ``guards`` are asked
    in their order; ``compress`` says what of its answers is coded, ``outgoing`` what is changed in their heads,
    ``rules`` what is in those of requests for services. ``preflight`` is how browsers are answered that ask before a
    request of the route; None where that is an OPTIONS like any other.

    ``cache`` is None where no route of the gateway is cached. Else what is changed on any route is let go of.
    """

    metrics: RouteMetrics
    log: RouteLog | None
    body_limit: int
    guards: tuple[Guard, ...]
    compress: Coding | None
    rules: RequestRules | None
    outgoing: Outgoing | None
    preflight: OwnPlan | None
    cache: CachePlan | None


@dataclass(frozen=True, slots=True)
class ForwardPlan(RoutePlan):
    """A route that one service answers; ``rewrite`` is None where it sees the client's path. ``feeds``: its service's
    answers are stored as parts of compositions, or in them. ``tunnel_idle``: seconds that a tunnel may be silent."""

    service: Service
    deadlines: Deadlines
    attempts: int
    rewrite: Template | None
    attempt_deadlines: Deadlines | None
    hedge: HedgeDelay | None
    stream_idle: float
    tells_deadline: bool
    forward: type[Forward]
    feeds: bool
    tunnel_idle: float

    def renewing(self) -> ForwardPlan:
        """The same: there is nothing stale about asking a service."""
        return self


@dataclass(frozen=True, slots=True)
class ComposePlan(RoutePlan):
    """A route that several services answer together, a part each. ``cache``, if any, is of the whole answer, which is
    fresh for ``ttl`` seconds at most where that is given."""

    composition: Composition
    parts: tuple[PartPlan, ...]
    deadlines: Deadlines
    ttl: float | None


@dataclass(frozen=True, slots=True)
class OwnPlan(RoutePlan):
    """What the gateway answers itself: a login, a logout, or the preflights of any route."""

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


def unmatched_plan(config: Config, metrics: Metrics, log: Callable[[str, str | None], RouteLog | None]) -> RoutePlan:
    """What stands for a route where none takes a request."""
    heads = outgoing(config, None)
    return RoutePlan(metrics.route(UNMATCHED), log(UNMATCHED, None), 0, (), None, None, heads, None, None)


def cache_of(plan: object) -> CachePlan | None:
    """The cache of a route whose answers are stored, else None."""
    return plan.cache if isinstance(plan, RoutePlan) and plan.cache is not None and plan.cache.stores else None


def _plan(config: Config, route: Route, environment: Environment) -> RoutePlan:
    limit = config.body_limit(route)
    metrics = environment.metrics(route.label)
    log = environment.log(route.label, route.login.service if route.login is not None else route.service)
    body_limit = sys.maxsize if limit is None else limit
    guards = environment.guards.of(route, metrics, _judge(config, route, environment))
    rest = _rest_names(route.path)
    attempt = environment.deadlines(route.attempt_timeout) if route.attempt_timeout is not None else None
    stream_idle = _seconds(route.stream_idle_timeout)
    tells = route.tell_deadline
    compress = rule_of(route.compress)
    shared = environment.cache if route.service is not None or route.cache is not None else None
    kept = environment.era, route.cache, metrics.cache, _told(route)
    whole = make_plan(shared, *kept) if shared is not None else None
    rules, heads = request_rules(route.request_headers), outgoing(config, route)
    preflight = None
    if heads is not None and heads.cors is not None:
        admit, edit = environment.guards.of_preflight(route, metrics), outgoing(config, route, preflight=True)
        most, say = min(body_limit, MAX_BODY), Preflight(heads.cors)
        preflight = OwnPlan(metrics, log, most, admit, None, None, edit, None, None, say)
    of_route = (metrics, log, body_limit, guards, compress, rules, heads, preflight, whole)
    if route.service is not None:
        service = environment.services[route.service]
        rewrite = Template(route.rewrite, rest) if route.rewrite is not None else None
        deadlines = environment.deadlines(route.timeout)
        forward = _forward(config.services[route.service], route)
        feeds = any(_made_of(each, route.service) for each in config.routes)
        return ForwardPlan(
            *of_route,
            service,
            deadlines,
            route.attempts,
            rewrite,
            attempt_deadlines=attempt,
            hedge=_hedge(route),
            stream_idle=stream_idle,
            tells_deadline=tells,
            forward=forward,
            feeds=feeds,
            tunnel_idle=_seconds(route.tunnel_idle_timeout),
        )
    if route.compose is None:
        leg = None
        if route.login is not None:
            name = route.login.service
            limits = environment.deadlines(route.timeout), route.attempts
            leg = OwnLeg(environment.services[name], *limits, _forward(config.services[name], route))
        most = min(body_limit, MAX_BODY)
        own = environment.guards.own(route, leg)
        return OwnPlan(metrics, log, most, guards, None, None, heads, preflight, None, own)
    parts = []
    plans = []
    for name, part in route.compose.items():
        fallback = None if part.required else orjson.dumps(part.fallback)
        parts.append(Part(name, fallback, frozenset(part.pass_status)))
        seconds = min(route.timeout, part.timeout) if part.timeout is not None else route.timeout
        service = environment.services[part.service]
        path = Template(part.path, rest)
        key = f"part:{route.label}:{name}".replace(" ", "_").encode()  # no host with a port is like this
        shared = environment.cache if part.cache is not None else None
        kept = environment.era, part.cache, metrics.cache, _told(route)
        cache = make_plan(shared, *kept) if shared is not None else None
        if environment.cache is not None and (cache is not None or whole is not None):
            environment.cache.sources.add(part.service)
        forward = _forward(config.services[part.service], route)
        deadlines = environment.deadlines(seconds)
        of_part = (deadlines, route.attempts, cache, key, attempt, _hedge(route), stream_idle, tells, forward)
        plans.append(PartPlan(name, service, path, *of_part))
    if whole is not None:
        # The parts' lifetimes count, and the answer says so in a field of the gateway's own (see gateway/whole.py).
        settings = replace(whole.settings, ttl=None, heuristic=False, stale_if_disconnected=0, targeted=(TERMS,))
        of_route = (*of_route[:-1], replace(whole, settings=settings))
    ttl = route.cache.ttl if route.cache is not None else None
    return ComposePlan(*of_route, Composition(parts), tuple(plans), environment.deadlines(route.timeout), ttl)


def _made_of(route: Route, service: str) -> bool:
    """Whether answers of ``service`` are stored as parts on ``route``, or as the whole."""
    parts = (route.compose or {}).values()
    return any(p.service == service and (p.cache is not None or route.cache is not None) for p in parts)


def _told(route: Route) -> frozenset[bytes]:
    """The fields that tell services what ``forward_auth`` has found out, lower case."""
    names = route.forward_auth.copy_headers if route.forward_auth is not None else ()
    return frozenset(name.lower().encode("ascii") for name in names)


def _judge(config: Config, route: Route, environment: Environment) -> OwnLeg | None:
    """Where ``forward_auth`` asks, within its own time and with one more attempt if that is safe."""
    settings = route.forward_auth
    if settings is None:
        return None
    service = config.services[settings.service]
    forward = GuardedForward if service.breaker is not None else Forward
    return OwnLeg(environment.services[settings.service], environment.deadlines(settings.timeout), 2, forward)


def _forward(service: ServiceConfig, route: Route) -> type[Forward]:
    """The plainest that does what the service and the route ask for: what is not asked for costs nothing."""
    if route.hedge is not None:
        return HedgedForward
    if service.concurrency is not None:
        return LimitedForward
    if route.attempt_timeout is not None or route.tell_deadline:
        return TimedForward
    return GuardedForward if service.breaker is not None else Forward


def _hedge(route: Route) -> HedgeDelay | None:
    """Its own for each service that a route asks: they are not equally fast."""
    if route.hedge is None:
        return None
    after = route.hedge.after
    return HedgeDelay(percentile=after.percent) if isinstance(after, Percentile) else HedgeDelay(after)


def _seconds(limit: float | str) -> float:
    return inf if isinstance(limit, str) else limit


def _rest_names(path: str) -> frozenset[str]:
    return frozenset(s.text for s in Pattern.parse(path).segments if str(s).endswith("*}"))
