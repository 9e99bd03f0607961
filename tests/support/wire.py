"""Strict, independent reader of HTTP/1.1 messages (RFC 9112), for checking what the gateway wrote on either side.

It shares no code with the code under test and tolerates nothing: everything that a careful peer could read in two ways
is a :class:`WireError`, so a test that merely reads a message has checked its syntax. Every wait is bounded.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

DEADLINE = 5.0
"""Seconds that any single wait of a test may take before it fails."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")

Fields = list[tuple[bytes, bytes]]


class WireError(AssertionError):
    """The peer wrote something that is not a well-formed, unambiguous HTTP/1.1 message."""


class Closed(AssertionError):
    """The peer closed (``how`` is ``eof`` or ``reset``) before the message was complete; ``got`` was received."""

    def __init__(self, how: str, got: bytes) -> None:
        super().__init__(f"closed by {how} after {got[:200]!r}")
        self.how = how
        self.got = got


def wait_until(condition: Callable[[], object], what: str = "", within: float = DEADLINE) -> None:
    """Return as soon as ``condition()`` is true; fail after ``within`` seconds.

    Pauses become longer: many conditions cost CPU time of the process under test.
    """
    end, pause = time.monotonic() + within, 0.002
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what or condition}")
        time.sleep(pause)
        pause = min(1.5 * pause, 0.03)


def stays(condition: Callable[[], object], what: str, during: float = 0.15) -> None:
    """Fail if ``condition()`` becomes false within ``during`` seconds: for events that must *not* happen."""
    end = time.monotonic() + during
    while time.monotonic() < end:
        assert condition(), what
        time.sleep(0.005)


