"""Client connections (RFC 9112): one :class:`ClientConnection` per client.

The connection frames messages and leaves all decisions to its handler. Requests are handed over one at a time and in
order; pipelined bytes are buffered. The handler attaches an exchange to each request. The connection delivers body data
and the loss of the client to that exchange, and frames its response for this client: HTTP version, HEAD, keep-alive.
"""

from __future__ import annotations

import asyncio
from typing import cast

from passerelle.errors import Failure, Kind
from passerelle.http1.body import ChunkedDecoder, CountedDecoder
from passerelle.http1.head import USUAL_LINE, RequestHead, parse_request_line
from passerelle.http1.interfaces import ServerExchange
from passerelle.http1.request_target import resolve_target
from passerelle.http1.serialize import problem
from passerelle.http1.server.listener import Listener, peer_address
from passerelle.http1.server.response_writer import BODY, PIPELINED, discard
from passerelle.http1.server.timeouts import ClientTimeouts
from passerelle.http1.varied_head import next_head

# Pipelined bytes buffered while a request is handled; reading pauses above this.
MAX_PIPELINED = 65_536
# If an overlong request line has no space within this many bytes, it is malformed: 400 in place of 414.
LONGEST_METHOD = 256
# Bytes that a client may still send after the last response (RFC 9112 §9.6).
LINGER_BYTES = 64 * 1024 * 1024


