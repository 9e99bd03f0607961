"""Routes compiled from configuration to immutable plans, ready to run. A reload builds all of it anew and swaps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passerelle.compose.composition import Composition
from passerelle.gateway.response_headers import Outgoing
from passerelle.http.content_coding import Rule as Coding
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import RouteMetrics
from passerelle.proxy_cache.cache import CachePlan
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.routing.paths import Template
from passerelle.security.guard import Guard
from passerelle.security.header_rules import RequestRules
from passerelle.upstream.deadlines import Deadlines
from passerelle.upstream.request import Forward
from passerelle.upstream.service import Service

if TYPE_CHECKING:
    from passerelle.compose.plans import PartPlan
    from passerelle.gateway.exchange import ExchangeState


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


def cache_of(plan: object) -> CachePlan | None:
    """The cache of a route whose answers are stored, else None."""
    return plan.cache if isinstance(plan, RoutePlan) and plan.cache is not None and plan.cache.stores else None
