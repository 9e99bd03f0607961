"""Cache settings of a route, as plain values. The defaults are the RFCs' rules for a shared cache."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from passerelle.caching.keys import WHOLE_URI, KeyRule

# Statuses to which a route's ``ttl`` applies if the route lists none.
TTL_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308})


class IdentitySharing(enum.Enum):
    """How responses to requests with an identity are shared (RFC 9111 §3.5).

    RULE: only if the response has ``public``, ``s-maxage`` or ``must-revalidate``. CONSUMER: each consumer that a guard
    established has separate entries. SHARED: the operator declares that no response of the route depends on the
    client's identity.
    """

    RULE = "rule"
    CONSUMER = "consumer"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Cache settings of a route; all durations are in seconds.

    ``ttl`` replaces the response's own lifetime for ``statuses``, ``ttl_by_status`` for single ones; prohibitions
    (no-store, private, no-cache, Vary, identity, Set-Cookie) still apply. ``stale_while_revalidate`` and
    ``stale_if_error`` replace the response's values (None: the response's values apply). ``stale_if_disconnected``
    limits the stale use that RFC 9111 §4.2.4 allows when there is no response from upstream. ``vary_on`` names request
    fields that select among responses in addition to those of Vary. ``identity_fields`` names the fields (lower case),
    in addition to ``X-Consumer…``, by which guards pass the client's identity to services: a response that varies by
    one of them varies by identity. ``targeted`` lists the targeted fields in order of precedence (RFC 9213 §2.2).
    ``max_body`` is the maximum stored body size in bytes.
    """

    key: KeyRule = WHOLE_URI
    ttl: float | None = None
    statuses: frozenset[int] = TTL_STATUSES
    ttl_by_status: Mapping[int, float] = field(default_factory=dict)
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    stale_if_disconnected: int = 86_400
    vary_on: tuple[bytes, ...] = ()
    identity_fields: frozenset[bytes] = frozenset()
    identity: IdentitySharing = IdentitySharing.RULE
    obey_client_directives: bool = True
    store_set_cookie: bool = False
    heuristic: bool = True
    targeted: tuple[bytes, ...] = (b"cdn-cache-control",)
    max_body: int = 8 * 1024 * 1024

    def ttl_of(self, status: int) -> float | None:
        """Return the lifetime that the route sets for responses with ``status``; None where they have their own."""
        found = self.ttl_by_status.get(status)
        return found if found is not None else self.ttl if status in self.statuses else None
