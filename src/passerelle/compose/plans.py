"""How the parts of a composition are requested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from passerelle.compose.composition import Composition
from passerelle.proxy_cache.cache import CachePlan
from passerelle.routing.paths import Template
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.request import CallPolicy

# The field in which a composed answer tells the cache its terms: one of the gateway's own, so it goes no further.
TERMS: Final = b"passerelle-cache-control"


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How one part of a composition is asked for; ``key`` stands before the origin in its cache keys."""

    name: str
    policy: CallPolicy
    path: Template
    cache: CachePlan | None
    key: bytes


@dataclass(frozen=True, slots=True)
class ComposedRoute:
    """What a route composes: one plan in ``parts`` for each part of ``composition``.

    ``deadlines`` bound the whole. ``ttl`` is the longest freshness lifetime of the stored whole in seconds, None where
    the configuration gives none.
    """

    composition: Composition
    parts: tuple[PartPlan, ...]
    deadlines: DeadlineQueue
    ttl: float | None
