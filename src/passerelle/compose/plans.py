"""The plans of composed routes and of their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from passerelle.compose.composition import Composition
from passerelle.compose.part import PartRequest
from passerelle.proxy_cache.cache import CachePlan
from passerelle.routing.paths import Template
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.request import CallPolicy

# The field with the terms under which the cache stores a composed response; the gateway never forwards it.
TERMS: Final = b"passerelle-cache-control"


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How one part of a composition is requested.

    ``key`` is the prefix of its cache keys. ``make_part`` is the class of the requests.
    """

    name: str
    policy: CallPolicy
    path: Template
    cache: CachePlan | None
    key: bytes
    make_part: type[PartRequest] = PartRequest


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
