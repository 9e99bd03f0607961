"""How the parts of a composition are requested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from passerelle.proxy_cache.cache import CachePlan
from passerelle.routing.paths import Template
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
