"""Cache-relevant properties of a request. A connection remembers its last request head together with this view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from passerelle.caching.directives import NONE, Directives, parse_cache_control
from passerelle.caching.entry import AUTHORIZATION, COOKIE, DIRECTIVES, SPECIAL
from passerelle.caching.vary import variant_key
from passerelle.http.messages import SELECTING, Fields

# Request directives that affect a cache (RFC 9111 §5.2.1); no-transform is handled by content coding.
REQUEST_DIRECTIVES: Final = (b"no-cache", b"no-store", b"max-age", b"max-stale", b"min-fresh", b"only-if-cached")


class RequestView:
    """View of a request for caching.

    ``needs`` has COOKIE and AUTHORIZATION if the request identifies its sender, DIRECTIVES if it has cache directives,
    and SPECIAL for everything else that the fast path of a hit does not handle. ``consumer`` is an identity established
    by the gateway (API key, token, session), for keys per consumer; it counts as Authorization, since RFC 9111 §3.5
    applies to both. ``origin_only`` is true for conditions that only an origin evaluates (If-Match,
    If-Unmodified-Since). With ``read``, ``fields`` need only be those of ``SELECTING``: ``read`` returns all of them
    when Vary names one.
    """

    __slots__ = (
        "_fields",
        "_read",
        "_variants",
        "consumer",
        "directives",
        "has_body",
        "if_modified_since",
        "if_none_match",
        "if_range",
        "method",
        "needs",
        "origin_only",
        "range",
    )

    def __init__(
        self,
        method: bytes,
        fields: Fields,
        *,
        has_body: bool = False,
        consumer: bytes = b"",
        read: Callable[[], Fields] | None = None,
    ) -> None:
        self.method = method
        self._fields = fields
        self._read = read
        self.has_body = has_body
        self.consumer = consumer
        self.directives: Directives = NONE
        self.if_none_match: bytes | None = None
        self.if_modified_since: bytes | None = None
        self.if_range: bytes | None = None
        self.range: bytes | None = None
        self.origin_only = False
        self._variants: dict[tuple[bytes, ...], bytes] | None = None
        needs = AUTHORIZATION if consumer else 0
        if method != b"GET" or has_body:
            needs |= SPECIAL
        controls: list[bytes] | None = None
        for name, value in fields:
            if name not in SELECTING:
                continue
            if name == b"cookie":
                needs |= COOKIE
            elif name == b"authorization":
                needs |= AUTHORIZATION
            elif name == b"cache-control":
                controls = [value] if controls is None else [*controls, value]
            else:
                needs |= SPECIAL
                if name == b"if-none-match":
                    # A list field: further lines continue it (RFC 9110 §5.3).
                    self.if_none_match = value if self.if_none_match is None else self.if_none_match + b", " + value
                elif name == b"if-modified-since":
                    self.if_modified_since = value
                elif name == b"range":
                    self.range = value
                elif name == b"if-range":
                    self.if_range = value
                else:
                    self.origin_only = True
        if controls is not None:
            self.directives = directives = parse_cache_control(controls)
            if any(name in directives for name in REQUEST_DIRECTIVES):
                needs |= DIRECTIVES
        self.needs = needs

    @property
    def fields(self) -> Fields:
        """The end-to-end fields of the request."""
        if self._read is not None:
            self._fields, self._read = self._read(), None
        return self._fields

    def variant(self, names: tuple[bytes, ...]) -> bytes:
        """Return the key part for the request fields ``names`` (RFC 9111 §4.1); results are remembered in this view."""
        known = self._variants
        if known is None:
            known = self._variants = {}
        key = known.get(names)
        if key is None:
            key = known[names] = variant_key(names, self.fields, self.consumer)
        return key


class PlainRequestView(RequestView):
    """View of a plain GET without any field of ``SELECTING``; ``read`` parses the fields if Vary names one of them.

    Most requests are plain GETs. When every request head is different, splitting its fields into pairs takes longer
    than the rest of a hit's lookup. Their properties are therefore class attributes.
    """

    __slots__ = ()

    method = b"GET"
    needs = 0
    has_body = False
    consumer = b""
    directives = NONE
    origin_only = False
    if_none_match = if_modified_since = if_range = range = None

    def __init__(self, read: Callable[[], Fields]) -> None:
        self._read = read
        self._variants = None
