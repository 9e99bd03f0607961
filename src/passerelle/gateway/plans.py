"""The plans of routes, compiled from the configuration. A reload builds all plans again and swaps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passerelle.access.interfaces import HandlerExchange
from passerelle.actions.interfaces import Action
from passerelle.compose.plans import ComposedRoute
from passerelle.gateway.error_pages import ErrorPages
from passerelle.gateway.response_filter import ResponseFilterStep
from passerelle.gateway.response_headers import ResponseHeaderRules
from passerelle.gateway.splitter import Splitter
from passerelle.http.content_coding import CodingRule as Coding
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import RouteMetrics
from passerelle.proxy_cache.cache import CachePlan, path_tag
from passerelle.routing.paths import Template
from passerelle.security.guard import Guard, GuardedCall
from passerelle.security.header_rules import RequestHeaderRules, WithheldFields
from passerelle.upstream.request import CallPolicy

if TYPE_CHECKING:
    from passerelle.http1.head import RequestHead


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What the plan of every route has.

    ``body_limit`` is in bytes. ``log`` is None without an access log. ``guards`` run in this order. ``coding`` selects
    the responses to compress. ``request_rules`` and ``response_rules`` edit header fields. ``preflight`` handles CORS
    preflights for the route; where it is None they are ordinary requests. ``cache`` is None where the route stores
    nothing. ``withheld`` are the fields of clients that the services of the route never receive. ``guard_names`` are
    the names of ``guards`` in traces. ``error_pages`` replace errors of the gateway for browsers. ``filters`` are
    plugins that change responses. ``direct``: nothing changes bodies between the service and the client.
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
    withheld: WithheldFields | None = field(default=None, kw_only=True)
    guard_names: tuple[str, ...] = field(default=(), kw_only=True)
    error_pages: ErrorPages | None = field(default=None, kw_only=True)
    filters: tuple[ResponseFilterStep, ...] = field(default=(), kw_only=True)
    direct: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "direct", self.coding is None and not self.filters)


@dataclass(frozen=True, slots=True)
class ForwardPlan(RoutePlan):
    """A route to one service.

    ``rewrite`` is None where the service receives the client's path. ``feeds`` names the services whose responses are
    stored as parts of compositions, or within them, and are those of this service or of another side of its split; it
    is empty where there are none. ``tunnel_idle`` is the longest silence of a tunnel in seconds. ``invalidates`` is the
    plan by which unsafe requests invalidate stored responses; it is None where no route of the gateway is cached.
    """

    policy: CallPolicy
    rewrite: Template | None
    feeds: tuple[str, ...]
    tunnel_idle: float
    invalidates: CachePlan | None


@dataclass(frozen=True, slots=True)
class ComposePlan(RoutePlan):
    """A route whose response is composed of the responses of several services; ``cache`` stores it as a whole."""

    composed: ComposedRoute


@dataclass(frozen=True, slots=True)
class HandlerPlan(RoutePlan):
    """What the gateway handles itself: a login, a logout, or the preflights of any route."""

    handler: Callable[[HandlerExchange], None]


@dataclass(frozen=True, slots=True)
class SplitPlan(RoutePlan):
    """A route whose users are split among services: ``plans`` has the plan of each choice of sides, without guards.

    There is a number of a side for each of ``splitters``: one on a route to a service, where ``forwards`` is true, and
    one for each split part of a composition.
    """

    splitters: tuple[Splitter, ...]
    plans: Mapping[tuple[int, ...], RoutePlan]
    forwards: bool

    def choose(self, head: RequestHead, call: GuardedCall | None, address: bytes) -> RoutePlan:
        """Return the plan for the user of a request."""
        return self.plans[tuple([splitter.side(head, call, address) for splitter in self.splitters])]


@dataclass(frozen=True, slots=True)
class ActionPlan(RoutePlan):
    """What the gateway does without a service: a redirect, or a fixed response. No request body is read."""

    action: Action


def cache_of(plan: object) -> CachePlan | None:
    """Return the cache plan of a route whose responses are stored, else None."""
    return plan.cache if isinstance(plan, RoutePlan) else None


def stored_part_tags(plan: object, path: bytes, params: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Return the tags of the stored parts that a response of the route's service to ``path`` may be in."""
    if isinstance(plan, SplitPlan):
        plan = next(iter(plan.plans.values()))
    if not isinstance(plan, ForwardPlan) or not plan.feeds:
        return ()
    target = path if plan.rewrite is None else plan.rewrite.fill(params)
    return tuple(path_tag(service, target) for service in plan.feeds)
