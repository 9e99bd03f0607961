"""A composition as the origin of a stored response, on a route that stores the whole.

The whole is stored under the strictest terms of its parts: the shortest lifetime, no storing where one part forbids it,
and the Vary fields and tags of all. ``Cache-Control`` of the whole combines what the parts declare to clients. Terms
for the store alone, such as a configured lifetime, are in a field that the gateway adds and removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from time import time
from typing import Any, Final, NamedTuple

from passerelle.balancing.instance import Instance
from passerelle.caching.entry import NEVER
from passerelle.caching.freshness import initial_age
from passerelle.caching.response import OriginResponse
from passerelle.caching.settings import CacheSettings, IdentitySharing
from passerelle.caching.storing import read_terms
from passerelle.caching.vary import CONSUMER, CONSUMER_FIELD
from passerelle.compose.composition import ComposedResponse, Gather, Outcome
from passerelle.compose.part import PartRequest, composed_response
from passerelle.compose.part_requests import PartRequests
from passerelle.compose.plans import TERMS, ComposedRoute
from passerelle.compose.terms import FIXED, revalidation
from passerelle.errors import Failure
from passerelle.http.messages import Fields
from passerelle.proxy_cache.cache import CachePlan
from passerelle.proxy_cache.heads import AnnotatedHead, tags_of
from passerelle.upstream.deadlines import DeadlineQueue
from passerelle.upstream.interfaces import NO_INSTANCE, NULL_RECEIVER, ResponseReceiver, ResponseSource
from passerelle.upstream.request_body import RequestBody

# The settings of a part without a cache of its own: its responses have only the lifetime that they declare.
_NO_CACHE_SETTINGS: Final = CacheSettings(heuristic=False)


class ComposedOrigin:
    """The composition of one request, as an origin of the cache."""

    __slots__ = ("_part_requests", "_route", "deadlines")

    def __init__(self, route: ComposedRoute, part_requests: PartRequests) -> None:
        self._route = route
        self._part_requests = part_requests
        self.deadlines: DeadlineQueue = route.deadlines

    @property
    def make_request(
        self,
    ) -> Callable[[Any, ResponseReceiver, bytes, bytes, RequestBody | None, float], ResponseSource]:
        """The factory of the source that requests the parts."""
        return self._start

    def for_revalidation(self) -> ComposedOrigin:
        """Return an origin of the same whole that uses no stale parts."""
        return ComposedOrigin(self._route, self._part_requests.for_revalidation())

    def _start(
        self,
        origin: Any,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        started: float,
    ) -> ResponseSource:
        return ComposedSource(self._route, self._part_requests, receiver, started)


class ComposedSource:
    """Requests all parts, and passes the composed response, or one failure, to ``receiver``."""

    __slots__ = (
        "_gather",
        "_part_requests",
        "_parts",
        "_receiver",
        "_route",
        "_started",
        "attempts",
        "hedged",
        "key",
        "seconds",
    )

    instance: Instance = NO_INSTANCE

    def __init__(
        self, route: ComposedRoute, part_requests: PartRequests, receiver: ResponseReceiver, started: float
    ) -> None:
        self._route = route
        self._part_requests = part_requests
        self._receiver = receiver
        self._started = started
        self._gather: Gather | None = None
        self._parts: list[PartRequest] = []
        self.key: bytes | None = None
        self.attempts = 0
        self.hedged: str | None = None  # the metrics count the hedges of all parts
        self.seconds = 0.0

    def start(self) -> None:
        """Request every part."""
        self._gather = gather = Gather(self._route.composition, self._on_outcome)
        gather.start(self._start_part)

    def _start_part(self, index: int, gather: Gather) -> PartRequest:
        part_request = self._part_requests.make(index, gather, self._started)
        self._parts.append(part_request)
        part_request.source.start()
        return part_request

    def cancel(self) -> None:
        """Cancel every part."""
        self._receiver = NULL_RECEIVER
        gather, self._gather = self._gather, None
        if gather is not None:
            gather.cancel()

    def refuse(self, failure: Failure) -> None:
        """Cancel every part: the response is faulty."""
        self.cancel()

    def pause(self) -> None:
        """Do nothing: the response is passed on as a whole."""

    def resume(self) -> None:
        """Do nothing: the response is passed on as a whole."""

    def _on_outcome(self, outcome: Outcome) -> None:
        receiver, self._receiver = self._receiver, NULL_RECEIVER
        parts, self._parts, self._gather = self._parts, [], None
        self.attempts = sum(part.source.attempts for part in parts)
        self.seconds = max((part.source.seconds for part in parts), default=0.0)
        if isinstance(outcome, Failure):
            receiver.on_failure(outcome)
            return
        _, head, body = composed_response(outcome, parts, stored=True)
        added_lines = b""
        if isinstance(outcome, ComposedResponse) and outcome.partial:
            added_lines = b"Passerelle-Partial: %b\r\n" % ", ".join(outcome.partial).encode()
        elif isinstance(outcome, ComposedResponse):
            fields = _combined_fields(self._route, parts, self._part_requests.params, body, time())
            head += b"".join(b"%b: %b\r\n" % field for field in fields)
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        receiver.on_response(AnnotatedHead(head, added_lines), body, True)


class _PartTerms(NamedTuple):
    """The terms under which the response of one part may be stored and used.

    ``stored`` and ``shown`` are its lifetimes for the store and for clients, in seconds from now; None where it
    declares none.
    """

    stored: float | None
    shown: float | None
    control: frozenset[bytes]
    vary: tuple[bytes, ...] | None
    strict: bool
    shared: bool
    tags: tuple[bytes, ...]


def _combined_fields(
    route: ComposedRoute, parts: Iterable[PartRequest], params: Mapping[str, bytes], body: bytes, now: float
) -> Fields:
    """Return the fields of the whole that is composed of ``parts`` (RFC 9111 §3, §4.2)."""
    terms = [_terms(each.cache, part, params, now) for each, part in zip(route.parts, parts, strict=True)]
    vary = {name for each in terms for name in (each.vary if each.vary is not None else (b"*",))} - FIXED
    fields: Fields = [(b"ETag", b'"%b"' % blake2b(body, digest_size=16).hexdigest().encode("ascii"))]
    if vary:
        fields.append((b"Vary", b"*" if b"*" in vary else b", ".join(name.title() for name in sorted(vary))))
    control = frozenset[bytes]().union(*(each.control for each in terms))
    public = all(each.shared for each in terms)
    lifetime = _least([each.shown for each in terms])
    if lifetime is None and route.ttl is None and any(each.shown is not None for each in terms):
        lifetime = 0.0  # see compose/terms.py
    shown = _cache_control(control, lifetime, b"must-revalidate" in control, False)
    if shown:
        fields.append((b"Cache-Control", shown.replace(b"must-revalidate", revalidation(control, public))))
    lifetimes = [route.ttl if each.stored is None else each.stored for each in terms]
    lifetime = _least(lifetimes if route.ttl is None else [*lifetimes, route.ttl])
    kept = _cache_control(control, lifetime, any(each.strict for each in terms), public)
    if kept:
        # Not "must-revalidate", which would allow sharing the response among users (RFC 9111 §3.5).
        fields.append((TERMS, kept.replace(b"must-revalidate", b"proxy-revalidate")))
    tags = dict.fromkeys(tag for each in terms for tag in each.tags)
    fields += [(b"Surrogate-Key", tag) if b"," in tag else (b"Cache-Tag", tag) for tag in tags]
    return fields


def _cache_control(directives: frozenset[bytes], lifetime: float | None, strict: bool, public: bool) -> bytes:
    """Return a Cache-Control value of these terms, empty without any."""
    members: list[bytes] = [name for name in (b"no-store", b"private", b"no-cache") if name in directives]
    if not members and lifetime is not None:
        members.append(b"max-age=%d" % max(lifetime, 0.0))
        if public:
            members.append(b"public")
        if strict:
            members.append(b"must-revalidate")
    return b", ".join(members)


def _least(lifetimes: list[float | None]) -> float | None:
    """Return the shortest lifetime, or None where one of them is unknown."""
    known = [seconds for seconds in lifetimes if seconds is not None]
    return min(known) if len(known) == len(lifetimes) else None


def _terms(cache: CachePlan | None, part: PartRequest, params: Mapping[str, bytes], now: float) -> _PartTerms:
    """Return the terms of the response to ``part``, under the settings of its own cache where it has one."""
    settings = cache.settings if cache is not None else _NO_CACHE_SETTINGS
    entry = part.entry
    if entry is not None:
        status, fields, tags = entry.status, entry.fields, entry.tags
    else:
        assert part.response is not None
        status, fields, tags = part.response.status, part.response.fields, tags_of(part.response)
    response = OriginResponse(status, fields, request_time=now, response_time=now)
    terms = read_terms(response, settings)
    directives, lifetime = terms.directives, terms.lifetime
    # A directive that lists fields is taken as unqualified: the composed body may contain what it would exclude.
    control = frozenset(
        name for name in (b"no-store", b"private", b"no-cache", b"must-revalidate") if name in directives
    )
    has_lifetime = lifetime.explicit or lifetime.seconds > 0.0
    age = initial_age(response) if entry is None else now - entry.born
    stored: float | None = None
    if entry is not None and (has_lifetime or settings.ttl is not None):
        stored = entry.fresh_until - now if entry.fresh_until != NEVER else 0.0
    elif settings.ttl is not None and status in settings.statuses:
        stored = settings.ttl
    elif has_lifetime:
        stored = lifetime.seconds - age
    max_age = directives.seconds(b"max-age")
    if max_age is None and lifetime.explicit and b"s-maxage" not in directives:
        max_age = int(lifetime.seconds)
    shared = terms.shareable or settings.identity is IdentitySharing.SHARED
    vary = terms.names
    if vary is not None:
        vary = tuple(CONSUMER_FIELD if name == CONSUMER else name for name in vary)
        if not (shared or lifetime.explicit or b"no-cache" in directives):
            vary = (*vary, b"cookie")  # such a response is not shared among requests with cookies (caching/storing.py)
    if cache is not None and entry is None:
        tags += cache.fill_tags(params)
    strict = b"must-revalidate" in directives or b"proxy-revalidate" in directives
    return _PartTerms(stored, max_age - age if max_age is not None else None, control, vary, strict, shared, tags)
