"""How the parts of a composition are requested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from passerelle.proxy_cache.cache import CachePlan
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.routing.paths import Template
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.request import UpstreamRequest
from passerelle.upstream.service import Service

# The field in which a composed answer tells the cache its terms: one of the gateway's own, so it goes no further.
TERMS: Final = b"passerelle-cache-control"


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How one part of a composition is asked for; ``key`` stands before the origin in its cache keys."""

    name: str
    service: Service
    path: Template
    deadlines: DeadlineQueue
    attempts: int
    cache: CachePlan | None
    key: bytes
    attempt_deadlines: DeadlineQueue | None
    hedge: HedgeDelay | None
    stream_idle: float
    sends_deadline: bool
    make_request: type[UpstreamRequest]

    def for_revalidation(self) -> PartPlan:
        """The same: there is nothing stale about asking a service."""
        return self
