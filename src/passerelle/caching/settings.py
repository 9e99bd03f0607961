"""What a route says about caching, as plain values. The defaults are the RFCs' rules for a shared cache."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from passerelle.caching.keys import WHOLE_URI, KeyRule

# Statuses to which a route's own ``ttl`` applies when it names none.
TTL_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308})


class IdentitySharing(enum.Enum):
    """How responses to requests that carry an identity are shared (RFC 9111 §3.5).

    RULE: only where the response says ``public``, ``s-maxage`` or ``must-revalidate``. CONSUMER: each consumer that a
    guard established has entries of their own. SHARED: the route's owner vouches that no response depends on who asks.
    """

    RULE = "rule"
    CONSUMER = "consumer"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """A route's cache settings; all durations in seconds.

    ``ttl`` takes the place of the response's own lifetime for ``statuses``; prohibitions (no-store, private, no-cache,
    Vary, identity, Set-Cookie) stay in force. ``stale_while_revalidate`` and ``stale_if_error`` take the place of the
    response's (None: the response's). ``stale_if_disconnected`` bounds the stale use that RFC 9111 §4.2.4 allows when
    no answer can be had from upstream at all. ``vary_on`` names request fields that choose among responses beside
    those of Vary. ``identity_fields`` names fields (lower case) that guards tell services who asks by, beside
    ``X-Consumer…``: what varies with one of them varies with who asks. ``targeted`` lists the targeted fields to look
    for, the first found wins (RFC 9213 §2.2).
    ``max_body`` is the longest body stored, in bytes.
    """

    key: KeyRule = WHOLE_URI
    ttl: float | None = None
    statuses: frozenset[int] = TTL_STATUSES
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
