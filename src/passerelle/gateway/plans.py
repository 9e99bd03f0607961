"""Routes compiled from configuration to immutable plans, ready to run. A reload builds all of it anew and swaps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from passerelle.access.interfaces import HandlerExchange
from passerelle.compose.plans import ComposedRoute
from passerelle.gateway.response_headers import ResponseHeaderRules
from passerelle.http.content_coding import CodingRule as Coding
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import RouteMetrics
from passerelle.proxy_cache.cache import CachePlan, path_tag
from passerelle.routing.paths import Template
from passerelle.security.guard import Guard
from passerelle.security.header_rules import RequestHeaderRules
from passerelle.upstream.request import CallPolicy


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What every route has. ``body_limit`` in bytes; ``log`` is None when there is no access log; ``guards`` are asked
    in their order; ``coding`` says what of its answers is coded, ``response_rules`` what is changed in their heads,
    ``request_rules`` what is in those of requests for services. ``preflight`` is how browsers are answered that ask
    before a request of the route; None where that is an OPTIONS like any other.

    ``cache`` is None where no route of the gateway is cached. Else what is changed on any route is let go of.
    """

    metrics: RouteMetrics
    log: RouteLog | None
    body_limit: int
    guards: tuple[Guard, ...]
    coding: Coding | None
    request_rules: RequestHeaderRules | None
    response_rules: ResponseHeaderRules | None
    preflight: HandlerPlan | None
    cache: CachePlan | None


@dataclass(frozen=True, slots=True)
class ForwardPlan(RoutePlan):
    """A route that one service answers; ``rewrite`` is None where it sees the client's path. ``feeds_compositions``:
    its service's answers are stored as parts of compositions, or in them. ``tunnel_idle``: seconds that a tunnel may be
    silent."""

    policy: CallPolicy
    rewrite: Template | None
    feeds_compositions: bool
    tunnel_idle: float
    invalidates: CachePlan | None


@dataclass(frozen=True, slots=True)
class ComposePlan(RoutePlan):
    """A route that several services answer together, a part each. ``cache``, if any, is of the whole answer, which is
    fresh for ``ttl`` seconds at most where that is given."""

    composed: ComposedRoute


@dataclass(frozen=True, slots=True)
class HandlerPlan(RoutePlan):
    """What the gateway answers itself: a login, a logout, or the preflights of any route."""

    handler: Callable[[HandlerExchange], None]


def cache_of(plan: object) -> CachePlan | None:
    """The cache of a route whose answers are stored, else None."""
    return plan.cache if isinstance(plan, RoutePlan) else None


def stored_part_tags(plan: object, path: bytes, params: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """The tag of the parts made of the service's response to the client's ``path``; none where no part can be."""
    if not isinstance(plan, ForwardPlan) or not plan.feeds_compositions:
        return ()
    return (path_tag(plan.policy.service.name, path if plan.rewrite is None else plan.rewrite.fill(params)),)
