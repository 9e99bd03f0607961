"""Decide whether a response may be stored, and which parts of it (RFC 9111 §3)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from passerelle.caching.dates import format_date
from passerelle.caching.directives import Directives
from passerelle.caching.entry import AUTHORIZATION, COOKIE, DIRECTIVES, IDENTITY, NEVER, SPECIAL, Entry, build_head
from passerelle.caching.freshness import HEURISTIC_STATUSES, FreshnessLifetime, freshness_lifetime, initial_age
from passerelle.caching.request import RequestView
from passerelle.caching.response import TAG_FIELDS, OriginResponse
from passerelle.caching.settings import CacheSettings, IdentitySharing
from passerelle.caching.validators import entity_tag
from passerelle.caching.vary import CONSUMER, vary_names

# RFC 9111 §3 and §5.2.2.3: status codes whose caching rules this cache implements. Partial responses are not stored.
UNDERSTOOD: Final = frozenset(status.value for status in HTTPStatus if status >= 200) - {206, 304}

# These statuses apply to one request and its conditions, range or length, not to the URI. If stored, the response to
# one client's malformed request would make the URI unavailable to all others.
ONE_REQUEST: Final = frozenset({206, 304, 406, 408, 411, 412, 413, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431})

# Storing Set-Cookie is not forbidden (RFC 9111 §7.3), but sharing one client's cookie with others is seldom intended.
# Set-Cookie2 has no special role: clients no longer process it (RFC 6265 §9.4).
SET_COOKIE: Final = b"set-cookie"

# Fields that the cache itself needs: a qualified directive that lists one of them is treated as unqualified.
_NEEDED: Final = frozenset(
    {
        b"age",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"date",
        b"etag",
        b"expires",
        b"last-modified",
        b"vary",
    }
)


class StorageTerms:
    """Rules for storing and using a response on one route, from the response's head."""

    __slots__ = ("directives", "lifetime", "names", "omitted")

    def __init__(
        self,
        directives: Directives,
        lifetime: FreshnessLifetime,
        names: tuple[bytes, ...] | None,
        omitted: frozenset[bytes],
    ) -> None:
        self.directives = directives
        self.lifetime = lifetime
        self.names = names  # the fields that select among responses, None for `Vary: *`
        self.omitted = omitted  # fields that may not be stored

    @property
    def shareable(self) -> bool:
        """Whether the response itself allows reuse for requests with Authorization (RFC 9111 §3.5)."""
        directives = self.directives
        return b"public" in directives or b"s-maxage" in directives or b"must-revalidate" in directives


def read_terms(response: OriginResponse, settings: CacheSettings) -> StorageTerms:
    """Read the storage terms of a response as received."""
    directives, targeted = response.directives(settings.targeted)
    lifetime = freshness_lifetime(response, directives, targeted, settings.heuristic)
    omitted: frozenset[bytes] = frozenset()
    for name in (b"no-cache", b"private"):
        if name in directives and not _applies_to_all(directives, name):
            omitted |= directives.fields(name)
    return StorageTerms(directives, lifetime, _names(response, settings), omitted)


def _names(response: OriginResponse, settings: CacheSettings) -> tuple[bytes, ...] | None:
    own = settings.vary_on
    if settings.identity is IdentitySharing.CONSUMER:
        own = (*own, CONSUMER)
    return vary_names(response.get_all(b"vary"), own, settings.identity_fields)


def _applies_to_all(directives: Directives, name: bytes) -> bool:
    """Return whether a directive that may be qualified applies to the whole response."""
    if name not in directives:
        return False
    return directives.unqualified(name) or bool(directives.fields(name) & _NEEDED)


def prohibition(
    view: RequestView, response: OriginResponse, terms: StorageTerms, settings: CacheSettings
) -> str | None:
    """Return why the response must not be stored, whatever its lifetime (RFC 9111 §3), as one token; otherwise None."""
    directives = terms.directives
    if settings.obey_client_directives and b"no-store" in view.directives:
        return "request-no-store"
    if b"must-understand" in directives:
        # RFC 9111 §5.2.2.3: a cache that implements the status code may ignore the accompanying no-store.
        if response.status not in UNDERSTOOD:
            return "not-understood"
    elif b"no-store" in directives:
        return "no-store"
    if _applies_to_all(directives, b"private"):
        return "private"
    if terms.names is None:
        return "vary"
    if view.needs & excluded_needs(terms, view, settings) & IDENTITY:
        return "identity"
    if not settings.store_set_cookie and SET_COOKIE not in terms.omitted and response.get(SET_COOKIE) is not None:
        return "set-cookie"
    if (response.get(b"content-type") or b"").partition(b";")[0].strip().lower() == b"text/event-stream":
        return "stream"  # events are for current listeners, and a stream may never end
    return None


