"""Whether a response may be stored, and what of it (RFC 9111 §3)."""

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

# RFC 9111 §3 and §5.2.2.3: status codes whose caching rules this cache knows. Ranges are not stored as such.
UNDERSTOOD: Final = frozenset(status.value for status in HTTPStatus if status >= 200) - {206, 304}

# What these say is true for the one request and its conditions, range or length, not for the URI; stored, an answer to
# somebody's malformed request would take the URI away from all others.
ONE_REQUEST: Final = frozenset({206, 304, 406, 408, 411, 412, 413, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431})

# Storing it is not forbidden (RFC 9111 §7.3); giving one client's cookie to another is seldom meant. Set-Cookie2 is a
# field like others: no client acts on it any more (RFC 6265 §9.4).
SET_COOKIE: Final = b"set-cookie"

# Fields that a cache works with: where a qualified directive lists one, it is read as unqualified instead.
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
    """What a response's head says about storing and using it, for one route."""

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
        self.names = names  # the fields that choose among responses, None for `Vary: *`
        self.omitted = omitted  # fields that may not be stored

    @property
    def shareable(self) -> bool:
        """Whether the response itself allows reuse for requests with Authorization (RFC 9111 §3.5)."""
        directives = self.directives
        return b"public" in directives or b"s-maxage" in directives or b"must-revalidate" in directives


def read_terms(response: OriginResponse, settings: CacheSettings) -> StorageTerms:
    """The terms of a response as it came."""
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
    """Whether a directive that may be qualified holds for the whole response."""
    if name not in directives:
        return False
    return directives.unqualified(name) or bool(directives.fields(name) & _NEEDED)


def prohibition(
    view: RequestView, response: OriginResponse, terms: StorageTerms, settings: CacheSettings
) -> str | None:
    """Why the response may not be stored whatever its lifetime (RFC 9111 §3), or None. The reason is one token."""
    directives = terms.directives
    if settings.obey_client_directives and b"no-store" in view.directives:
        return "request-no-store"
    if b"must-understand" in directives:
        # RFC 9111 §5.2.2.3: who understands the status code may overlook the no-store beside it.
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
        return "stream"  # what it tells is for who listens now, and it may never end
    return None


def excluded_needs(terms: StorageTerms, view: RequestView, settings: CacheSettings) -> int:
    """The identities that an entry with these terms may not answer: bits COOKIE and AUTHORIZATION, and SPECIAL.

    Authorization by RFC 9111 §3.5. Of cookies the RFC says nothing; where the origin gave neither a lifetime nor
    no-cache, nothing tells that it thought of caches at all, so a response is then not shared with cookies in play.
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
    """A response that may be stored, before its body is there.

    ``names`` are the request fields that choose it (RFC 9111 §4.1). ``length`` is its Content-Length, -1 if unknown.
    """

    __slots__ = ("_entry", "_head", "length", "names")

    def __init__(self, entry: Entry, names: tuple[bytes, ...], length: int) -> None:
        self._entry = entry
        self._head = entry.head
        self.names = names
        self.length = length

    def complete(self, body: bytes) -> Entry | None:
        """The entry, or None when ``body`` is not as long as its head says: an incomplete response (RFC 9111 §3.3)."""
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
    """The response as it may be stored, or the reason (one token) why it may not (RFC 9111 §3)."""
    status = response.status
    if status < 200 or status in ONE_REQUEST:
        return "partial" if status in (206, 416) else "status"
    terms = terms or read_terms(response, settings)
    reason = prohibition(view, response, terms, settings)
    if reason is not None:
        return reason
    lifetime = terms.lifetime
    own = settings.ttl is not None and status in settings.statuses
    if not own and not (lifetime.explicit or status in HEURISTIC_STATUSES or b"public" in terms.directives):
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
    """The entry of a response with these terms, its key still empty."""
    directives = terms.directives
    arrived = response.response_time
    age = initial_age(response)
    if _applies_to_all(directives, b"no-cache"):
        fresh_until = NEVER
    elif settings.ttl is not None and response.status in settings.statuses:
        # The route's lifetime counts from when the response came: how old it was by then is not the route's concern.
        fresh_until = arrived + settings.ttl
    else:
        fresh_until = arrived + terms.lifetime.seconds - age
    # RFC 9111 §4.2.4: these forbid every stale use. s-maxage implies proxy-revalidate (§5.2.2.10) and forbids what
    # nobody allowed by name, but an origin that writes a stale-while-revalidate beside it means it; CDNs read it so.
    forbidden = (
        b"must-revalidate" in directives
        or b"proxy-revalidate" in directives
        or _applies_to_all(directives, b"no-cache")
    )
    swr = 0 if forbidden else _window(directives, b"stale-while-revalidate", settings.stale_while_revalidate)
    sie = 0 if forbidden else _window(directives, b"stale-if-error", settings.stale_if_error)
    named = response.tags()
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
        refuses=excluded_needs(terms, view, settings),
        etag=entity_tag(response.get(b"etag")),
        tags=tuple(dict.fromkeys(tags + named)) if named else tags,
    )
    if not settings.obey_client_directives:
        entry.needs_excluded &= ~DIRECTIVES
    return entry


def _window(directives: Directives, name: bytes, own: int | None) -> int:
    return own if own is not None else directives.seconds(name) or 0
