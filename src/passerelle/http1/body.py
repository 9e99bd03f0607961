"""Message bodies (RFC 9112 §6 and §7): the chunked coding, both ways, and counted bodies.

A decoder takes the bytes as they come and gives the payload in them; it holds back at most one incomplete line, so its
memory is bounded by :data:`MAX_LINE`. Chunk extensions are checked and dropped; trailer fields are checked, bounded and
dropped (RFC 9112 §7.1.2 allows it, and a field that arrives after the body was judged is a field nobody checked).
"""

from __future__ import annotations

import re
from typing import Protocol

from passerelle.errors import Failure, Kind

# A chunk-size line with its extensions, or one trailer line, in bytes.
MAX_LINE = 4096
# All trailer lines of one message together, in bytes.
MAX_TRAILER = 8192

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
# RFC 9112 §7.1: 1*HEXDIG (15 digits are more than any counter holds), then extensions.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_TRAILER = re.compile(rb"%b:[^\x00-\x08\x0a-\x1f\x7f]*" % _TOKEN)
# RFC 9110 §6.5.1: what frames or routes a message cannot come after it. Dropped as all trailers are, such a field would
# do no harm here; a client that sends one is trying what it does elsewhere.
_NO_TRAILER = re.compile(rb"(?:content-length|transfer-encoding|host|trailer|te):", re.IGNORECASE)


class Decoder(Protocol):
    """Takes a body's bytes, gives its payload."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``. Once ``done``, ``rest`` holds the bytes after the message."""


class CountedDecoder:
    """A body of ``length`` bytes (RFC 9112 §6.2)."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The part of ``data`` that belongs to the body."""
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        self.done = True
        if left == 0:
            return data
        self.rest = data[left:]
        return data[:left]


class CloseDecoder:
    """A response body that ends with its connection (RFC 9112 §6.3 item 8)."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        return data


class ChunkedDecoder:
    """A chunked body (RFC 9112 §7.1). ``kind`` is the failure that a malformed one is."""

    __slots__ = ("_held", "_kind", "_left", "_state", "_trailer", "done", "rest")

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._held = b""
        self._left = 0
        self._state = self._size
        self._trailer = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``; a Failure at the first byte that breaks the grammar."""
        if self._held:
            data = self._held + data
            self._held = b""
        payload: list[bytes] = []
        position = 0
        while not self.done:
            after = self._state(data, position, payload)
            if after < 0:
                return payload[0] if len(payload) == 1 else b"".join(payload)
            position = after
        self.rest = data[position:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    # Each state consumes what it can from `position` and returns the position after it, or -1 when it needs more.

    def _line(self, data: bytes, position: int) -> int:
        """The end of the line that starts at ``position``, or -1 (the beginning of it is then held back)."""
        end = data.find(b"\r\n", position, position + MAX_LINE + 2)
        if end < 0:
            held = data[position:]
            if len(held) > MAX_LINE or b"\n" in held or b"\r" in held[:-1]:
                raise Failure(self._kind, "malformed line in a chunked body")
            self._held = held
        return end

    def _size(self, data: bytes, position: int, payload: list[bytes]) -> int:
        end = self._line(data, position)
        if end < 0:
            return -1
        match = _SIZE.fullmatch(data, position, end)
        if match is None:
            raise Failure(self._kind, "malformed chunk size")
        self._left = int(match[1], 16)
        self._state = self._data if self._left else self._trailers
        return end + 2

    def _data(self, data: bytes, position: int, payload: list[bytes]) -> int:
        part = data[position : position + self._left]
        if part:
            payload.append(part)
            self._left -= len(part)
        if self._left:
            return -1
        self._state = self._data_end
        return position + len(part)

    def _data_end(self, data: bytes, position: int, payload: list[bytes]) -> int:
        ending = data[position : position + 2]
        if ending == b"\r\n":
            self._state = self._size
            return position + 2
        if ending not in (b"", b"\r"):
            raise Failure(self._kind, "a chunk longer than its size")
        self._held = ending
        return -1

    def _trailers(self, data: bytes, position: int, payload: list[bytes]) -> int:
        end = self._line(data, position)
        if end < 0:
            return -1
        if end == position:
            self.done = True
            return end + 2
        self._trailer += end - position
        if self._trailer > MAX_TRAILER or not _TRAILER.fullmatch(data, position, end):
            raise Failure(self._kind, "malformed trailer section")
        if self._kind is Kind.BAD_REQUEST and _NO_TRAILER.match(data, position, end):
            raise Failure(self._kind, "a framing field as a trailer")
        return end + 2


def encode_chunk(payload: bytes) -> bytes:
    """``payload`` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