@dataclass
class Message:
    """Message as received: ``raw`` is the bytes of the head, including the empty line."""

    start: bytes
    fields: Fields
    raw: bytes
    body: bytes = b""
    framing: str = "none"  # none | length | chunked | close
    chunks: list[bytes] = field(default_factory=list)
    trailers: Fields = field(default_factory=list)

    def all(self, name: str) -> list[bytes]:
        """Return the values of every field line ``name``, in order."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]

    def get(self, name: str) -> bytes | None:
        """Return the only value of ``name``, or None; fail if there are several lines."""
        values = self.all(name)
        assert len(values) < 2, f"{name} was sent {len(values)} times: {values}"
        return values[0] if values else None

    def names(self) -> list[str]:
        """Return the lower-case field names in order."""
        return [key.lower().decode() for key, _ in self.fields]


@dataclass
class Request(Message):
    """Request received by an upstream."""

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]


@dataclass
class Response(Message):
    """Final response received by a client, with the preceding 1xx responses."""

    interim: list[Response] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start[9:12])


class Wire:
    """Connected socket with a read buffer. All reads end within :data:`DEADLINE` or fail."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.received = bytearray()  # everything ever read, in order
        self.closed = ""  # "", "eof" or "reset"
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- bytes

    def send(self, *parts: bytes) -> None:
        """Write the parts completely, each in a separate packet, or fail."""
        for part in parts:
            self.sock.settimeout(DEADLINE)
            self.sock.sendall(part)

    def fill(self, end: float) -> bool:
        """Read once, until ``end`` (monotonic) at the latest; return False if the peer has closed."""
        if self.closed:
            return False
        self.sock.settimeout(max(end - time.monotonic(), 0.001))
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            raise AssertionError(f"nothing came in time; so far {bytes(self.buffer[-300:])!r}") from None
        except (ConnectionResetError, BrokenPipeError):
            self.closed = "reset"
            return False
        if not data:
            self.closed = "eof"
            return False
        self.buffer += data
        self.received += data
        return True

    def until(self, mark: bytes, within: float = DEADLINE) -> bytes:
        """Return the bytes up to and including ``mark``."""
        end = time.monotonic() + within
        while (at := self.buffer.find(mark)) < 0:
            if not self.fill(end):
                raise Closed(self.closed, bytes(self.buffer))
        return self.take(at + len(mark))

    def exactly(self, size: int, within: float = DEADLINE) -> bytes:
        """Return the next ``size`` bytes."""
        end = time.monotonic() + within
        while len(self.buffer) < size:
            if not self.fill(end):
                raise Closed(self.closed, bytes(self.buffer))
        return self.take(size)

    def take(self, size: int) -> bytes:
        """Remove and return the first ``size`` bytes of the buffer."""
        out = bytes(self.buffer[:size])
        del self.buffer[:size]
        return out

    def rest(self, within: float = DEADLINE) -> bytes:
        """Return everything until the peer closes (see :attr:`closed` for how)."""
        end = time.monotonic() + within
        while self.fill(end):
            pass
        return self.take(len(self.buffer))

    def assert_closed(self, within: float = DEADLINE) -> None:
        """Assert that the peer closes without sending anything more."""
        rest = self.rest(within)
        assert rest == b"", f"bytes after the end of the message: {rest[:300]!r}"

    def wait_closed(self, within: float = DEADLINE) -> str:
        """Wait until the peer closes; return how, whatever it sent before."""
        self.rest(within)
        return self.closed

    def is_open(self) -> bool:
        """Return whether the peer has neither closed nor sent unread data."""
        if self.closed:
            return False
        return not select.select([self.sock], [], [], 0)[0]

    # -- closing

    def finish(self) -> None:
        """Half-close: send no more bytes."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close with a FIN (or a RST if unread bytes are left)."""
        self.sock.close()

    def reset(self) -> None:
        """Close with a RST, like a crashed or impatient peer."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()

    # -- messages

    def _fields(self, lines: list[bytes]) -> Fields:
        out: Fields = []
        for line in lines:
            match = _FIELD.fullmatch(line)
            if not match:
                raise WireError(f"malformed field line {line!r}")
            out.append((match[1], match[2]))
        return out

    def _head(self, within: float) -> tuple[bytes, Fields, bytes]:
        raw = self.until(b"\r\n\r\n", within)
        start, *lines = raw[:-4].split(b"\r\n")
        for line in (start, *lines):
            if b"\r" in line or b"\n" in line or b"\0" in line:
                raise WireError(f"bare CR, LF or NUL in {line!r}")
        return start, self._fields(lines), raw

    def _framing(self, message: Message) -> tuple[bool, int | None]:
        """Return (chunked, length); fail if both are declared, or one of them twice (RFC 9112 §6.3)."""
        codings, lengths = message.all("transfer-encoding"), message.all("content-length")
        if codings and lengths:
            raise WireError(f"both Content-Length and Transfer-Encoding: {message.raw!r}")
        if len(codings) > 1 or len(lengths) > 1:
            raise WireError(f"several framing fields: {message.raw!r}")
        if codings and codings[0].lower() != b"chunked":
            raise WireError(f"transfer coding {codings[0]!r}")
        if lengths and not re.fullmatch(rb"[0-9]{1,15}", lengths[0]):
            raise WireError(f"Content-Length {lengths[0]!r}")
        return bool(codings), int(lengths[0]) if lengths else None

    def _chunked(self, message: Message, within: float) -> None:
        message.framing = "chunked"
        while True:
            line = self.until(b"\r\n", within)[:-2]
            match = _CHUNK_LINE.fullmatch(line)
            if not match:
                raise WireError(f"chunk size line {line!r}")
            size = int(match[1], 16)
            if size == 0:
                break
            try:
                data = self.exactly(size, within)
            except Closed as error:
                message.body += error.got
                raise
            message.body += data
            message.chunks.append(data)
            if (end := self.exactly(2, within)) != b"\r\n":
                raise WireError(f"a chunk ends in {end!r}")
        lines = []
        while (line := self.until(b"\r\n", within)[:-2]) != b"":
            lines.append(line)
        message.trailers = self._fields(lines)

    def read_request(self, within: float = DEADLINE, on_head: Callable[[Request], None] | None = None) -> Request:
        """Read one complete request. ``on_head`` is called with the request before its body is read."""
        start, fields, raw = self._head(within)
        if not _REQUEST_LINE.fullmatch(start):
            raise WireError(f"malformed request line {start!r}")
        request = Request(start, fields, raw)
        if len(request.all("host")) != 1:
            raise WireError(f"{len(request.all('host'))} Host fields: {raw!r}")
        chunked, length = self._framing(request)
        if on_head:
            on_head(request)
        if chunked:
            self._chunked(request, within)
        elif length is not None:
            request.framing = "length"
            request.body = self.exactly(length, within)
        return request

    def read_response(self, method: str = "GET", within: float = DEADLINE, *, stop_at_100: bool = False) -> Response:
        """Read one final response to a ``method`` request, after any 1xx.

        ``stop_at_100`` returns at the first 1xx. A response delimited by close is read to the end of the connection; a
        truncated one raises :class:`Closed`.
        """
        interim: list[Response] = []
        while True:
            start, fields, raw = self._head(within)
            match = _STATUS_LINE.fullmatch(start)
            if not match:
                raise WireError(f"malformed status line {start!r}")
            response = Response(start, fields, raw, interim=interim)
            if response.status >= 200 or response.status == 101 or stop_at_100:
                break
            if response.all("content-length") or response.all("transfer-encoding"):
                raise WireError(f"framing fields in a {response.status}")
            interim.append(response)
        chunked, length = self._framing(response)
        if response.status < 200 or response.status == 204:
            if chunked or length is not None:
                raise WireError(f"framing fields in a {response.status}: {raw!r} (RFC 9110 §8.6, RFC 9112 §6.1)")
        elif method == "HEAD" or response.status == 304:
            pass
        elif chunked:
            self._chunked(response, within)
        elif length is not None:
            response.framing = "length"
            response.body = self.exactly(length, within)
        else:
            response.framing = "close"
            response.body = self.rest(within)
            if self.closed == "reset":
                raise Closed("reset", response.body)
        return response