class ClientConnection(ClientTimeouts):
    """One client's connection: reads requests and writes responses in order."""

    __slots__ = ("_advancing", "_blank", "_head", "_partial")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._head: RequestHead | None = None
        self._advancing = False
        self._blank = False
        self._partial = False

    # ---- the event loop's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register a new connection, or refuse it beyond the limits."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        listener = self._listener
        self.peer = self.peer or peer_address(transport.get_extra_info("peername"))
        listener.accepted += 1
        self._since = listener.clock.now
        if listener.is_full or listener.draining:
            listener.refused += 1
            kind = Kind.STOPPING if listener.draining else Kind.OVERLOADED
            self._refuse(Failure(kind, "too many connections" if kind is Kind.OVERLOADED else "draining"))
            self.close()
            return
        if listener.descriptors is not None and listener.descriptors.refuses(transport):
            listener.refused += 1
            self._refuse(Failure(Kind.OVERLOADED, "out of file descriptors"))
            self.close()
            return
        if not listener.admits(self):
            listener.refused += 1
            self._refuse(Failure(Kind.RATE_LIMITED, "too many connections from this address"))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything: the connection is closed, by either side."""
        self._listener.on_connection_lost(self)
        if self._write_paused:
            self._listener.paused -= 1
        self._write = discard
        exchange, self._exchange = self._exchange, None
        self._decoder = None
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()
        if exchange is not None:
            exchange.on_client_lost()

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client: requests, a body, or tunnel data."""
        if self._exchange is None and self._linger_left < 0:
            if self._buffer:
                data = self._buffer + data
            elif data[-4:] == b"\r\n\r\n" and self._usual_request(data):
                return
            self._buffer = data
            if not self._write_paused:
                self._advance()
            elif len(self._buffer) > MAX_PIPELINED:
                self._pause(PIPELINED)
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
                self._pause(PIPELINED)

    def eof_received(self) -> bool:
        """Handle a half-close: the client sends no more but may still read (RFC 9112 §9.6)."""
        self._eof = True
        if self._tunnel is not None:
            self._tunnel_half_closed = True
            self._tunnel.write_eof()
            return True
        if self._decoder is not None:
            # The body can no longer become complete (RFC 9112 §8).
            self.abort()
            return False
        return self._exchange is not None

    def pause_writing(self) -> None:
        """Pause the source of the data: the client reads too slowly."""
        self._write_paused = True
        self._listener.paused += 1
        if self._tunnel is not None:
            self._tunnel.pause_reading()
        elif self._exchange is not None:
            self._exchange.on_client_paused()

    def resume_writing(self) -> None:
        """Resume the source of the data."""
        self._write_paused = False
        self._listener.paused -= 1
        self._progress += 1
        if self._tunnel is not None:
            self._tunnel.resume_reading()
        elif self._exchange is not None:
            self._exchange.on_client_resumed()
        else:
            self._resume(PIPELINED)
            self._advance()

    # ---- requests in

    def _advance(self) -> None:
        """Hand over the requests whose heads are complete in the buffer, until one has to wait.

        No request is started while writing is paused: responses that the client does not read would pile up in memory.
        """
        self._advancing = True
        try:
            while self._exchange is None and self._buffer and self._linger_left < 0 and not self._write_paused:
                data = self._buffer
                end = data.find(b"\r\n\r\n")
                if end < 0 or end > self._listener.limits.head:
                    self._incomplete(data, end)
                    break
                line_end = data.find(b"\r\n")
                if line_end == 0:
                    if self._blank:
                        raise Failure(Kind.BAD_REQUEST, "more than one empty line before a request")
                    self._blank = True  # RFC 9112 §2.2: an empty line before the request line is skipped
                    self._buffer = data[2:]
                    continue
                self._buffer = data[end + 4 :]
                self._request(data, line_end, data[line_end + 2 : end + 2])
        except Failure as failure:
            self._refuse(failure)
        finally:
            self._advancing = False

    def _usual_request(self, data: bytes) -> bool:
        """Hand over the request in ``data`` if that is one GET without a body, an expectation and the like.

        Return False for any other request, which :meth:`_advance` hands over. Finding the ends of the request line and
        the head in general takes 1 us more.
        """
        match = USUAL_LINE.match(data)
        listener = self._listener
        limits = listener.limits
        if match is None or self._write_paused or len(data) > limits.head:
            return False
        section = data[match.end() : -2]
        head = self._head
        try:
            if head is None or head.section != section:
                head = self._head = next_head(section, limits.fields, head)
            if not head.plain or head.host is None:
                return False
            self.version11 = True
            self._blank = self._partial = self._head_only = self._started = self._chunking = False
            self._keep_alive = not (listener.draining or self._eof)
            listener.handler.on_request(self, b"GET", match[1], head)
        except Failure as failure:
            if b"\r\n\r\n" in section:
                return False  # pipelined requests, of which the first may be well-formed
            self._refuse(failure)
        return True

    def _request(self, data: bytes, line_end: int, section: bytes) -> None:
        """Hand over the request whose request line ends at ``line_end``."""
        method, target, version11 = parse_request_line(data[:line_end])
        self.version11 = version11
        listener = self._listener
        head = self._head
        if head is None or head.section != section:
            head = self._head = next_head(section, listener.limits.fields, head)
        if target[0] != 47 or (version11 and head.host is None):  # 47 is "/"
            target, head = resolve_target(method, target, head, version11, listener.limits.fields)
        self._blank = False
        self._partial = False
        self._head_only = method == b"HEAD"
        self._started = False
        self._chunking = False
        if version11 and head.plain:
            self._keep_alive = not (listener.draining or (self._eof and not self._buffer))
            listener.handler.on_request(self, method, target, head)
        else:
            self._special_request(method, target, head)

    def _special_request(self, method: bytes, target: bytes, head: RequestHead) -> None:
        """Hand over a request with a body, an expectation, an upgrade, HTTP/1.0, or ``Connection: close``."""
        last = head.close or self._listener.draining or (self._eof and not self._buffer)
        if self.version11:
            self._keep_alive = not last
        else:
            if head.chunked:
                raise Failure(Kind.BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
            self._keep_alive = head.keep_alive and not last
            if head.expect or head.upgrade is not None:
                # Ignore both (RFC 9110 §7.8, §10.1.1). Do not reuse the parsed head: it may come next in HTTP/1.1.
                head.expect, head.upgrade, head.upstream, self._head = False, None, None, None
        if head.chunked:
            self._decoder = ChunkedDecoder(Kind.BAD_REQUEST)
        elif head.content_length > 0:
            self._decoder = CountedDecoder(head.content_length)
        decoder = self._decoder
        if decoder is not None:
            self._progress += 1  # the body timeout starts now
            self._received, self._received_since = 0, self._listener.clock.now
        self._listener.handler.on_request(self, method, target, head)
        if decoder is not None and self._decoder is decoder and self._buffer:
            body, self._buffer = self._buffer, b""
            self._feed(body)

    def adopt(self, exchange: ServerExchange) -> None:
        """Deliver the events of the current request to ``exchange``. To be called before a response is sent."""
        self._exchange = exchange

    def _feed(self, data: bytes) -> None:
        """Decode body bytes of the current request and pass the payload to its exchange."""
        decoder = self._decoder
        exchange = self._exchange
        if decoder is None or exchange is None:
            return
        self._received += len(data)
        try:
            payload = decoder.feed(data)
        except Failure as failure:
            self._body_failed(exchange, failure)
            return
        if payload:
            exchange.on_body(payload)
        if decoder.done and self._decoder is decoder:
            self._decoder = None
            self._buffer = decoder.rest
            exchange.on_body_end()
            if self._response_done and self._exchange is exchange:
                self._done()

    def _body_failed(self, exchange: ServerExchange, failure: Failure) -> None:
        """Report to ``exchange`` that the body is malformed or stalled, and read no more of it."""
        self._decoder = None
        self._keep_alive = False
        exchange.on_body_failure(failure)
        if self._response_done and self._exchange is exchange:
            self._done()  # the response was early and is complete: nothing is left to send

    def _incomplete(self, data: bytes, end: int) -> None:
        """Buffer an incomplete head, unless it can no longer become valid."""
        limits = self._listener.limits
        line_end = data.find(b"\r\n")
        if len(data) > limits.head or end > limits.head:
            if 0 < line_end <= limits.head:
                raise Failure(Kind.HEAD_TOO_LARGE, f"head over {limits.head} bytes")
            kind = Kind.TARGET_TOO_LONG if b" " in data[:LONGEST_METHOD] else Kind.BAD_REQUEST
            raise Failure(kind, f"request line over {limits.head} bytes")
        if data.count(b"\n") != data.count(b"\r\n"):
            raise Failure(Kind.BAD_REQUEST, "bare LF")
        if line_end > 0:
            parse_request_line(data[:line_end])
        if self._eof:
            self.close()
        elif not self._partial:
            self._partial = True
            self._since = self._listener.clock.now

    def _refuse(self, failure: Failure) -> None:
        """Respond with an error to a message that is not a valid request, and close the connection."""
        self._decoder = None
        self._keep_alive = False
        self._head_only = False
        request_id = self._listener.handler.on_refused(self, failure)
        self.send(problem(failure, request_id))

    # ---- between requests

    def _done(self) -> None:
        """Continue with the next request after a complete response, or close the connection."""
        exchange = self._exchange
        if self._decoder is not None and exchange is not None:
            if self._keep_alive and exchange.wants_body:
                self._response_done = True  # early response: the upload continues, and the next request follows it
                return
            exchange.on_body_discarded()
        self._response_done = False
        self._exchange = None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._keep_alive and self._decoder is None:
            self._since = self._listener.clock.now
            if self._paused_by:
                self._resume(PIPELINED | BODY)
            if self._buffer:
                if not self._advancing:
                    self._advance()
            elif self._eof:
                transport.close()
            return
        self._decoder = None
        self._linger(transport)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Stop sending, but read on for a bounded time (RFC 9112 §9.6).

        An immediate close could cause a reset that destroys the response before the client reads it.
        """
        if self._eof:
            transport.close()
            return
        self._linger_left = LINGER_BYTES
        self._buffer = b""
        self._since = self._listener.clock.now
        self._resume(PIPELINED | BODY)
        if transport.can_write_eof():
            transport.write_eof()

    def drain(self) -> None:
        """Close the connection now if it is idle, else after the current request."""
        self._keep_alive = False
        if self._exchange is None and self._linger_left < 0:
            self.close()

    def invalidate_head(self) -> None:
        """Forget the last request head and everything derived from it."""
        self._head = None
