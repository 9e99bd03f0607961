"""The listener's side of HTTP/1.1 (RFC 9112): one :class:`ClientConnection` per client.

The connection frames; it does not decide. Requests go to a handler, one at a time and in order (pipelined bytes wait),
as an object that is told of body bytes and of the client's leaving. What that object sends back is framed here for what
this client can read: its version, HEAD, keep-alive.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from passerelle.errors import Failure, Kind
from passerelle.http1.body import LAST_CHUNK, ChunkedDecoder, CountedDecoder, Decoder, encode_chunk
from passerelle.http1.head import REQUEST_LINE, RequestHead, ResponseHead
from passerelle.http1.listener import Exchange, Listener, Tunnel
from passerelle.http1.target import resolve
from passerelle.http1.write import problem, serialize
from passerelle.messages import Response

# Pipelined bytes held while a request is carried out; reading pauses above it.
MAX_PIPELINED = 65_536
# How long and for how many bytes a client may go on sending after we said our last word (RFC 9112 §9.6).
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024
# How long an idle connection keeps its last head for comparison.
FORGET_SECONDS = 2.0


class ClientConnection(asyncio.Protocol):
    """One client's connection, reading requests and writing responses in order."""

    __slots__ = (
        "_advancing",
        "_answered",
        "_buffer",
        "_chunking",
        "_decoder",
        "_eof",
        "_exchange",
        "_head",
        "_head_only",
        "_keep_alive",
        "_linger_left",
        "_listener",
        "_partial",
        "_paused_by",
        "_progress",
        "_seen",
        "_served",
        "_since",
        "_started",
        "_stuck",
        "_transport",
        "_tunnel",
        "_write",
        "peer",
        "sent",
        "version11",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None] = _nowhere
        self._exchange: Exchange | None = None
        self._decoder: Decoder | None = None
        self._head: RequestHead | None = None
        self._buffer = b""
        self._tunnel: Tunnel | None = None
        self._advancing = False
        self._answered = False
        self._chunking = False
        self._eof = False
        self._head_only = False
        self._keep_alive = True
        self._linger_left = -1
        self._partial = False
        self._paused_by = 0
        self._progress = 0
        self._seen = -1
        self._served = False
        self._started = False
        self._stuck = False
        self._since = listener.clock.now
        self.peer = b""
        self.sent = 0
        self.version11 = True

    # ---- the event loop's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        listener = self._listener
        name = transport.get_extra_info("peername")
        self.peer = name[0].encode("ascii") if isinstance(name, tuple) else b"local"
        listener.accepted += 1
        self._since = listener.clock.now
        if len(listener.connections) >= listener.limits.connections or listener.draining:
            listener.refused += 1
            kind = Kind.STOPPING if listener.draining else Kind.OVERLOADED
            self._refuse(Failure(kind, "too many connections" if kind is Kind.OVERLOADED else "draining"))
            self._transport.close()
            return
        listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._listener.gone(self)
        self._write = _nowhere
        exchange, self._exchange = self._exchange, None
        self._decoder = None
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()
        if exchange is not None:
            exchange.on_client_lost()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._exchange is None and self._linger_left < 0:
            self._buffer = self._buffer + data if self._buffer else data
            self._advance()
        elif self._tunnel is not None:
            self._progress += 1
            self._tunnel.write(data)
        elif self._linger_left >= 0:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.abort()
        elif self._decoder is not None:
            self._progress += 1
            self._feed(data)
        else:
            self._buffer += data
            if len(self._buffer) > MAX_PIPELINED:
                self._pause(_PIPELINED)

    def eof_received(self) -> bool:
        """The client sends no more; it may still be reading (half-close, RFC 9112 §9.6)."""
        self._eof = True
        if self._tunnel is not None:
            self._tunnel.write_eof()
            return True
        if self._decoder is not None:
            # The body can never be complete now (RFC 9112 §8).
            self.abort()
            return False
        return self._exchange is not None

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self._stuck = True
        if self._tunnel is not None:
            self._tunnel.pause_reading()
        elif self._exchange is not None:
            self._exchange.on_client_paused()

    def resume_writing(self) -> None:
        """The client caught up."""
        self._stuck = False
        self._progress += 1
        if self._tunnel is not None:
            self._tunnel.resume_reading()
        elif self._exchange is not None:
            self._exchange.on_client_resumed()

    # ---- requests in

    def _advance(self) -> None:
        """Start the requests whose heads are complete in the buffer, until one must wait."""
        self._advancing = True
        try:
            while self._exchange is None and self._buffer and self._linger_left < 0:
                data = self._buffer
                end = data.find(b"\r\n\r\n")
                if end < 0 or end > self._listener.limits.head:
                    self._incomplete(data, end)
                    break
                line_end = data.find(b"\r\n")
                if line_end == 0:
                    self._buffer = data[2:]  # RFC 9112 §2.2: an empty line before the request line is skipped
                    continue
                self._buffer = data[end + 4 :]
                self._request(data, line_end, data[line_end + 2 : end])
        except Failure as failure:
            self._refuse(failure)
        finally:
            self._advancing = False

    def _request(self, data: bytes, line_end: int, section: bytes) -> None:
        """Hand over the request whose line ends at ``line_end``."""
        line = REQUEST_LINE.fullmatch(data, 0, line_end)
        if line is None:
            raise Failure(Kind.BAD_REQUEST, "malformed request line")
        method, target, major, minor = line.groups()
        listener = self._listener
        head = self._head
        if head is None or head.section != section:
            head = self._head = RequestHead(section, listener.limits.fields)
        self.version11 = version11 = minor != b"0"
        if major != b"1":
            raise Failure(Kind.VERSION_UNSUPPORTED, "HTTP version other than 1")
        if target[0] != 47 or (version11 and head.host is None):  # 47 is "/"
            target, head = resolve(method, target, head, version11, listener.limits.fields)
        self._partial = False
        self._served = True
        self._head_only = method == b"HEAD"
        self._started = False
        self._chunking = False
        if version11 and head.plain:
            self._keep_alive = not (self._eof or listener.draining)
            listener.handler.on_request(self, method, target, head)
        else:
            self._special_request(method, target, head)

    def _special_request(self, method: bytes, target: bytes, head: RequestHead) -> None:
        """A request with a body, an expectation, an upgrade, an old version or a last one."""
        last = head.close or self._eof or self._listener.draining
        if self.version11:
            self._keep_alive = not last
        else:
            if head.chunked:
                raise Failure(Kind.BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
            self._keep_alive = head.keep_alive and not last
        if head.chunked:
            self._decoder = ChunkedDecoder(Kind.BAD_REQUEST)
        elif head.content_length > 0:
            self._decoder = CountedDecoder(head.content_length)
        decoder = self._decoder
        self._listener.handler.on_request(self, method, target, head)
        if decoder is not None and self._decoder is decoder and self._buffer:
            body, self._buffer = self._buffer, b""
            self._feed(body)

    def adopt(self, exchange: Exchange) -> None:
        """``exchange`` now carries out the request just handed over; called before it answers."""
        self._exchange = exchange

    def _feed(self, data: bytes) -> None:
        """Body bytes of the present request."""
        decoder = self._decoder
        exchange = self._exchange
        if decoder is None or exchange is None:
            return
        try:
            payload = decoder.feed(data)
        except Failure as failure:
            self._decoder = None
            self._keep_alive = False
            exchange.on_body_failure(failure)
            return
        if payload:
            exchange.on_body(payload)
        if decoder.done and self._decoder is decoder:
            self._decoder = None
            self._buffer = decoder.rest
            exchange.on_body_end()
            if self._answered and self._exchange is exchange:
                self._done()

    def _incomplete(self, data: bytes, end: int) -> None:
        """No whole head yet: keep what there is, unless it can never become one."""
        limits = self._listener.limits
        line_end = data.find(b"\r\n")
        if len(data) > limits.head or end > limits.head:
            kind = Kind.TARGET_TOO_LONG if line_end < 0 or line_end > limits.head else Kind.HEAD_TOO_LARGE
            raise Failure(kind, f"head over {limits.head} bytes")
        if data.count(b"\n") != data.count(b"\r\n"):
            raise Failure(Kind.BAD_REQUEST, "bare LF")
        if line_end > 0 and REQUEST_LINE.fullmatch(data, 0, line_end) is None:
            raise Failure(Kind.BAD_REQUEST, "malformed request line")
        if not self._partial:
            self._partial = True
            self._since = self._listener.clock.now

    def _refuse(self, failure: Failure) -> None:
        """Answer what is no request at all, and close."""
        self._decoder = None
        self._keep_alive = False
        self._head_only = False
        request_id = self._listener.handler.on_refused(self, failure)
        self.send(problem(failure, request_id))

    # ---- responses out

    def send_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """A response's head with the first bytes of its body, all of it if ``complete``."""
        whole = head.whole
        if complete and whole is not None and self._keep_alive and self.version11 and head.content_length == len(data):
            self._write(whole + data if not self._head_only else whole)
            self.sent += len(data)
            self._done()
            return
        self._begin(head.relay, head, data, complete)

    def send_head(self, relay: bytes, head: ResponseHead, data: bytes, complete: bool) -> None:
        """As :meth:`send_response`, with other field lines (``relay``) than the head's own."""
        self._begin(relay, head, data, complete)

    def _begin(self, relay: bytes, head: ResponseHead, data: bytes, complete: bool) -> None:
        lines = [relay]
        if not head.has_date:
            lines.append(self._listener.clock.date)
        bodied = not (self._head_only or head.status < 200 or head.status in (204, 304))
        if bodied and (head.content_length < 0 or head.chunked):
            if complete:
                lines.append(b"Content-Length: %d\r\n" % len(data))
            elif self.version11:
                self._chunking = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
            else:
                self._keep_alive = False  # HTTP/1.0: the end of the connection ends the body
        self._last_lines(lines, complete)
        self._started = True
        if data and bodied:
            self.sent += len(data)
            lines.append(encode_chunk(data) if self._chunking else data)
        self._write(b"".join(lines))
        if complete:
            self._done()

    def _last_lines(self, lines: list[bytes], complete: bool) -> None:
        """Append the Connection line, if this response needs one, and the empty line."""
        if self._decoder is not None and complete and not (self._exchange is not None and self._exchange.wants_body):
            self._keep_alive = False  # the whole answer is out and nobody takes what the client still sends
        if not self._keep_alive:
            lines.append(b"Connection: close\r\n")
        elif not self.version11:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")

    def send_body(self, data: bytes) -> None:
        """More of the response body, not empty."""
        self._progress += 1
        if self._head_only:
            return
        self.sent += len(data)
        self._write(encode_chunk(data) if self._chunking else data)

    def end_response(self) -> None:
        """The response body is complete."""
        if self._chunking:
            self._write(LAST_CHUNK)
        self._done()

    def send(self, response: Response) -> None:
        """A whole response that the gateway made itself."""
        head, body = serialize(response, self._listener.clock.date)
        lines = [head]
        self._last_lines(lines, True)
        if body and not self._head_only:
            self.sent += len(body)
            lines.append(body)
        self._started = True
        self._write(b"".join(lines))
        self._done()

    def send_interim(self, relay: bytes) -> None:
        """A 1xx response (RFC 9110 §15.2); HTTP/1.0 clients get none."""
        if self.version11 and not self._started:
            self._write(relay + b"\r\n")

    def send_switch(self, head: ResponseHead) -> None:
        """101 (Switching Protocols): the last thing that is framed here."""
        self._started = True
        self._write(head.relay + b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (head.upgrade or b""))

    @property
    def local(self) -> bool:
        """Whether the client is on this machine."""
        return self.peer.startswith(b"127.") or self.peer == b"::1"

    @property
    def response_started(self) -> bool:
        """Whether a byte of the final response was written."""
        return self._started

    @property
    def receiving(self) -> bool:
        """Whether the request body is still coming."""
        return self._decoder is not None

    @property
    def stuck(self) -> bool:
        """Whether the client does not keep up reading."""
        return self._stuck

    def close_after(self) -> None:
        """Let the present response be the connection's last."""
        self._keep_alive = False

    def _done(self) -> None:
        """The response is out: on to the next request, or close."""
        exchange = self._exchange
        if self._decoder is not None and self._keep_alive and exchange is not None and exchange.wants_body:
            self._answered = True  # an early answer: the upload goes on, and the next request comes after it
            return
        self._answered = False
        self._exchange = None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._keep_alive and self._decoder is None:
            self._since = self._listener.clock.now
            if self._paused_by:
                self._resume(_PIPELINED | _BODY)
            if self._buffer and not self._advancing:
                self._advance()
            elif self._eof:
                transport.close()
            return
        self._decoder = None
        self._linger(transport)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Close so that the answer is not lost to a reset (RFC 9112 §9.6): stop sending, read on for a bounded time."""
        if self._eof:
            transport.close()
            return
        self._linger_left = LINGER_BYTES
        self._buffer = b""
        self._since = self._listener.clock.now
        self._resume(_PIPELINED | _BODY)
        if transport.can_write_eof():
            transport.write_eof()

    def abort(self) -> None:
        """End the connection without ending the message: the client sees that it is incomplete (RFC 9112 §8)."""
        if self._transport is not None:
            self._transport.abort()

    def cut_short(self) -> None:
        """The body cannot be completed: end the connection so that the client sees it (RFC 9112 §8)."""
        transport = self._transport
        if transport is None:
            return
        if not self.version11:
            # A body that ends with the connection is cut only if the connection ends badly: with a reset.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
        else:
            transport.close()

    def begin_tunnel(self, tunnel: Tunnel) -> bytes:
        """Stop framing; bytes go to ``tunnel`` from here on. Gives those already read (RFC 9110 §7.8)."""
        self._tunnel = tunnel
        early, self._buffer = self._buffer, b""
        self._resume(_PIPELINED | _BODY)
        return early

    def write(self, data: bytes) -> None:
        """Raw bytes (a tunnel's)."""
        self._progress += 1
        self.sent += len(data)
        self._write(data)

    def write_eof(self) -> None:
        """The tunnel's other side sends no more."""
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close once everything written has gone out."""
        if self._transport is not None:
            self._transport.close()

    # ---- flow and time

    def pause_reading(self) -> None:
        """Stop reading the request body."""
        self._pause(_BODY)

    def resume_reading(self) -> None:
        """Read the request body again."""
        self._resume(_BODY)

    def _pause(self, why: int) -> None:
        if not self._paused_by and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused_by |= why

    def _resume(self, why: int) -> None:
        if not self._paused_by:
            return
        self._paused_by &= ~why
        if not self._paused_by and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def drain(self) -> None:
        """Close now when idle, else after the present request."""
        self._keep_alive = False
        if self._exchange is None and self._linger_left < 0 and self._transport is not None:
            self._transport.close()

    def check_time(self, now: float) -> None:
        """Close what has waited too long at ``now`` (monotonic seconds)."""
        limits = self._listener.limits
        waited = now - self._since
        if self._linger_left >= 0:
            if waited > LINGER_SECONDS:
                self.abort()
        elif self._exchange is None:
            if self._buffer:
                if waited > limits.head_timeout:
                    self._buffer = b""
                    self._refuse(Failure(Kind.HEAD_TIMEOUT, "head incomplete"))
            elif waited > (limits.idle_timeout if self._served else limits.head_timeout):
                self.close()
            elif waited > FORGET_SECONDS:
                self._head = None  # 2 KB that an idle connection need not hold
        elif self._progress != self._seen or not (self._stuck or self._decoder is not None):
            self._seen = self._progress
            self._since = now
        elif self._stuck:
            if waited > limits.send_timeout:
                self.abort()
        elif waited > limits.body_timeout and not self._paused_by and self._decoder is not None:
            self._decoder = None
            self._keep_alive = False
            self._exchange.on_body_failure(Failure(Kind.BODY_TIMEOUT, "no byte of the body for too long"))


RESET = struct.pack("ii", 1, 0)

_PIPELINED = 1
_BODY = 2


def _nowhere(data: bytes) -> None:
    """Writing to a connection that is gone changes nothing; the exchange is told of it by ``on_client_lost``."""
