"""Response header rules of a route: configured changes, security headers, CORS.

They are applied where a response leaves the exchange, after the cache, compositions and compression, and also to the
gateway's own errors. Stored responses are therefore unchanged, and none has fields that were meant for another client.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from passerelle.security.conditional_headers import ResponseEdit
from passerelle.security.cors import CorsPolicy
from passerelle.security.header_rules import SecurityHeaderFields, lines_of

_ACCESS_CONTROL = (
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-allow-origin",
    b"access-control-allow-private-network",
    b"access-control-expose-headers",
    b"access-control-max-age",
)
_TIMING = lines_of([b"server-timing"])
_VARIES = re.compile(rb"\r\nvary:[^\r\n]*(?:(?<![\w-])origin(?![\w-])|\*)", re.IGNORECASE)


class RequestContext(Protocol):
    """The properties of a request on which response headers may depend."""

    @property
    def method(self) -> bytes:
        """The method of the request."""

    @property
    def origin(self) -> bytes | None:
        """The Origin header of the request, or None."""

    @property
    def secure(self) -> bool:
        """Whether the client uses TLS."""

    @property
    def request_id(self) -> bytes:
        """The id of the request."""

    @property
    def sees_timing(self) -> bool:
        """Whether the client receives the ``Server-Timing`` of the service."""

    @property
    def hosts(self) -> tuple[bytes, ...]:
        """The hosts that the client used, in lower case with their ports: its Host, and that of a trusted proxy.

        Empty where the response comes neither from a service nor from the cache.
        """


class ResponseHeaderRules:
    """Edits the heads of a route's responses.

    ``strip`` names fields to remove; ``added`` are field lines with CRLF. ``request_id`` sets X-Request-Id.
    ``hides_timing`` removes Server-Timing, except for clients that see it.
    """

    __slots__ = ("_added", "_hides_timing", "_request_id", "_security_headers", "_strip", "cors")

    def __init__(
        self,
        strip: list[bytes],
        added: bytes,
        security: SecurityHeaderFields | None,
        cors: CorsPolicy | None,
        request_id: bool = False,
        hides_timing: bool = False,
    ) -> None:
        strip = [*strip, b"x-request-id"] if request_id else strip
        self._request_id = request_id
        self._strip = lines_of(strip) if strip else None
        self._hides_timing = hides_timing
        self._added = added
        self._security_headers = security
        self.cors = cors

    def apply(self, head: bytes, request: RequestContext) -> bytes:
        """Return ``head`` (status line and field lines, each with CRLF) as edited for ``request``."""
        if self._strip is not None:
            head = self._strip.sub(b"", head)
        if self._hides_timing and not request.sees_timing:
            head = _TIMING.sub(b"", head)
        head += self._added
        if self._request_id:
            head += b"X-Request-Id: %b\r\n" % request.request_id
        if self._security_headers is not None:
            head += self._security_headers.lines(head, request.secure)
        cors = self.cors
        if cors is not None:
            head += cors.lines(request.origin, request.method)
            if cors.vary and _VARIES.search(head) is None:
                head += b"Vary: Origin\r\n"
        return head


class ConditionalHeaderRules(ResponseHeaderRules):
    """Response header rules of which some have conditions: these are judged before any rule changes a field.

    ``before`` are applied first, ``after`` last.
    """

    __slots__ = ("_after", "_before", "_edits")

    def __init__(self, before: ResponseHeaderRules, edits: Sequence[ResponseEdit], after: ResponseHeaderRules) -> None:
        self._before = before
        self._edits = tuple(edits)
        self._after = after
        self.cors = after.cors

    def apply(self, head: bytes, request: RequestContext) -> bytes:
        """Return ``head`` (status line and field lines, each with CRLF) as edited for ``request``."""
        edits = [edit for edit in self._edits if edit.applies(head)]
        head = self._before.apply(head, request)
        for edit in edits:
            head = edit.apply(head)
        return self._after.apply(head, request)
