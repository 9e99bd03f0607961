"""Response as received from upstream, before it is stored or merged."""

from __future__ import annotations

from passerelle.caching.directives import Directives, parse_cache_control, parse_targeted
from passerelle.caching.entry import field_line, head_lines, status_line
from passerelle.errors import reason_phrase
from passerelle.http.messages import HOP_BY_HOP, NEVER_NOMINATED, Fields, connection_options, get_all

# Never stored (RFC 9111 §3.1): fields of one connection or one proxy, and fields generated for every response.
UNSTORED = HOP_BY_HOP | {b"age", b"proxy-authentication-info"}

# Fields that list a response's tags for purging; they are for the cache, not for clients.
TAG_FIELDS = frozenset({b"cache-tag", b"surrogate-key"})


class OriginResponse:
    """Head of a response, with the request time and the response time (seconds since the epoch).

    ``fields`` has all fields, with lower-case names. ``relay`` is the head as forwarded to the client, if the caller
    has it (status line and end-to-end lines, each with CRLF): the stored head then keeps the origin's capitalization.
    """

    __slots__ = ("_first", "fields", "relay", "request_time", "response_time", "status")

    def __init__(
        self, status: int, fields: Fields, *, request_time: float, response_time: float, relay: bytes | None = None
    ) -> None:
        self.status = status
        self.fields = fields
        self.relay = relay
        self.request_time = request_time
        self.response_time = response_time
        self._first: dict[bytes, bytes] = dict(reversed(fields))  # the first of several values of a name

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of the field ``name`` (lower case), or None."""
        return self._first.get(name)

    def get_all(self, name: bytes) -> list[bytes]:
        """Return every value of the field ``name`` (lower case), in order."""
        return get_all(self.fields, name) if name in self._first else []

    @property
    def status_line(self) -> bytes:
        """The status line, without CRLF."""
        if self.relay is not None:
            return status_line(self.relay)
        return b"HTTP/1.1 %d %b" % (self.status, reason_phrase(self.status))

    def lines(self) -> list[tuple[bytes, bytes, bytes]]:
        """Return ``(lower-case name, value, line)`` of the fields that may be stored, in order (RFC 9111 §3.1)."""
        drop = UNSTORED
        if b"connection" in self._first:
            drop |= connection_options(self.fields) - NEVER_NOMINATED
        if self.relay is not None:
            return [field for field in head_lines(self.relay) if field[0] not in drop]
        return [(name, value, field_line((name, value))) for name, value in self.fields if name not in drop]

    def directives(self, targeted: tuple[bytes, ...]) -> tuple[Directives, bool]:
        """Return the directives for this cache, and whether they come from a targeted field (RFC 9213 §2.2)."""
        for name in targeted:
            if name in self._first:
                found = parse_targeted(self.get_all(name))
                if found is not None:
                    return found, True
        return parse_cache_control(self.get_all(b"cache-control")), False

    def tags(self) -> tuple[bytes, ...]:
        """Return the distinct tags of ``Cache-Tag`` (comma-separated), then of ``Surrogate-Key`` (by whitespace)."""
        if self._first.keys().isdisjoint(TAG_FIELDS):
            return ()
        parts = [part.strip(b" \t") for value in self.get_all(b"cache-tag") for part in value.split(b",")]
        parts += [part for value in self.get_all(b"surrogate-key") for part in value.split()]
        return tuple(dict.fromkeys(part for part in parts if part))
