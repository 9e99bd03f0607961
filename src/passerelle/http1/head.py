"""Heads of HTTP/1.1 messages: parsing a header section into what the gateway needs.

A head is validated here for everything on which two parsers could disagree; :mod:`passerelle.http1.body` frames bodies
accordingly. Names and values are read from the lines of the section when they are needed: a request that is forwarded
or served from the cache needs few of them.
"""

from __future__ import annotations

import re
from itertools import compress
from typing import Any

from passerelle.errors import Failure, Kind, reason_phrase
from passerelle.http.messages import Fields, end_to_end
from passerelle.http1.field_lines import REQUEST_LAYOUTS, RESPONSE_LAYOUTS, FieldLine, Layout
from passerelle.http1.field_values import parse_length
from passerelle.http1.framing import (
    REQUEST_FRAMINGS,
    RESPONSE_FRAMINGS,
    learn_request_framing,
    learn_response_framing,
)

# RFC 9112 §3: method SP request-target SP HTTP-version. The target is visible ASCII without what a URI must not contain
# and what parsers are known to disagree on (a fragment, angle brackets, a backslash). A query may contain a backslash,
# because browsers send it, as they send | ^ ` { } [ ] (WHATWG URL §4.3). CONNECT and TRACE do not match.
REQUEST_LINE = re.compile(
    rb"(?!CONNECT |TRACE )([!#$%&'*+.^_`|~0-9A-Za-z-]+) "
    rb"([\x21\x22\x24-\x3b\x3d\x40-\x5b\x5d-\x7e]++(?:\?[\x21\x22\x24-\x3b\x3d\x3f-\x7e]*+)?) HTTP/(\d)\.(\d)"
)
# The most common form of request line with its CRLF, matched in half the time (0.17 us) of the pattern above with its
# four groups.
USUAL_LINE = re.compile(rb"GET (/[\x21\x22\x24-\x3b\x3d\x3f-\x5b\x5d-\x7e]*) HTTP/1\.1\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")

_split_request = REQUEST_LAYOUTS.split
_split_response = RESPONSE_LAYOUTS.split


def parse_request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    """Return the method, the target, and whether the version is 1.1 (or a later 1.x) rather than 1.0.

    Raise Failure for a line that is malformed or not supported.
    """
    match = REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _request_line_failure(line)
    method, target, major, minor = match.groups()
    if major != b"1":
        raise Failure(Kind.VERSION_UNSUPPORTED, "HTTP version other than 1.x")
    return method, target, minor != b"0"


def _request_line_failure(line: bytes) -> Failure:
    if line.startswith((b"CONNECT ", b"TRACE ")):
        # RFC 9110 §9.3.6, §9.3.8: the gateway opens no tunnels to arbitrary hosts, and TRACE would expose fields that
        # only the gateway may see.
        return Failure(Kind.METHOD_UNKNOWN, "CONNECT and TRACE are not supported")
    return Failure(Kind.BAD_REQUEST, "malformed request line")