def excluded_needs(terms: StorageTerms, view: RequestView, settings: CacheSettings) -> int:
    """Return the needs of requests that an entry with these terms must not serve: COOKIE and AUTHORIZATION, and
    SPECIAL.

    AUTHORIZATION follows RFC 9111 §3.5. The RFC does not cover cookies. If the origin gave neither a lifetime nor
    no-cache, nothing shows that it considered caches, so the response is not shared with requests that have cookies.
    """
    if terms.shareable or settings.identity is IdentitySharing.SHARED:
        return SPECIAL
    if settings.identity is IdentitySharing.CONSUMER and view.consumer:
        return SPECIAL
    explicit = terms.lifetime.explicit or b"no-cache" in terms.directives
    if explicit or (terms.names is not None and b"cookie" in terms.names):
        return SPECIAL | AUTHORIZATION
    return SPECIAL | AUTHORIZATION | COOKIE


class EntryDraft:
    """Storable response whose body is still incomplete.

    ``names`` are the request fields that select the response (RFC 9111 §4.1). ``length`` is its Content-Length, or -1
    if unknown.
    """

    __slots__ = ("_entry", "_head", "length", "names")

    def __init__(self, entry: Entry, names: tuple[bytes, ...], length: int) -> None:
        self._entry = entry
        self._head = entry.head
        self.names = names
        self.length = length

    def complete(self, body: bytes) -> Entry | None:
        """Return the entry, or None if the length of ``body`` differs from the head's: an incomplete response (RFC 9111
        §3.3)."""
        entry = self._entry
        if self.length >= 0 and len(body) != self.length:
            return None
        if self.length < 0:
            entry.head = self._head + b"Content-Length: %d\r\n" % len(body)
        entry.body = body
        return entry


def make_draft(
    view: RequestView,
    response: OriginResponse,
    settings: CacheSettings,
    tags: tuple[bytes, ...] = (),
    terms: StorageTerms | None = None,
) -> EntryDraft | str:
    """Return a draft of the storable response, or the reason (one token) why it must not be stored (RFC 9111 §3)."""
    status = response.status
    if status < 200 or status in ONE_REQUEST:
        return "partial" if status in (206, 416) else "status"
    terms = terms or read_terms(response, settings)
    reason = prohibition(view, response, terms, settings)
    if reason is not None:
        return reason
    lifetime = terms.lifetime
    has_ttl = settings.ttl_of(status) is not None
    if not has_ttl and not (lifetime.explicit or status in HEURISTIC_STATUSES or b"public" in terms.directives):
        return "status"
    entry = build_entry(view, response, terms, settings, tags)
    stale = entry.stale_while_revalidate or entry.stale_if_error
    if not (entry.fresh_until > response.response_time or stale or _validator(response)):
        return "no-lifetime"
    length = -1
    value = response.get(b"content-length")
    if value is not None and value.isdigit():
        length = int(value[:18])
    if status == 204:
        length = 0
    if length > settings.max_body:
        return "too-large"
    return EntryDraft(entry, terms.names or (), length)


def _validator(response: OriginResponse) -> bool:
    return entity_tag(response.get(b"etag")) is not None or response.get(b"last-modified") is not None


def build_entry(
    view: RequestView,
    response: OriginResponse,
    terms: StorageTerms,
    settings: CacheSettings,
    tags: tuple[bytes, ...],
    body: bytes = b"",
) -> Entry:
    """Build the entry of a response with these terms; its key is still empty."""
    directives = terms.directives
    arrived = response.response_time
    age = initial_age(response)
    if _applies_to_all(directives, b"no-cache"):
        fresh_until = NEVER
    elif (ttl := settings.ttl_of(response.status)) is not None:
        # The route's lifetime starts when the response arrives, whatever its age by then.
        fresh_until = arrived + ttl
    else:
        fresh_until = arrived + terms.lifetime.seconds - age
    # RFC 9111 §4.2.4: these forbid every stale use. s-maxage implies proxy-revalidate (§5.2.2.10) and so forbids stale
    # use that is not allowed explicitly; but an origin that adds stale-while-revalidate means it, and CDNs honour it.
    forbidden = (
        b"must-revalidate" in directives
        or b"proxy-revalidate" in directives
        or _applies_to_all(directives, b"no-cache")
    )
    swr = 0 if forbidden else _window(directives, b"stale-while-revalidate", settings.stale_while_revalidate)
    sie = 0 if forbidden else _window(directives, b"stale-if-error", settings.stale_if_error)
    response_tags = response.tags()
    lines = response.lines()
    skip = terms.omitted | TAG_FIELDS
    kept = [line for name, _, line in lines if name not in skip]
    if response.get(b"date") is None:
        kept.append(b"Date: " + format_date(arrived))
    entry = Entry(
        b"",
        response.status,
        build_head(response.status_line, kept),
        body,
        born=arrived - age,
        fresh_until=fresh_until,
        stale_while_revalidate=swr,
        stale_if_error=sie,
        strict=forbidden or b"s-maxage" in directives,
        needs_excluded=excluded_needs(terms, view, settings),
        etag=entity_tag(response.get(b"etag")),
        tags=tuple(dict.fromkeys(tags + response_tags)) if response_tags else tags,
    )
    if not settings.obey_client_directives:
        entry.needs_excluded &= ~DIRECTIVES
    return entry


def _window(directives: Directives, name: bytes, own: int | None) -> int:
    return own if own is not None else directives.seconds(name) or 0
