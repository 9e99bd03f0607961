"""Builds the plans of routes from the configuration.

The file is longer than 400 lines because each kind of plan takes the same resources.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from math import inf
from typing import Protocol

import orjson

from passerelle.access.login import MAX_BODY
from passerelle.access.preflight import PreflightHandler
from passerelle.compose.composition import Composition, CompositionPart
from passerelle.compose.json_steps import StepQueue
from passerelle.compose.plans import TERMS, ComposedRoute, PartPlan
from passerelle.config import rules_of
from passerelle.config.models.cache import RouteCache
from passerelle.config.models.config import Config, Route
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.hedge import Percentile
from passerelle.config.models.split import Split
from passerelle.gateway.assembly.actions import action_of, in_maintenance, with_pages
from passerelle.gateway.assembly.caching import make_plan, told_apart
from passerelle.gateway.assembly.guards import GuardFactory, added_fields
from passerelle.gateway.assembly.headers import request_rules, response_header_rules, rule_of
from passerelle.gateway.assembly.shadows import with_shadow
from passerelle.gateway.assembly.splits import SplitFactory, apart
from passerelle.gateway.error_pages import ErrorPages
from passerelle.gateway.plans import ActionPlan, ComposePlan, ForwardPlan, HandlerPlan, RoutePlan, SplitPlan
from passerelle.gateway.splitter import Splitter
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import UNMATCHED, Metrics, RouteMetrics
from passerelle.proxy_cache.cache import Cache, CachePlan
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.routing.paths import Pattern, Template
from passerelle.routing.router import Router
from passerelle.upstream.addressed_request import AddressedRequest
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.guarded_request import GuardedRequest
from passerelle.upstream.request import CallPolicy, UpstreamRequest
from passerelle.upstream.service import Service
from passerelle.upstream.shadow import ShadowResults
from passerelle.upstream.subrequest import Subrequest


class MakeRouteLog(Protocol):
    """Makes what writes the lines of a route."""

    def __call__(self, route: str, service: str | None, which: str = "all") -> RouteLog | None:
        """Return what writes the lines of ``all`` requests or of ``errors``; None for ``off``."""


@dataclass(frozen=True, slots=True)
class PlanResources:
    """What plans are built from besides the configuration.

    Each of the functions returns the same object for the same argument. ``steps`` runs the checks of long parts.
    """

    services: Mapping[str, Service]
    deadlines: Callable[[float], DeadlineQueue]
    metrics: Callable[[str], RouteMetrics]
    log: MakeRouteLog
    guards: GuardFactory
    cache: Cache | None
    era: object
    shadows: Callable[[str], ShadowResults]
    splits: SplitFactory
    pages: ErrorPages | None
    steps: StepQueue = field(default_factory=StepQueue)


Plans = list[tuple[Route, RoutePlan]]
"""The routes of a configuration with their plans."""


def build_plans(config: Config, resources: PlanResources) -> Plans:
    """Build the plans of the routes of ``config``."""
    pages = resources.pages
    stored = _stored_parts(config)
    plans = [(route, _plan(config, route, resources, stored)) for route in config.routes]
    return plans if pages is None else [(route, with_pages(plan, pages)) for route, plan in plans]


def build_router(plans: Plans, maintenance: frozenset[str] | None) -> Router:
    """Build the route table of ``plans``, which are its values.

    ``maintenance`` are the labels of the routes in maintenance; None for all.
    """
    in_force = [
        (route, in_maintenance(plan) if maintenance is None or route.label in maintenance else plan)
        for route, plan in plans
    ]
    return Router(replace(rule, value=plan) for route, plan in in_force for rule in rules_of(route))


def unmatched_plan(
    config: Config,
    metrics: Metrics,
    log: MakeRouteLog,
    pages: ErrorPages | None,
) -> RoutePlan:
    """Build the plan of requests that match no route."""
    rules = response_header_rules(config, None)
    fixed = (metrics.route(UNMATCHED), log(UNMATCHED, None), 0, (), None, None, rules, None, None)
    return RoutePlan(*fixed, error_pages=pages)


def _plan(config: Config, route: Route, resources: PlanResources, stored: Sequence[Sequence[str]]) -> RoutePlan:
    """Build the plan of ``route``. For ``stored`` see :func:`_stored_parts`."""
    limit = config.body_limit(route)
    body_limit = sys.maxsize if limit is None else limit
    metrics = resources.metrics(route.label)
    log = resources.log(route.label, route.login.service if route.login is not None else route.service, route.log)
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
    if (action := action_of(config, route)) is not None:
        own = (metrics, log, body_limit, guards, None, None, response_rules, preflight, None)
        return ActionPlan(*own, action, guard_names=names)
    if route.service is None and route.compose is None:
        handler = resources.guards.handler(route, _login_subrequest(config, route, resources))
        size = min(body_limit, MAX_BODY)
        fixed = (metrics, log, size, guards, None, None, response_rules, preflight)
        return HandlerPlan(*fixed, None, handler, guard_names=names)
    cache = told_apart(config, route, _cache_plan(config, route, route.cache, resources, metrics))
    filters = resources.guards.plugins.response_filters(route)
    if cache is not None and filters:
        cache = replace(cache, whole_uri=False)  # fast hits run no filters
    common = (
        metrics,
        log,
        body_limit,
        guards,
        rule_of(route.compress),
        request_rules(config, route),
        response_rules,
        preflight,
    )
    withheld = resources.guards.withheld(route.destinations, route)
    if route.service is None:
        if cache is not None:
            # The lifetimes of the parts hold, which TERMS carries (see compose/composed_origin.py).
            settings = replace(cache.settings, ttl=None, heuristic=False, stale_if_disconnected=0, targeted=(TERMS,))
            cache = replace(cache, settings=settings)
        composed, splitters = _composed(config, route, resources, metrics)
        plans: dict[tuple[int, ...], RoutePlan] = {
            sides: ComposePlan(*common, _whole(cache, route, sides), each, withheld=withheld, guard_names=names)
            for sides, each in composed.items()
        }
        return _with_splits(plans, splitters, forwards=False)
    policy = _route_policy(config, route, resources, route.service, route.timeout)
    plan = ForwardPlan(
        *common,
        cache,
        with_shadow(config, route, policy, _shadow_policy(config, route, resources), resources.shadows),
        Template(route.rewrite, _rest_names(route.path)) if route.rewrite is not None else None,
        feeds=_fed(stored, route),
        tunnel_idle=_seconds(route.tunnel_idle_timeout),
        invalidates=cache or _invalidation_plan(config, route, resources, metrics),
        withheld=withheld,
        guard_names=names,
        filters=filters,
    )
    return plan if route.split is None else _split(config, route, resources, route.split, plan)


def _split(config: Config, route: Route, resources: PlanResources, split: Split, plan: ForwardPlan) -> RoutePlan:
    """Build the plan of a route with a split; ``plan`` is that of its own service."""
    name, first = route.label, plan.policy.service.name
    sides = list(split.sides(first))
    plans: dict[tuple[int, ...], RoutePlan] = {}
    for number, side in enumerate(sides):
        policy = plan.policy if side == first else _route_policy(config, route, resources, side, route.timeout)
        cache = plan.cache if split.shared_cache else apart(plan.cache, side, sides)
        plans[number,] = replace(
            plan,
            log=resources.log(route.label, side, route.log),
            cache=cache,
            policy=resources.splits.counted(name, split, policy),
            invalidates=cache or plan.invalidates,
        )
    return _with_splits(plans, [resources.splits.splitter(name, first, split)], forwards=True)


def _with_splits(
    plans: dict[tuple[int, ...], RoutePlan], splitters: Sequence[Splitter], *, forwards: bool
) -> RoutePlan:
    """Join the plans of all choices of sides; without a split there is one, which is the plan of the route."""
    plan = next(iter(plans.values()))
    if not splitters:
        return plan
    # Fast hits run no guards, so that those of the route must be seen here.
    fast = not plan.guards
    sides = {
        choice: replace(
            side,
            guards=(),
            guard_names=(),
            cache=side.cache if side.cache is None or fast else replace(side.cache, whole_uri=False),
        )
        for choice, side in plans.items()
    }
    common = {each.name: getattr(plan, each.name) for each in fields(RoutePlan) if each.init}
    return SplitPlan(**common, splitters=tuple(splitters), plans=sides, forwards=forwards)


def _whole(cache: CachePlan | None, route: Route, choice: tuple[int, ...]) -> CachePlan | None:
    """Return the plan of the cache of a composed whole for one choice of sides."""
    splits = [(service, split) for service, split in route.splits.values()]
    names = [list(split.sides(service)) for service, split in splits]
    chosen = [sides[number] for sides, number in zip(names, choice, strict=True)]
    own = [index for index, (_, split) in enumerate(splits) if not split.shared_cache]
    if not own:
        return cache
    wholes = dict.fromkeys("+".join(each[index] for index in own) for each in product(*names))
    return apart(cache, "+".join(chosen[index] for index in own), list(wholes))


def _composed(
    config: Config, route: Route, resources: PlanResources, metrics: RouteMetrics
) -> tuple[dict[tuple[int, ...], ComposedRoute], list[Splitter]]:
    """Build the composition of ``route`` and the plans of its parts, for each choice of sides of split parts."""
    parts: list[CompositionPart] = []
    plans: list[list[PartPlan]] = []  # of each part, one for each side
    splitters = []
    rest = _rest_names(route.path)
    for name, part in (route.compose or {}).items():
        fallback = None if part.required else orjson.dumps(part.fallback)
        parts.append(CompositionPart(name, fallback, frozenset(part.pass_status)))
        timeout = min(route.timeout, part.timeout) if part.timeout is not None else route.timeout
        cache = _cache_plan(config, route, part.cache, resources, metrics)
        if resources.cache is not None and (cache is not None or route.cache is not None):
            resources.cache.sources.update(part.destinations)
        label, path = f"{route.label}#{name}", Template(part.path, rest)
        if part.split is not None:
            splitters.append(resources.splits.splitter(label, part.service, part.split))
        sides = []
        for service in part.destinations:
            policy = _route_policy(config, route, resources, service, timeout)
            prefix = f"part:{route.label}:{name}"
            if part.split is not None:
                policy = resources.splits.counted(label, part.split, policy)
                prefix += f"@{service}" if not part.split.shared_cache else ""
            key = prefix.replace(" ", "_").encode()  # no host with a port looks like this
            sides.append(PartPlan(name, policy, path, cache, key))
        plans.append(sides)
    ttl = route.cache.ttl if route.cache is not None else None
    composition, deadlines = Composition(parts, resources.steps), resources.deadlines(route.timeout)
    composed = {}
    for choice in product(*(range(len(sides)) for sides in plans)):
        chosen = tuple(sides[number] for sides, number in zip(plans, choice, strict=True))
        split_choice = tuple(number for sides, number in zip(plans, choice, strict=True) if len(sides) > 1)
        composed[split_choice] = ComposedRoute(composition, chosen, deadlines, ttl)
    return composed, splitters


def _cache_plan(
    config: Config, route: Route, settings: RouteCache | None, resources: PlanResources, metrics: RouteMetrics
) -> CachePlan | None:
    """Build the plan of a cache with these ``settings``, for ``route`` or for one of its parts; None without any."""
    if settings is None or resources.cache is None:
        return None
    counts = metrics.cache, metrics.not_stored
    return make_plan(resources.cache, resources.era, settings, *counts, added_fields(config, route), _cache_host(route))


def _invalidation_plan(
    config: Config, route: Route, resources: PlanResources, metrics: RouteMetrics
) -> CachePlan | None:
    """Build the plan of a route that stores nothing, whose unsafe requests invalidate; None where nothing is cached."""
    if resources.cache is None:
        return None
    counts = metrics.cache, metrics.not_stored
    return make_plan(resources.cache, resources.era, None, *counts, added_fields(config, route), _cache_host(route))


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


def _stored_parts(config: Config) -> list[list[str]]:
    """Return the services of each part whose responses are stored, on their own or within the whole."""
    return [
        part.destinations
        for route in config.routes
        for part in (route.compose or {}).values()
        if part.cache is not None or route.cache is not None
    ]


def _fed(stored: Sequence[Sequence[str]], route: Route) -> tuple[str, ...]:
    """Return the services of ``stored`` parts that have the resources of ``route``: it forwards to one of them, or to
    another side of a split with one.
    """
    own = set(route.destinations)
    return tuple(dict.fromkeys(name for names in stored if not own.isdisjoint(names) for name in names))


def _forward_auth_policy(config: Config, route: Route, resources: PlanResources) -> Subrequest | None:
    """Build what sends the requests of ``forward_auth``: with its own timeout, and with a retry where that is safe."""
    settings = route.forward_auth
    if settings is None:
        return None
    service = config.services[settings.service]
    forward: type[UpstreamRequest] = GuardedRequest if service.breaker is not None else UpstreamRequest
    if service.changes_requests:
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
    request_type: type[UpstreamRequest] = AddressedRequest if service.changes_requests else GuardedRequest
    return CallPolicy(resources.services[shadow.service], resources.deadlines(shadow.timeout), 1, request_type)


def _request_type(service: ServiceConfig, route: Route) -> type[UpstreamRequest]:
    """Return the simplest request class with the features that the service and the route use."""
    if service.changes_requests:
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