class HeaderSection:
    """A header section: its octets, the layout of its names, and its lines in the order received.

    The lines are those of the match of the layout's pattern, or of the list that the section was split into.
    """

    __slots__ = ("_match", "_nominated", "_split", "layout", "other_layout", "section")

    _match: re.Match[bytes] | None
    _nominated: frozenset[bytes]  # fields that are not forwarded, beside those of the layout
    _split: list[bytes] | None
    layout: Layout
    other_layout: Layout | None  # the last other one of the connection
    section: bytes

    def _match_layouts(self, last: HeaderSection) -> re.Match[bytes] | None:
        """Match the section with the last layout of the connection, or with the one before.

        Fields such as If-None-Match or Set-Cookie come and go, so connections alternate between layouts. A match of the
        other layout takes 10,000 instructions fewer than a split.
        """
        self.layout, self.other_layout = last.layout, last.other_layout
        match = last.layout.fullmatch(self.section)
        if match is None and (other := last.other_layout) is not None:
            match = other.fullmatch(self.section)
            if match is not None:
                self.layout, self.other_layout = other, last.layout
        return match

    @property
    def _lines(self) -> list[bytes]:
        """All lines; the last item is the empty string after the last CRLF."""
        lines = self._split
        if lines is None:
            lines = self._split = self.section.split(b"\r\n")
        return lines

    def _line(self, number: int) -> bytes:
        """Return one line, without splitting the section."""
        match = self._match
        return self._lines[number] if match is None else match[self.layout.groups[number]]

    @property
    def fields(self) -> Fields:
        """All fields as pairs, names in lower case, in the order received."""
        pairs = zip(self.layout.names, self._lines, strict=False)
        return [(name, line[len(name) + 1 :].strip(b" \t")) for name, line in pairs]

    @property
    def lines(self) -> list[FieldLine]:
        """All field lines, in the order received."""
        names = zip(self.layout.names, self._lines, strict=False)
        return [FieldLine(name, line[len(name) + 1 :].strip(b" \t"), line) for name, line in names]

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of the field ``name`` (lower case), or None."""
        at = self.layout.at.get(name)
        return self._line(at[0])[len(name) + 1 :].strip(b" \t") if at is not None else None

    def named(self, name: bytes) -> list[FieldLine]:
        """Return the lines of the field ``name`` (lower case), in the order received."""
        at = self.layout.at.get(name)
        if at is None:
            return []
        found = []
        for number in at:
            line = self._line(number)
            found.append(FieldLine(name, line[len(name) + 1 :].strip(b" \t"), line))
        return found

    def _end_to_end_lines(self, without: frozenset[bytes]) -> bytes:
        """Return the end-to-end lines (RFC 9110 §7.6.1) but those of the fields ``without``, each with its CRLF."""
        layout = self.layout
        nominated = self._nominated
        match = self._match
        if nominated and not nominated.isdisjoint(layout.at):
            kept = layout.kept_without(nominated | without)
        elif match is None:
            kept = layout.kept_without(without, remember=True) if without else layout.kept or ()
        elif without:
            return b"\r\n".join(layout.groups_without(without)(match))
        else:
            return b"".join(layout.runs(match)) if layout.runs is not None else self.section
        return b"\r\n".join(compress(self._lines, kept) if kept else self._lines)


_NO_FIELDS: frozenset[bytes] = frozenset()


class RequestHead(HeaderSection):
    """The parsed header section of a request, without its request line.

    ``content_length`` is -1 if absent. ``plain`` is True for a message without a body, an expectation, an upgrade,
    ``Connection: close`` or a debug header: the common case in one test. ``forwarded`` is True if a field contains
    forwarding information. ``user_agent`` is empty if absent. The other attributes are those of
    :class:`passerelle.http1.framing.RequestFraming`.
    """

    __slots__ = (
        "_framing",
        "authority",
        "cache_origin",
        "cache_view",
        "chain",
        "chunked",
        "content_length",
        "debug",
        "expect",
        "forwarded",
        "host",
        "misses",
        "part_fields",
        "part_view",
        "plain",
        "upgrade",
        "upstream",
        "user_agent",
        "variation",
    )

    def __init__(self, section: bytes, max_fields: int, last: RequestHead | None = None) -> None:
        """Parse ``section``: the field lines, each with its CRLF. ``last`` is the last head of the connection."""
        # Clients repeat their names: for 12 lines, a match takes 14,000 instructions, a split 24,000.
        self.section = section
        lines: list[bytes] | None = None
        match = self._match_layouts(last) if last is not None else None
        if match is not None:
            layout = self.layout
            framed = layout.framing_groups(match)
            agent = match[layout.agent_group]
        else:
            lines, layout = _split_request(section)
            self.layout = layout
            self.other_layout = last.layout if last is not None else None
            framed = layout.framing(lines)
            agent = lines[layout.user_agent]
        if len(layout.names) > max_fields:
            raise Failure(Kind.HEAD_TOO_LARGE, f"more than {max_fields} header fields")
        framing = REQUEST_FRAMINGS.get(framed) or learn_request_framing(framed, layout)
        self._match = match
        self._split = lines
        self._framing = framing
        self._nominated = framing.nominated
        self.authority = framing.authority
        self.chunked = framing.chunked
        self.content_length = -1
        self.debug = framing.debug
        self.expect = framing.expect
        self.forwarded = layout.forwarded
        self.host = framing.host
        self.plain = framing.plain
        self.upgrade = framing.upgrade
        self.user_agent = agent[11:].strip(b" \t")
        if layout.content_length >= 0:
            value = self._line(layout.content_length)[15:].strip(b" \t")
            self.content_length = length = parse_length(value, Kind.BAD_REQUEST)
            if framing.chunked:
                raise Failure(Kind.BAD_REQUEST, "both Content-Length and Transfer-Encoding")
            if length:
                self.plain, self.upgrade = False, None  # a body and a tunnel would share one byte stream
        # Derived data that the gateway keeps with this head: the trusted chain of addresses and the field lines for an
        # upstream; the same lines for parts; the views of both for the cache; the prefix of its cache keys.
        self.cache_view: Any = None
        self.cache_origin: bytes | None = None
        self.part_view: Any = None
        self.chain: list[bytes] | None = None
        self.upstream: bytes | None = None
        self.part_fields: bytes | None = None
        # What next_head() has learned on this connection, and the number of heads that it had to parse.
        self.variation: Any = None
        self.misses = 0

    @property
    def close(self) -> bool:
        """Whether this is the last request of the connection."""
        return self._framing.close

    @property
    def keep_alive(self) -> bool:
        """Whether an HTTP/1.0 client asks for a persistent connection."""
        return self._framing.keep_alive

    @property
    def relay(self) -> bytes:
        """The end-to-end field lines for the upstream, byte for byte as received, each with its CRLF.

        The forwarding fields, which the gateway sets itself, are not among them.
        """
        return self._end_to_end_lines(_NO_FIELDS)

    def relay_without(self, names: frozenset[bytes]) -> bytes:
        """Return the lines of ``relay`` but those of the fields ``names``, a constant set."""
        return self._end_to_end_lines(names)

    def end_to_end(self) -> Fields:
        """Return the fields that may be forwarded: neither hop-by-hop nor named by Connection (RFC 9110 §7.6.1)."""
        return end_to_end(self.fields)

    def selecting(self) -> Fields:
        """Return those of the end-to-end fields that select a stored response."""
        names = self.layout.names
        numbers = self.layout.selecting
        if self._nominated:
            numbers = tuple([number for number in numbers if names[number] not in self._nominated])
        return [(name := names[number], self._line(number)[len(name) + 1 :].strip(b" \t")) for number in numbers]


class ResponseHead(HeaderSection):
    """A parsed status line and header section.

    ``relay`` is the status line and the end-to-end field lines for the client, with Content-Length, without the final
    empty line. ``whole`` is ``relay`` with the empty line, or None if a Date must be added (RFC 9110 §6.6.1).
    ``content_length`` is -1 if absent. ``bodied`` states whether a body may follow. ``raw`` holds the bytes that were
    parsed, with the final empty line.
    """

    __slots__ = (
        "bodied",
        "chunked",
        "close",
        "content_length",
        "has_date",
        "part_metadata",
        "raw",
        "relay",
        "status",
        "upgrade",
        "whole",
    )

    def __init__(self, raw: bytes, last: ResponseHead | None = None) -> None:
        """Parse ``raw``. ``last`` is the last head of the connection."""
        end = raw.find(b"\r\n")
        first = raw[:end]
        status, old, status_line = _known_status_lines.get(first) or _parse_status_line(first)
        self.section = section = raw[end + 2 : -2]
        if last is not None and (match := self._match_layouts(last)) is not None:
            self._split, self._match = None, match
            layout = self.layout
            framed = layout.framing_groups(match)
        else:
            self._match = None
            self._split, self.layout = lines, layout = _split_response(section)
            self.other_layout = last.layout if last is not None else None
            framed = layout.framing(lines)
        framing = RESPONSE_FRAMINGS.get(framed) or learn_response_framing(framed, layout)
        self.raw = raw
        self._nominated = framing.nominated
        self.status = status
        # A body may follow unless the request was HEAD (RFC 9112 §6.3 item 1).
        self.bodied = status >= 200 and status != 204 and status != 304
        self.chunked = framing.chunked
        self.close = framing.close or (old and not framing.keep_alive)
        self.content_length = -1
        if layout.content_length >= 0:
            self.content_length = parse_length(self._line(layout.content_length)[15:].strip(b" \t"), Kind.BAD_RESPONSE)
        if framing.coded and (self.content_length >= 0 or old):
            raise Failure(Kind.BAD_RESPONSE, "Transfer-Encoding beside Content-Length or in HTTP/1.0")
        self.part_metadata: Any = None  # derived data that the gateway keeps with this head
        self.has_date = layout.has_date
        self.upgrade = framing.upgrade
        # RFC 9110 §8.6: these responses carry no Content-Length; an upstream's mistake is corrected here.
        without = _CONTENT_LENGTH if status < 200 or status == 204 else _NO_FIELDS
        self.relay = status_line + self._end_to_end_lines(without)
        self.whole: bytes | None = self.relay + b"\r\n" if self.has_date else None


_CONTENT_LENGTH = frozenset({b"content-length"})
# Status lines as received, with their status, whether they are of HTTP/1.0, and the line for the client with its CRLF.
_known_status_lines: dict[bytes, tuple[int, bool, bytes]] = {}
_MOST_STATUS_LINES, _LONGEST_STATUS_LINE = 128, 64


def _parse_status_line(line: bytes) -> tuple[int, bool, bytes]:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise Failure(Kind.BAD_RESPONSE, "malformed status line")
    status = int(match[2])
    phrase = match[3] if match[3] is not None else reason_phrase(status)
    parsed = status, match[1] == b"0", b"HTTP/1.1 %d %b\r\n" % (status, phrase)
    if len(line) <= _LONGEST_STATUS_LINE:
        if len(_known_status_lines) >= _MOST_STATUS_LINES:
            _known_status_lines.clear()
        _known_status_lines[line] = parsed
    return parsed
