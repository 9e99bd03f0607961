"""What the lines of a head that frame or route its message state together, but for Content-Length.

Clients and services repeat these few lines, so that their meaning is remembered by the lines themselves. Content-Length
differs with each body, and is read for each head (:mod:`passerelle.http1.head`).
"""

from __future__ import annotations

import re
from typing import Any

from passerelle.errors import Failure, Kind
from passerelle.http.messages import HOP_BY_HOP, NEVER_NOMINATED
from passerelle.http1.field_lines import (
    CONNECTION,
    DEBUG,
    EXPECT,
    HOST,
    TRANSFER_ENCODING,
    UPGRADE,
    Layout,
)
from passerelle.http1.field_values import (
    MOST_OPTIONS,
    parse_expectation,
    parse_host,
    parse_options,
    parse_transfer_encoding,
)

# h2c, HTTP/2.0 and TLS/1.0 would carry requests past every check of the gateway: such an Upgrade is never forwarded.
_HTTP_UPGRADES = re.compile(rb"h2|http|tls", re.IGNORECASE)

# Lines that frame or route a message: the key of what they state together.
FramingLines = tuple[bytes, ...]


class RequestFraming:
    """Combined meaning of the lines that frame or route a request, but for its Content-Length.

    ``authority`` is the Host as sent, ``host`` its normalized form without the port. ``plain`` is True for a message
    without a chunked body, an expectation, an upgrade, ``Connection: close`` or a debug header. ``nominated`` are the
    fields that Connection names, without those that it cannot remove and those that are never forwarded.
    """

    __slots__ = (
        "authority",
        "chunked",
        "close",
        "debug",
        "expect",
        "host",
        "keep_alive",
        "nominated",
        "plain",
        "upgrade",
    )

    def __init__(self, lines: FramingLines, layout: Layout) -> None:
        """Combine ``lines``; raise Failure if one of them is malformed."""
        self.chunked = False
        self.debug = False
        self.expect = False
        self.authority = b""
        self.host: bytes | None = None
        self.upgrade: bytes | None = None
        options: frozenset[bytes] = frozenset()
        for role, line in zip(layout.roles, lines, strict=False):
            value = line.partition(b":")[2].strip(b" \t")
            if role == HOST:
                self.authority = value
                self.host = parse_host(value, Kind.BAD_REQUEST)
            elif role == CONNECTION:
                options |= parse_options(value, Kind.BAD_REQUEST)
            elif role == TRANSFER_ENCODING:
                self.chunked = parse_transfer_encoding(value, Kind.BAD_REQUEST)
            elif role == EXPECT:
                self.expect = parse_expectation(value)
            elif role == UPGRADE:
                self.upgrade = value if _HTTP_UPGRADES.search(value) is None else None
            elif role == DEBUG:
                self.debug = value == b"1"
        if len(options) > MOST_OPTIONS:
            raise Failure(Kind.BAD_REQUEST, f"more than {MOST_OPTIONS} Connection options")
        if b"upgrade" not in options or self.chunked:
            self.upgrade = None  # a body and a tunnel would share one byte stream
        self.close = b"close" in options
        self.keep_alive = b"keep-alive" in options
        self.nominated = options - NEVER_NOMINATED - HOP_BY_HOP
        self.plain = not (self.chunked or self.expect or self.close or self.debug or self.upgrade is not None)


class ResponseFraming:
    """Combined meaning of the lines that frame a response, but for its Content-Length."""

    __slots__ = ("chunked", "close", "coded", "keep_alive", "nominated", "upgrade")

    def __init__(self, lines: FramingLines, layout: Layout) -> None:
        """Combine ``lines``; raise Failure if one of them is malformed."""
        self.chunked = False
        self.coded = False
        self.upgrade: bytes | None = None
        options: frozenset[bytes] = frozenset()
        for role, line in zip(layout.roles, lines, strict=False):
            value = line.partition(b":")[2].strip(b" \t")
            if role == CONNECTION:
                options |= parse_options(value, Kind.BAD_RESPONSE)
            elif role == TRANSFER_ENCODING:
                self.coded = True
                self.chunked = parse_transfer_encoding(value, Kind.BAD_RESPONSE)
            else:
                self.upgrade = value
        if b"upgrade" not in options:
            self.upgrade = None
        self.close = b"close" in options or (self.coded and not self.chunked)
        self.keep_alive = b"keep-alive" in options
        self.nominated = options - NEVER_NOMINATED - HOP_BY_HOP


# Framings by their lines, since clients and services repeat those: a lookup takes 0.3 us, against 2 us for reading Host
# and Connection. Bounded in number and, per entry, in bytes.
_MOST_FRAMINGS, _LONGEST_FRAMING = 1024, 512
REQUEST_FRAMINGS: dict[FramingLines, RequestFraming] = {}
RESPONSE_FRAMINGS: dict[FramingLines, ResponseFraming] = {}


def _remember(known: dict[FramingLines, Any], lines: FramingLines, framing: object) -> None:
    if sum(map(len, lines)) <= _LONGEST_FRAMING:
        if len(known) >= _MOST_FRAMINGS:
            known.clear()
        known[lines] = framing


def learn_request_framing(lines: FramingLines, layout: Layout) -> RequestFraming:
    """Return what the lines that ``layout.framing`` selects state, and remember it."""
    framing = RequestFraming(lines, layout)
    _remember(REQUEST_FRAMINGS, lines, framing)
    return framing


def learn_response_framing(lines: FramingLines, layout: Layout) -> ResponseFraming:
    """Return what the lines that ``layout.framing`` selects state, and remember it."""
    framing = ResponseFraming(lines, layout)
    _remember(RESPONSE_FRAMINGS, lines, framing)
    return framing
