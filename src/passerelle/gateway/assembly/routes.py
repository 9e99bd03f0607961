"""Routes compiled from configuration to plans."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf

import orjson

from passerelle.access.login import MAX_BODY
from passerelle.access.preflight import PreflightHandler
from passerelle.compose.composition import Composition, CompositionPart
from passerelle.compose.plans import TERMS, ComposedRoute, PartPlan
from passerelle.config.models.config import Config, Route
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.hedge import Percentile
from passerelle.gateway.assembly.caching import make_plan
from passerelle.gateway.assembly.guards import GuardFactory
from passerelle.gateway.assembly.headers import request_rules, response_header_rules, rule_of
from passerelle.gateway.plans import ComposePlan, ForwardPlan, HandlerPlan, RoutePlan
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import UNMATCHED, Metrics, RouteMetrics
from passerelle.proxy_cache.cache import Cache
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.routing.paths import Pattern, Template
from passerelle.routing.router import Router, RouteRule
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.guarded_request import GuardedRequest
from passerelle.upstream.request import CallPolicy, UpstreamRequest
from passerelle.upstream.service import Service
from passerelle.upstream.subrequest import Subrequest


@dataclass(frozen=True, slots=True)
class PlanResources:
    """What plans are built from besides the configuration: each gives the same object for the same argument."""

    services: Mapping[str, Service]
    deadlines: Callable[[float], DeadlineQueue]
    metrics: Callable[[str], RouteMetrics]
    log: Callable[[str, str | None], RouteLog | None]
    guards: GuardFactory
    cache: Cache | None
    era: object


def build_router(config: Config, environment: PlanResources) -> Router:
    """The route table of ``config``, its values :class:`ForwardPlan` or :class:`ComposePlan`."""
    return Router(
        RouteRule(
            route.host.encode("ascii") if route.host else None,
            route.accepted,
            route.path,
            _plan(config, route, environment),
        )
        for route in config.routes
    )


def unmatched_plan(config: Config, metrics: Metrics, log: Callable[[str, str | None], RouteLog | None]) -> RoutePlan:
    """What stands for a route where none takes a request."""
    heads = response_header_rules(config, None)
    return RoutePlan(metrics.route(UNMATCHED), log(UNMATCHED, None), 0, (), None, None, heads, None, None)


def _plan(config: Config, route: Route, environment: PlanResources) -> RoutePlan:
    limit = config.body_limit(route)
    metrics = environment.metrics(route.label)
    log = environment.log(route.label, route.login.service if route.login is not None else route.service)
    body_limit = sys.maxsize if limit is None else limit
    guards = environment.guards.for_route(route, metrics, _forward_auth_policy(config, route, environment))
    rest = _rest_names(route.path)
    compress = rule_of(route.compress)
    shared = environment.cache if route.service is not None or route.cache is not None else None
    kept = environment.era, route.cache, metrics.cache, _identity_fields(route), route.host
    invalidates = make_plan(shared, *kept) if shared is not None else None
    whole = invalidates if route.cache is not None else None
    rules, heads = request_rules(route.request_headers), response_header_rules(config, route)
    preflight = None
    if heads is not None and heads.cors is not None:
        admit, edit = (
            environment.guards.for_preflight(route, metrics),
            response_header_rules(config, route, preflight=True),
        )
        most, say = min(body_limit, MAX_BODY), PreflightHandler(heads.cors)
        preflight = HandlerPlan(metrics, log, most, admit, None, None, edit, None, None, say)
    of_route = (metrics, log, body_limit, guards, compress, rules, heads, preflight, whole)
    if route.service is not None:
        rewrite = Template(route.rewrite, rest) if route.rewrite is not None else None
        policy = _route_policy(config, route, environment, route.service, route.timeout)
        feeds = any(_has_stored_parts_of(each, route.service) for each in config.routes)
        return ForwardPlan(
            *of_route,
            policy,
            rewrite,
            feeds_compositions=feeds,
            tunnel_idle=_seconds(route.tunnel_idle_timeout),
            invalidates=invalidates,
        )
    if route.compose is None:
        subrequest = None
        if route.login is not None:
            name = route.login.service
            limits = environment.deadlines(route.timeout), route.attempts
            subrequest = Subrequest(
                CallPolicy(environment.services[name], *limits, _request_type(config.services[name], route))
            )
        most = min(body_limit, MAX_BODY)
        own = environment.guards.handler(route, subrequest)
        return HandlerPlan(metrics, log, most, guards, None, None, heads, preflight, None, own)
    parts = []
    plans = []
    for name, part in route.compose.items():
        fallback = None if part.required else orjson.dumps(part.fallback)
        parts.append(CompositionPart(name, fallback, frozenset(part.pass_status)))
        seconds = min(route.timeout, part.timeout) if part.timeout is not None else route.timeout
        path = Template(part.path, rest)
        key = f"part:{route.label}:{name}".replace(" ", "_").encode()  # no host with a port is like this
        shared = environment.cache if part.cache is not None else None
        kept = environment.era, part.cache, metrics.cache, _identity_fields(route), route.host
        cache = make_plan(shared, *kept) if shared is not None else None
        if environment.cache is not None and (cache is not None or whole is not None):
            environment.cache.sources.add(part.service)
        policy = _route_policy(config, route, environment, part.service, seconds)
        plans.append(PartPlan(name, policy, path, cache, key))
    if whole is not None:
        # The parts' lifetimes count, and the answer says so in a field of the gateway's own (see
        # compose/composed_origin.py).
        settings = replace(whole.settings, ttl=None, heuristic=False, stale_if_disconnected=0, targeted=(TERMS,))
        of_route = (*of_route[:-1], replace(whole, settings=settings))
    ttl = route.cache.ttl if route.cache is not None else None
    composed = ComposedRoute(Composition(parts), tuple(plans), environment.deadlines(route.timeout), ttl)
    return ComposePlan(*of_route, composed)


def _has_stored_parts_of(route: Route, service: str) -> bool:
    """Whether answers of ``service`` are stored as parts on ``route``, or as the whole."""
    parts = (route.compose or {}).values()
    return any(p.service == service and (p.cache is not None or route.cache is not None) for p in parts)


def _identity_fields(route: Route) -> frozenset[bytes]:
    """The fields that tell services what ``forward_auth`` has found out, lower case."""
    names = route.forward_auth.copy_headers if route.forward_auth is not None else ()
    return frozenset(name.lower().encode("ascii") for name in names)


def _forward_auth_policy(config: Config, route: Route, environment: PlanResources) -> Subrequest | None:
    """Where ``forward_auth`` asks, within its own time and with one more attempt if that is safe."""
    settings = route.forward_auth
    if settings is None:
        return None
    service = config.services[settings.service]
    forward = GuardedRequest if service.breaker is not None else UpstreamRequest
    return Subrequest(
        CallPolicy(
            environment.services[settings.service],
            environment.deadlines(settings.timeout),
            2,
            forward,
            limits_concurrency=False,
        )
    )


def _route_policy(config: Config, route: Route, environment: PlanResources, service: str, timeout: float) -> CallPolicy:
    """The policy for requests of ``route`` to ``service`` that take at most ``timeout`` seconds."""
    limit = route.attempt_timeout
    return CallPolicy(
        environment.services[service],
        environment.deadlines(timeout),
        route.attempts,
        _request_type(config.services[service], route),
        attempt_deadlines=environment.deadlines(limit) if limit is not None else None,
        hedge=_hedge(route),
        stream_idle=_seconds(route.stream_idle_timeout),
        sends_deadline=route.tell_deadline,
    )


def _request_type(service: ServiceConfig, route: Route) -> type[UpstreamRequest]:
    """The plainest that does what the service and the route ask for: what is not asked for costs nothing."""
    guarded = (
        route.hedge is not None
        or service.concurrency is not None
        or route.attempt_timeout is not None
        or route.tell_deadline
        or service.breaker is not None
    )
    return GuardedRequest if guarded else UpstreamRequest


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
