"""The request for one part of a composition: it collects the whole response."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import time
from typing import NamedTuple, cast

from passerelle.caching.entry import Entry
from passerelle.caching.freshness import initial_age
from passerelle.caching.request import RequestView
from passerelle.caching.response import OriginResponse
from passerelle.compose.composition import ComposedResponse, Gather, PassedResponse
from passerelle.compose.terms import DECLARING, DeclaredTerms, declared_terms, strictest
from passerelle.errors import Failure, Kind
from passerelle.http.messages import Fields, Response, get
from passerelle.http1.head import ResponseHead
from passerelle.http1.serialize import serialize
from passerelle.proxy_cache.lookup import CacheLookup
from passerelle.proxy_cache.request import CacheRequest
from passerelle.upstream.request import CallPolicy, UpstreamRequest
from passerelle.upstream.service import StickyCookie

# The longest body of one part, in bytes: it is held in memory until the document is spliced.
MAX_PART = 10 * 1024 * 1024
# The head of a composed response without cookies and without failed parts.
COMPOSED = serialize(Response(200, [(b"Content-Type", b"application/json")]))


class PartMetadata(NamedTuple):
    """The fields of a part's response that a composition uses."""

    media_type: bytes
    coding: bytes
    cookies: tuple[bytes, ...]
    terms: DeclaredTerms | None = None


# The metadata of stored parts, shared among equal ones: so an entry that refers to one holds no memory for it.
_shared_metadata: dict[PartMetadata, PartMetadata] = {}
_MOST_METADATA = 256
_LONGEST_MEDIA_TYPE = 128
_MOST_NAMES = 8


def _entry_metadata(entry: Entry) -> PartMetadata:
    """Read the metadata in the head of ``entry``, and remember it with the entry where it is shared."""
    fields = entry.fields
    cookies = tuple(value for name, value in fields if name == b"set-cookie")
    terms = declared_terms(entry.status, fields)
    metadata = PartMetadata(
        get(fields, b"content-type") or b"", get(fields, b"content-encoding") or b"", cookies, terms
    )
    if (
        len(_shared_metadata) < _MOST_METADATA
        and not cookies
        and len(metadata.media_type) <= _LONGEST_MEDIA_TYPE
        and (terms is None or len(terms.vary) <= _MOST_NAMES)
        and get(fields, b"expires") is None  # as seldom the same as a cookie
    ):
        _shared_metadata.setdefault(metadata, metadata)
    entry.owner = _shared_metadata.get(metadata)
    return metadata


def _part_metadata(head: ResponseHead) -> PartMetadata:
    names = head.layout.at
    cookies = tuple(field.value for field in head.named(b"set-cookie")) if b"set-cookie" in names else ()
    terms = None if DECLARING.isdisjoint(names) else declared_terms(head.status, head.fields)
    return PartMetadata(head.get(b"content-type") or b"", head.get(b"content-encoding") or b"", cookies, terms)


