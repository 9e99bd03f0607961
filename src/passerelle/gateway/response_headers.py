"""What a route changes in the heads of its answers, on their way out: rules, security headers, CORS.

It is done where an answer leaves the exchange, behind the cache, compositions and compression, and for the gateway's
own errors too. So what is stored stays as it came, and no answer carries what was meant for another client.
"""

from __future__ import annotations

import re
from typing import Protocol

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
_VARIES = re.compile(rb"\r\nvary:[^\r\n]*(?:(?<![\w-])origin(?![\w-])|\*)", re.IGNORECASE)


class RequestContext(Protocol):
    """What of a request its answer may depend on; looked at only where it does."""

    @property
    def method(self) -> bytes:
        """The method."""

    @property
    def origin(self) -> bytes | None:
        """The origin of the page that a browser asks for, if it says so."""

    @property
    def secure(self) -> bool:
        """Whether the client came over TLS."""


class ResponseHeaderRules:
    """Changes the heads of a route's answers. ``strip`` names the fields that go, ``added`` are lines with CRLF."""

    __slots__ = ("_added", "_security_headers", "_strip", "cors")

    def __init__(
        self, strip: list[bytes], added: bytes, careful: SecurityHeaderFields | None, cors: CorsPolicy | None
    ) -> None:
        self._strip = lines_of(strip) if strip else None
        self._added = added
        self._security_headers = careful
        self.cors = cors

    def apply(self, head: bytes, request: RequestContext) -> bytes:
        """``head`` (status line and field lines, each with CRLF) as who sent ``request`` gets it."""
        if self._strip is not None:
            head = self._strip.sub(b"", head)
        head += self._added
        if self._security_headers is not None:
            head += self._security_headers.lines(head, request.secure)
        cors = self.cors
        if cors is not None:
            head += cors.lines(request.origin, request.method)
            if cors.vary and _VARIES.search(head) is None:
                head += b"Vary: Origin\r\n"
        return head
