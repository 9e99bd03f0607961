"""The terms that the parts of a composition declare to clients and caches, and those of a whole that is not stored."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Final, NamedTuple

from passerelle.caching.directives import Directives, parse_cache_control, parse_targeted
from passerelle.caching.freshness import freshness_lifetime
from passerelle.caching.response import OriginResponse
from passerelle.http.messages import Fields, list_members

# What a part may declare, in the field for all caches and in the one for caches of a content delivery network.
_CONTROL: Final = b"cache-control"
_TARGETED: Final = b"cdn-cache-control"
DECLARING: Final = frozenset({_CONTROL, _TARGETED, b"expires", b"vary"})

# Directives that restrict, in the order in which the whole has them.
_RESTRICTING: Final = (b"no-store", b"private", b"no-cache", b"no-transform")
_REVALIDATING: Final = (b"must-revalidate", b"proxy-revalidate", b"s-maxage")

# The request for a part has the same values of these, whatever the client sends.
FIXED: Final = frozenset({b"accept", b"accept-encoding"})


class DeclaredTerms(NamedTuple):
    """What one response declares.

    ``lifetime`` is the shortest that it states, in seconds from its origin; None where it states none. ``shareable``:
    it allows reuse for requests with Authorization (RFC 9111 §3.5). ``vary`` has names in lower case.
    """

    directives: frozenset[bytes]
    lifetime: float | None
    shareable: bool
    vary: frozenset[bytes]


def declared_terms(status: int, fields: Fields) -> DeclaredTerms | None:
    """Return the terms of a response with these ``fields``, or None where it declares nothing."""
    if not any(name in DECLARING for name, _ in fields):
        return None
    now = time()
    response = OriginResponse(status, fields, request_time=now, response_time=now)
    control = parse_cache_control(response.get_all(_CONTROL))
    targeted = parse_targeted(response.get_all(_TARGETED))
    found: list[Directives] = [control] if targeted is None else [control, targeted]
    lifetimes: list[float | None] = [each.seconds(name) for each in found for name in (b"max-age", b"s-maxage")]
    own = freshness_lifetime(response, control, targeted=False, heuristic=False)
    if own.explicit:
        lifetimes.append(own.seconds)
    return DeclaredTerms(
        frozenset(name for name in (*_RESTRICTING, *_REVALIDATING) if any(name in each for each in found)),
        min((seconds for seconds in lifetimes if seconds is not None), default=None),
        any(name in control for name in (b"public", b"s-maxage", b"must-revalidate")),
        frozenset(name.lower() for value in response.get_all(b"vary") for name in list_members(value)),
    )


def strictest(parts: Sequence[tuple[DeclaredTerms | None, float]]) -> Fields:
    """Return the fields of a whole that is made of ``parts``: the terms and the age of each.

    The terms of the whole are the strictest of its parts. If only some parts state a lifetime, the lifetime of the
    whole is 0: otherwise a cache in front could choose a longer one.
    """
    directives = frozenset[bytes]().union(*(terms.directives for terms, _ in parts if terms is not None))
    lifetimes = [
        0.0 if terms is None or terms.lifetime is None else max(terms.lifetime - age, 0.0) for terms, age in parts
    ]
    members: list[bytes] = [name for name in _RESTRICTING if name in directives]
    if b"no-store" not in directives and any(terms is not None and terms.lifetime is not None for terms, _ in parts):
        members.append(b"max-age=%d" % min(lifetimes))
    if not directives.isdisjoint(_REVALIDATING):
        members.append(revalidation(directives, all(terms is not None and terms.shareable for terms, _ in parts)))
    vary = frozenset[bytes]().union(*(terms.vary for terms, _ in parts if terms is not None)) - FIXED
    fields: Fields = [(b"Cache-Control", b", ".join(members))] if members else []
    if vary:
        fields.append((b"Vary", b"*" if b"*" in vary else b", ".join(name.title() for name in sorted(vary))))
    return fields


def revalidation(directives: frozenset[bytes], shareable: bool) -> bytes:
    """Return the directive that forbids stale use of the whole.

    ``must-revalidate`` allows a shared cache to store a response to a request with Authorization (RFC 9111 §3.5), which
    all parts must allow.
    """
    return b"must-revalidate" if shareable and b"must-revalidate" in directives else b"proxy-revalidate"