class PartRequest:
    """Requests part ``index`` of ``gather``, through the cache where ``request`` is given.

    ``response`` is the head of a response from upstream, ``entry`` a response from the cache. ``cookies`` are the
    values of its Set-Cookie fields, ``terms`` what it declares to caches.
    """

    streams = False

    __slots__ = (
        "_gather",
        "_index",
        "_pieces",
        "_size",
        "cache_outcome",
        "cache_status",
        "cookies",
        "entry",
        "response",
        "source",
        "sticky",
        "terms",
    )

    def __init__(
        self,
        gather: Gather,
        index: int,
        policy: CallPolicy,
        message: bytes,
        now: float,
        request: CacheRequest | None = None,
    ) -> None:
        self._gather = gather
        self._index = index
        self.entry: Entry | None = None
        self.response: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self.cookies: tuple[bytes, ...] = ()
        self.sticky: StickyCookie | None = None
        self.terms: DeclaredTerms | None = None
        self.cache_status = b""
        self.cache_outcome: str | None = None
        self.source: UpstreamRequest | CacheLookup = (
            policy.make_request(policy, self, b"GET", message, None, now)
            if request is None
            else CacheLookup(self, request)
        )

    @property
    def has_response(self) -> bool:
        """Whether the head of a response from upstream has arrived."""
        return self.response is not None

    def age(self, now: float) -> float:
        """Return the age of the response at ``now``, in seconds; 0 where none has arrived."""
        if self.entry is not None:
            return max(now - self.entry.born, 0.0)
        head = self.response
        if head is None:
            return 0.0
        return initial_age(OriginResponse(head.status, head.fields, request_time=now, response_time=now))

    def cancel(self) -> None:
        """Cancel the request."""
        self.source.cancel()

    def client_key(self) -> bytes | None:
        """Return None: parts are received at the speed of the gateway, so no client can hold their places."""
        return None

    def on_interim(self, head: ResponseHead) -> None:
        """Ignore a 1xx response."""

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Fail the part: a 101 was not requested."""
        self.source.cancel()
        self._gather.on_part_failure(self._index, Failure(Kind.PART_FAILED, "status 101"))

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """Take the stored response of the part."""
        self.entry = entry
        metadata = entry.owner if isinstance(entry.owner, PartMetadata) else _entry_metadata(entry)
        media_type, coding, cookies, self.terms = metadata
        if added_lines:
            cookies = (*cookies, *(line.partition(b":")[2].strip() for line in added_lines))
        self.cookies = cookies
        self._gather.on_part(self._index, entry.status, media_type, coding, entry.body)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Take the head of the response, and the first bytes of its body."""
        self.response = head
        if complete:
            self._finish(data)
        elif head.content_length > MAX_PART:
            self._too_large()
        elif data:
            self.on_data(data)

    def on_data(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._size += len(data)
        if self._size > MAX_PART:
            self._too_large()
        else:
            self._pieces.append(data)

    def on_end(self) -> None:
        """Pass the complete response to the gather."""
        self._finish(b"".join(self._pieces))

    def on_failure(self, failure: Failure) -> None:
        """Pass the failure to the gather."""
        self._gather.on_part_failure(self._index, failure)

    def _finish(self, body: bytes) -> None:
        head = self.response
        if head is None:
            raise RuntimeError("the body of a response without a head")
        metadata: PartMetadata = head.part_metadata or _part_metadata(head)
        head.part_metadata = metadata
        media_type, coding, self.cookies, self.terms = metadata
        self._gather.on_part(self._index, head.status, media_type, coding, body)

    def _too_large(self) -> None:
        self.source.cancel()
        self._gather.on_part_failure(self._index, Failure(Kind.PART_TOO_LARGE, f"more than {MAX_PART} bytes"))


def composed_response(
    outcome: ComposedResponse | PassedResponse, parts: Sequence[PartRequest], stored: bool = False
) -> tuple[int, bytes, bytes]:
    """Return status, head (as :func:`passerelle.http1.serialize.serialize` returns it) and body of the whole.

    ``stored``: the caller adds the terms under which the whole may be stored.
    """
    fields: Fields = []
    if isinstance(outcome, ComposedResponse):
        status, body = 200, outcome.body
        if outcome.partial:
            fields.append((b"Cache-Control", b"no-store"))
            fields.append((b"Passerelle-Partial", ", ".join(outcome.partial).encode()))
            stored = True
    else:
        status, body = outcome.status, outcome.body
        fields.append((b"Content-Type", outcome.media_type or b"application/octet-stream"))
        fields.append((b"Cache-Control", b"no-store"))
        stored = True
    for part in parts:
        if part.cookies:
            fields += [(b"Set-Cookie", value) for value in part.cookies]
        if part.terms is not None and not stored:
            now, stored = time(), True
            fields += strictest([(each.terms, each.age(now)) for each in parts])
    if not fields:
        return status, COMPOSED, body
    if isinstance(outcome, ComposedResponse):
        fields.append((b"Content-Type", b"application/json"))
    return status, serialize(Response(status, fields)), body


def sticky_lines(parts: Iterable[PartRequest], secure: bool) -> bytes:
    """Return the sticky cookie of each service that has one and responded: that of its first part."""
    lines, seen = b"", set()
    for part in parts:
        if part.sticky is not None and part.has_response and part.sticky.name not in seen:
            seen.add(part.sticky.name)
            source = cast(UpstreamRequest, part.source)
            lines += part.sticky.line(source.instance, source.key, secure)
    return lines


def instance_names(parts: Sequence[PartRequest], source: UpstreamRequest | CacheLookup | None) -> bytes:
    """Return the names of the instances that responded, for a local client that sends ``Passerelle-Debug: 1``."""
    sources: list[UpstreamRequest | CacheLookup | None] = [part.source for part in parts] or [source]
    return ", ".join(each.instance.name for each in sources if each is not None).encode()
