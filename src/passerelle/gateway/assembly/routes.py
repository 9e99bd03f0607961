"""Builds the plans of routes from the configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

import orjson

from passerelle.access.login import MAX_BODY
from passerelle.access.preflight import PreflightHandler
from passerelle.compose.composition import Composition, CompositionPart
from passerelle.compose.json_steps import StepQueue
from passerelle.compose.plans import TERMS, ComposedRoute, PartPlan
from passerelle.config.models.cache import RouteCache
from passerelle.config.models.config import Config, Route
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.hedge import Percentile
from passerelle.gateway.assembly.caching import make_plan
from passerelle.gateway.assembly.guards import GuardFactory
from passerelle.gateway.assembly.headers import request_rules, response_header_rules, rule_of
from passerelle.gateway.assembly.shadows import with_shadow
from passerelle.gateway.plans import ComposePlan, ForwardPlan, HandlerPlan, RoutePlan
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import UNMATCHED, Metrics, RouteMetrics
from passerelle.proxy_cache.cache import Cache, CachePlan
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.routing.paths import Pattern, Template
from passerelle.routing.router import Router, RouteRule
from passerelle.upstream.addressed_request import AddressedRequest
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.guarded_request import GuardedRequest
from passerelle.upstream.request import CallPolicy, UpstreamRequest
from passerelle.upstream.service import Service
from passerelle.upstream.shadow import ShadowResults
from passerelle.upstream.subrequest import Subrequest


@dataclass(frozen=True, slots=True)
class PlanResources:
    """What plans are built from besides the configuration.

    Each of the functions returns the same object for the same argument. ``steps`` runs the checks of long parts.
    """

    services: Mapping[str, Service]
    deadlines: Callable[[float], DeadlineQueue]
    metrics: Callable[[str], RouteMetrics]
    log: Callable[[str, str | None], RouteLog | None]
    guards: GuardFactory
    cache: Cache | None
    era: object
    shadows: Callable[[str], ShadowResults]
    steps: StepQueue = field(default_factory=StepQueue)


def build_router(config: Config, resources: PlanResources) -> Router:
    """Build the route table of ``config``; its values are plans."""
    plans = [(route, _plan(config, route, resources)) for route in config.routes]
    return Router(
        RouteRule(host.encode("ascii") if host else None, route.accepted, route.path, plan, route.keeps_slashes)
        for route, plan in plans
        for host in route.hosts
    )


def unmatched_plan(config: Config, metrics: Metrics, log: Callable[[str, str | None], RouteLog | None]) -> RoutePlan:
    """Build the plan of requests that match no route."""
    rules = response_header_rules(config, None)
    return RoutePlan(metrics.route(UNMATCHED), log(UNMATCHED, None), 0, (), None, None, rules, None, None)


def _plan(config: Config, route: Route, resources: PlanResources) -> RoutePlan:
    """Build the plan of ``route``."""
    limit = config.body_limit(route)
    body_limit = sys.maxsize if limit is None else limit
    metrics = resources.metrics(route.label)
    log = resources.log(route.label, route.login.service if route.login is not None else route.service)
    guards, names = resources.guards.for_route(route, metrics, _forward_auth_policy(config, route, resources))
    response_rules = response_header_rules(config, route)
    preflight = None
    if response_rules is not None and response_rules.cors is not None:
        preflight_guards = resources.guards.for_preflight(route, metrics)
        preflight = HandlerPlan(
            metrics,
            log,
            min(body_limit, MAX_BODY),
            preflight_guards,
            None,
            None,
            response_header_rules(config, route, preflight=True),
            None,
            None,
            PreflightHandler(response_rules.cors),
            guard_names=("preflight",) * len(preflight_guards),
        )
    if route.service is None and route.compose is None:
        handler = resources.guards.handler(route, _login_subrequest(config, route, resources))
        size = min(body_limit, MAX_BODY)
        fixed = (metrics, log, size, guards, None, None, response_rules, preflight)
        return HandlerPlan(*fixed, None, handler, guard_names=names)
    cache = _cache_plan(route, route.cache, resources, metrics)
    common = (
        metrics,
        log,
        body_limit,
        guards,
        rule_of(route.compress),
        request_rules(route),
        response_rules,
        preflight,
    )
    if route.service is None:
        if cache is not None:
            # The lifetimes of the parts hold, which TERMS carries (see compose/composed_origin.py).
            settings = replace(cache.settings, ttl=None, heuristic=False, stale_if_disconnected=0, targeted=(TERMS,))
            cache = replace(cache, settings=settings)
        withheld = resources.guards.withheld([part.service for part in (route.compose or {}).values()], route)
        composed = _composed(config, route, resources, metrics)
        return ComposePlan(*common, cache, composed, withheld=withheld, guard_names=names)
    return ForwardPlan(
        *common,
        cache,
        with_shadow(
            config,
            route,
            _route_policy(config, route, resources, route.service, route.timeout),
            _shadow_policy(config, route, resources),
            resources.shadows,
        ),
        Template(route.rewrite, _rest_names(route.path)) if route.rewrite is not None else None,
        feeds_compositions=any(_has_stored_parts_of(each, route.service) for each in config.routes),
        tunnel_idle=_seconds(route.tunnel_idle_timeout),
        invalidates=cache or _invalidation_plan(route, resources, metrics),
        withheld=resources.guards.withheld([route.service], route),
        guard_names=names,
    )


def _composed(config: Config, route: Route, resources: PlanResources, metrics: RouteMetrics) -> ComposedRoute:
    """Build the composition of ``route`` and the plans of its parts."""
    parts, plans = [], []
    rest = _rest_names(route.path)
    for name, part in (route.compose or {}).items():
        fallback = None if part.required else orjson.dumps(part.fallback)
        parts.append(CompositionPart(name, fallback, frozenset(part.pass_status)))
        timeout = min(route.timeout, part.timeout) if part.timeout is not None else route.timeout
        prefix = f"part:{route.label}:{name}".replace(" ", "_").encode()  # no host with a port looks like this
        cache = _cache_plan(route, part.cache, resources, metrics)
        if resources.cache is not None and (cache is not None or route.cache is not None):
            resources.cache.sources.add(part.service)
        policy = _route_policy(config, route, resources, part.service, timeout)
        plans.append(PartPlan(name, policy, Template(part.path, rest), cache, prefix))
    ttl = route.cache.ttl if route.cache is not None else None
    return ComposedRoute(Composition(parts, resources.steps), tuple(plans), resources.deadlines(route.timeout), ttl)


def _cache_plan(
    route: Route, settings: RouteCache | None, resources: PlanResources, metrics: RouteMetrics
) -> CachePlan | None:
    """Build the plan of a cache with these ``settings``, for ``route`` or for one of its parts; None without any."""
    if settings is None or resources.cache is None:
        return None
    counts = metrics.cache, metrics.not_stored
    return make_plan(resources.cache, resources.era, settings, *counts, _identity_fields(route), _cache_host(route))


def _invalidation_plan(route: Route, resources: PlanResources, metrics: RouteMetrics) -> CachePlan | None:
    """Build the plan of a route that stores nothing, whose unsafe requests invalidate; None where nothing is cached."""
    if resources.cache is None:
        return None
    counts = metrics.cache, metrics.not_stored
    return make_plan(resources.cache, resources.era, None, *counts, _identity_fields(route), _cache_host(route))


def _cache_host(route: Route) -> str | None:
    """Return the name under which all hosts of ``route`` share their responses, where they do (`per_host: false`)."""
    return ",".join(route.host) if route.host is not None else None


def _login_subrequest(config: Config, route: Route, resources: PlanResources) -> Subrequest | None:
    """Build what verifies the passwords of a login route; None for a logout route."""
    if route.login is None:
        return None
    name = route.login.service
    request_type = _request_type(config.services[name], route)
    deadlines = resources.deadlines(route.timeout)
    return Subrequest(CallPolicy(resources.services[name], deadlines, route.attempts, request_type))


def _has_stored_parts_of(route: Route, service: str) -> bool:
    """Return whether responses of ``service`` are stored as parts of compositions on ``route``, or within the whole."""
    parts = (route.compose or {}).values()
    return any(p.service == service and (p.cache is not None or route.cache is not None) for p in parts)


def _identity_fields(route: Route) -> frozenset[bytes]:
    """Return the fields that ``forward_auth`` adds to requests for services, in lower case."""
    names = route.forward_auth.copy_headers if route.forward_auth is not None else ()
    return frozenset(name.lower().encode("ascii") for name in names)


def _forward_auth_policy(config: Config, route: Route, resources: PlanResources) -> Subrequest | None:
    """Build what sends the requests of ``forward_auth``: with its own timeout, and with a retry where that is safe."""
    settings = route.forward_auth
    if settings is None:
        return None
    service = config.services[settings.service]
    forward: type[UpstreamRequest] = GuardedRequest if service.breaker is not None else UpstreamRequest
    if service.host != "client":
        forward = AddressedRequest
    return Subrequest(
        CallPolicy(
            resources.services[settings.service],
            resources.deadlines(settings.timeout),
            2,
            forward,
            limits_concurrency=False,
        )
    )


def _route_policy(config: Config, route: Route, resources: PlanResources, service: str, timeout: float) -> CallPolicy:
    """The policy for requests of ``route`` to ``service`` that take at most ``timeout`` seconds."""
    limit = route.attempt_timeout
    return CallPolicy(
        resources.services[service],
        resources.deadlines(timeout),
        route.attempts,
        _request_type(config.services[service], route),
        attempt_deadlines=resources.deadlines(limit) if limit is not None else None,
        hedge=_hedge(route),
        stream_idle=_seconds(route.stream_idle_timeout),
        sends_deadline=route.tell_deadline,
    )


def _shadow_policy(config: Config, route: Route, resources: PlanResources) -> CallPolicy | None:
    """Return the policy of shadow requests: one attempt, with a timeout of their own. None without a shadow."""
    shadow = route.shadow
    if shadow is None:
        return None
    service = config.services[shadow.service]
    request_type: type[UpstreamRequest] = GuardedRequest if service.host == "client" else AddressedRequest
    return CallPolicy(resources.services[shadow.service], resources.deadlines(shadow.timeout), 1, request_type)


def _request_type(service: ServiceConfig, route: Route) -> type[UpstreamRequest]:
    """Return the simplest request class with the features that the service and the route use."""
    if service.host != "client":
        return AddressedRequest
    guarded = (
        route.hedge is not None
        or service.concurrency is not None
        or route.attempt_timeout is not None
        or route.tell_deadline
        or service.breaker is not None
    )
    return GuardedRequest if guarded else UpstreamRequest


def _hedge(route: Route) -> HedgeDelay | None:
    """Create the hedge delay for one service of ``route``: each has its own, since their latencies differ."""
    if route.hedge is None:
        return None
    after = route.hedge.after
    return HedgeDelay(percentile=after.percent) if isinstance(after, Percentile) else HedgeDelay(after)


def _seconds(limit: float | str) -> float:
    return inf if isinstance(limit, str) else limit


def _rest_names(path: str) -> frozenset[str]:
    return frozenset(s.text for s in Pattern.parse(path).segments if str(s).endswith("*}"))
