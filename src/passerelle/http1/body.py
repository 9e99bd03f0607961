"""Message bodies (RFC 9112 §6, §7): decoders, and the encoder of the chunked coding.

A decoder takes bytes as they arrive and returns the payload in them. It holds back at most one incomplete line, so its
memory is bounded by :data:`MAX_LINE`. Chunk extensions and trailer fields are validated, bounded and dropped (RFC 9112
§7.1.1, §7.1.2 allow it): a trailer field would bypass the checks that were made on the head.
"""

from __future__ import annotations

import re
from typing import Protocol

from passerelle.errors import Failure, Kind

# Maximum size in bytes of a chunk-size line with its extensions, and of one trailer line.
MAX_LINE = 4096
# Maximum size in bytes of all trailer lines of one message.
MAX_TRAILER = 8192
# Maximum size in bytes of the chunk-size lines of one message, beyond what each chunk has free: 16 bytes plus twice its
# payload. So a signature in each chunk passes, and so do small chunks without extensions.
MAX_OVERHEAD = 16_384
FREE_OVERHEAD = 16

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
# RFC 9112 §7.1: 1*HEXDIG, then extensions. 15 digits exceed any real chunk size.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_TRAILER = re.compile(rb"%b:[^\x00-\x08\x0a-\x1f\x7f]*" % _TOKEN)
# RFC 9110 §6.5.1: fields that frame or route a message are not allowed as trailers. Trailers are dropped, so they would
# be harmless here, but they indicate an attack that succeeds elsewhere.
_NO_TRAILER = re.compile(rb"(?:content-length|transfer-encoding|host|trailer|te):", re.IGNORECASE)


class Decoder(Protocol):
    """Decoder of one body."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """Return the payload in ``data``. Once ``done``, ``rest`` holds the bytes after the message."""


class CountedDecoder:
    """Decoder of a body of ``length`` bytes (RFC 9112 §6.2)."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the part of ``data`` that belongs to the body."""
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
    """Decoder of a response body that ends with its connection (RFC 9112 §6.3 item 8)."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return all of ``data``."""
        return data


class ChunkedDecoder:
    """Decoder of a chunked body (RFC 9112 §7.1). A malformed body is a Failure of ``kind``."""

    __slots__ = ("_held", "_kind", "_left", "_overhead", "_state", "_trailer", "done", "rest")

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._held = b""
        self._left = 0
        self._overhead = 0  # bytes of chunk-size lines that are not free, less what later chunks had free
        self._state = self._size
        self._trailer = 0
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the payload in ``data``; raise Failure at the first byte that violates the grammar."""
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
        """Return the end of the line that starts at ``position``, or -1 after holding back an incomplete line."""
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
        overhead = self._overhead + end - position - FREE_OVERHEAD - 2 * self._left
        if overhead > MAX_OVERHEAD:
            raise Failure(self._kind, "too many bytes of chunk extensions")
        self._overhead = overhead if overhead > 0 else 0
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
            raise Failure(self._kind, "chunk longer than its size")
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
            raise Failure(self._kind, "framing field in the trailer section")
        return end + 2


def encode_chunk(payload: bytes) -> bytes:
    """Encode ``payload``, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"
