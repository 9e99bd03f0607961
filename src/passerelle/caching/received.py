"""A response as it came from upstream, before it is stored or merged."""

from __future__ import annotations

from passerelle.caching.directives import Directives, parse_cache_control, parse_targeted
from passerelle.caching.entry import field_line, head_lines, status_line
from passerelle.errors import reason_phrase
from passerelle.messages import HOP_BY_HOP, NEVER_NOMINATED, Fields, connection_options, get_all

# Never stored (RFC 9111 §3.1): what concerns one connection or one proxy, and what each answer makes anew.
UNSTORED = HOP_BY_HOP | {b"age", b"proxy-authentication-info"}

# What a response is called by for purging; it is for the cache, not for clients.
TAG_FIELDS = frozenset({b"cache-tag", b"surrogate-key"})


class Received:
    """A response's head and when it was asked for and came (seconds since the epoch).

    ``fields`` has all fields, names in lower case. ``relay`` is the head as it goes to the client, if the caller has
    it (status line and end-to-end lines, each with CRLF): what is stored then has the origin's own spelling.
    """

    __slots__ = ("fields", "relay", "request_time", "response_time", "status")

    def __init__(
        self, status: int, fields: Fields, *, request_time: float, response_time: float, relay: bytes | None = None
    ) -> None:
        self.status = status
        self.fields = fields
        self.relay = relay
        self.request_time = request_time
        self.response_time = response_time

    @property
    def status_line(self) -> bytes:
        """The status line, without CRLF."""
        if self.relay is not None:
            return status_line(self.relay)
        return b"HTTP/1.1 %d %b" % (self.status, reason_phrase(self.status))

    def lines(self) -> list[tuple[bytes, bytes, bytes]]:
        """``(lower-case name, value, line)`` of the fields that may be stored at all, in order (RFC 9111 §3.1)."""
        drop = UNSTORED | (connection_options(self.fields) - NEVER_NOMINATED)
        if self.relay is not None:
            return [field for field in head_lines(self.relay) if field[0] not in drop]
        return [(name, value, field_line((name, value))) for name, value in self.fields if name not in drop]

    def directives(self, targeted: tuple[bytes, ...]) -> tuple[Directives, bool]:
        """The directives that hold for this cache, and whether they come from a targeted field (RFC 9213 §2.2)."""
        return select_directives(self.fields, targeted)


def select_directives(fields: Fields, targeted: tuple[bytes, ...]) -> tuple[Directives, bool]:
    """The first valid targeted field of ``targeted``, else Cache-Control."""
    for name in targeted:
        lines = get_all(fields, name)
        if lines:
            found = parse_targeted(lines)
            if found is not None:
                return found, True
    return parse_cache_control(get_all(fields, b"cache-control")), False


def response_tags(fields: Fields) -> tuple[bytes, ...]:
    """The tags of ``Cache-Tag`` (separated by commas) and ``Surrogate-Key`` (by blanks), in order, each once."""
    tags: dict[bytes, None] = {}
    for name, value in fields:
        if name == b"cache-tag":
            parts = [part.strip(b" \t") for part in value.split(b",")]
        elif name == b"surrogate-key":
            parts = value.split()
        else:
            continue
        tags.update((part, None) for part in parts if part)
    return tuple(tags)
