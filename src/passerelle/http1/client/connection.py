"""The upstream side of HTTP/1.1: one :class:`UpstreamConnection` per connection to an instance.

Length: one connection, its framing in both directions and its end; they share all of its state.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import Protocol, cast

from passerelle.errors import Failure, Kind
from passerelle.http1.body import ChunkedDecoder, CloseDecoder, CountedDecoder, Decoder
from passerelle.http1.head import ResponseHead
from passerelle.http1.interfaces import Tunnel, UpstreamReceiver

# A response's head, in bytes: larger than any honest one, smaller than an attack.
MAX_HEAD = 65_536
# How many 1xx responses may come before the final one.
MAX_INTERIM = 64
# How much of an answer is taken from a connection that is already lost: reads, and bytes a read.
LEFT_READS, LEFT_BYTES = 16, 65_536
# How long a connection that is being closed may take to send what was written, in seconds. An instance that does not
# read would hold it, and its place in the pool, for as long as it likes.
FLUSH_SECONDS = 2.0
# Why a connection may not be as it was when it was new (bits).
READING_PAUSED = 1
BODY_SENT = 2


class ConnectionOwner(Protocol):
    """Keeps an instance's connections: the pool, as its connections see it."""

    def release(self, connection: UpstreamConnection) -> None:
        """Take back ``connection``, which is ready for another request."""

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget ``connection``, which is closed."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to an instance. It carries one request at a time; it never pipelines."""

    __slots__ = (
        "_decoder",
        "_deferred",
        "_eof",
        "_held",
        "_interims",
        "_last",
        "_receiver",
        "_request_done",
        "_response_done",
        "_transport",
        "_tunnel",
        "_used",
        "_write",
        "fresh",
        "idle_since",
        "made",
        "poll",
        "pool",
    )

    def __init__(self, pool: ConnectionOwner) -> None:
        self.pool = pool
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None] = _discard
        # Events waiting in the kernel: EOF or bytes that nobody asked for make an idle connection unfit for a request
        # (RFC 9112 §9.2, §9.3.1). One poll(2), 0.4 us, on every reuse.
        self.poll: Callable[[int], list[tuple[int, int]]] = _always_readable
        self._receiver: UpstreamReceiver | None = None
        self._decoder: Decoder | None = None
        self._last: ResponseHead | None = None
        self._held = b""
        self._interims = 0
        self._deferred: list[bytes] = []
        self._eof = False
        self._request_done = True
        self._response_done = True
        self._tunnel: Tunnel | None = None
        self._used = 0  # what must be looked at before another request may have it: one load where there is nothing
        self.fresh = True
        self.made = False  # so that its end will be told
        self.idle_since = 0.0

    # ---- the event loop's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.made = True
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        self.poll = poll.poll

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        if exc is not None and self._receiver is not None and not self._response_done:
            self._read_remaining()
        self._transport = None
        self._write = _discard
        self.poll = _always_readable
        self.pool.lost(self)
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self._response_done:
            # Answered early: the rest of the request is read from the client, for no instance.
            receiver.on_upstream_resumed()
            return
        if self._decoder is None:
            kind = Kind.UPSTREAM_CLOSED if exc is None and not self._held else Kind.UPSTREAM_RESET
            receiver.on_failure(Failure(kind, str(exc or "closed before a response")))
        elif isinstance(self._decoder, CloseDecoder) and exc is None:
            receiver.on_end()
        else:
            receiver.on_failure(Failure(Kind.TRUNCATED, str(exc or "closed within a body")))

    def _read_remaining(self) -> None:
        """Read what the instance said before it reset the connection, where a write of ours failed before a read.

        An early answer may lie in the kernel then (RFC 9112 §9.5). Over TLS it is lost: its records need the transport.
        """
        transport = self._transport
        if transport is None or transport.get_extra_info("ssl_object") is not None:
            return
        self._request_done = False  # whatever the answer says, this connection is nobody's next one
        descriptor = transport.get_extra_info("socket").fileno()
        for _ in range(LEFT_READS):
            try:
                data = os.read(descriptor, LEFT_BYTES)
            except OSError:
                return
            if not data or self._receiver is None or self._response_done:
                return
            self.data_received(data)

    def eof_received(self) -> bool:
        """The instance sends no more; nothing useful can follow on this connection, so it is closed."""
        if self._tunnel is not None:
            self._eof = True
            self._tunnel.write_eof()
            return True
        return False

    def data_received(self, data: bytes) -> None:
        """Bytes of the instance."""
        if self._deferred:
            # What is deferred belongs to this request: until it is written, the connection is nobody else's.
            deferred, self._deferred = self._deferred, []
            done, self._request_done = self._request_done, False
            self.data_received(data)
            self._write_deferred(deferred)
            if done:
                self.end_request()
            return
        receiver = self._receiver
        if receiver is None or self._response_done:
            if self._tunnel is not None:
                self._tunnel.write(data)
            else:
                self.abort()  # nobody asked for these bytes (RFC 9112 §9.2): they must never answer anyone
            return
        if self._decoder is not None:
            self._body(receiver, data)
            return
        if self._held:
            data = self._held + data
            self._held = b""
        last = self._last
        if last is not None and data.startswith(last.raw):
            head = last  # services repeat their heads within a second; comparing is 50 times cheaper than parsing
            start = len(head.raw)
        else:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD:
                self._hold_data(receiver, data)
                return
            start = end + 4
            try:
                head = ResponseHead(data[:start])
            except Failure as failure:
                self._fail(receiver, failure)
                return
            self._last = head
        if head.content_length == len(data) - start and head.bodied and receiver.method != b"HEAD":
            self._finished(head.close)
            receiver.on_response(head, data[start:], True)
        else:
            self._head(receiver, head, data[start:])

    def pause_writing(self) -> None:
        """The instance does not keep up."""
        if self._tunnel is not None:
            self._tunnel.pause_reading()
        elif self._receiver is not None:
            self._receiver.on_upstream_paused()

    def resume_writing(self) -> None:
        """The instance caught up."""
        if self._tunnel is not None:
            self._tunnel.resume_reading()
        elif self._receiver is not None:
            self._receiver.on_upstream_resumed()

    # ---- responses in

    def _hold_data(self, receiver: UpstreamReceiver, data: bytes) -> None:
        if len(data) > MAX_HEAD:
            self._fail(receiver, Failure(Kind.BAD_RESPONSE, f"head over {MAX_HEAD} bytes"))
        elif not b"HTTP/1.".startswith(data[:7]):
            self._fail(receiver, Failure(Kind.BAD_RESPONSE, "not HTTP/1"))
        else:
            self._held = data

    def _head(self, receiver: UpstreamReceiver, head: ResponseHead, data: bytes) -> None:
        """A head whose body is not simply there in whole."""
        if head.status < 200:
            self._interim(receiver, head, data)
            return
        if not head.bodied or receiver.method == b"HEAD":
            self._finished(head.close or bool(data))
            receiver.on_response(head, b"", True)
            return
        decoder: Decoder
        if head.chunked:
            decoder = ChunkedDecoder(Kind.BAD_RESPONSE)
        elif head.content_length >= 0:
            decoder = CountedDecoder(head.content_length)
        else:
            decoder = CloseDecoder()
        self._decoder = decoder
        try:
            payload = decoder.feed(data) if data else b""
        except Failure as failure:
            self._fail(receiver, failure)
            return
        if decoder.done:
            self._finished(head.close or bool(decoder.rest))
            receiver.on_response(head, payload, True)
        else:
            receiver.on_response(head, payload, False)

    def _interim(self, receiver: UpstreamReceiver, head: ResponseHead, data: bytes) -> None:
        self._last = None
        if head.status == 101:
            if head.upgrade is None:
                self._fail(receiver, Failure(Kind.BAD_RESPONSE, "101 without Upgrade"))
                return
            self._response_done = True
            receiver.on_switch(head, data)
            return
        self._interims += 1
        if self._interims > MAX_INTERIM:
            self._fail(receiver, Failure(Kind.BAD_RESPONSE, f"more than {MAX_INTERIM} interim responses"))
            return
        receiver.on_interim(head)
        if data and self._receiver is receiver:
            self.data_received(data)

    def _body(self, receiver: UpstreamReceiver, data: bytes) -> None:
        decoder = cast(Decoder, self._decoder)
        try:
            payload = decoder.feed(data)
        except Failure as failure:
            self._fail(receiver, failure)
            return
        if payload:
            receiver.on_data(payload)
        if decoder.done and self._receiver is receiver:
            head = cast(ResponseHead, self._last)
            self._finished(head.close or bool(decoder.rest))
            receiver.on_end()

    def _finished(self, close: bool) -> None:
        """The response is complete: give the connection back, or end it, or wait for the rest of the request."""
        self._decoder = None
        self._interims = 0
        self._response_done = True
        if close:
            self.abort() if self._request_done else self.close()
        elif self._request_done:
            self._give_back()

    def _give_back(self) -> None:
        """Return to the pool, in the state of a new connection: nobody listens, it reads, nothing is left to send.

        A slow client pauses the connection that its response comes from. If the last bytes of that response are here
        already, nobody else would let it read again, and the next client's response would lie in the kernel.
        """
        self._receiver = None
        if self._used:
            transport = self._transport
            if self._deferred or transport is None or transport.get_write_buffer_size():
                # Answered before it took the request: the next one would wait behind what it may never read.
                self.abort()
                return
            if self._used & READING_PAUSED:
                transport.resume_reading()
            self._used = 0
        self.pool.release(self)

    def _fail(self, receiver: UpstreamReceiver, failure: Failure) -> None:
        self._receiver = None
        self.abort()
        receiver.on_failure(failure)

    # ---- requests out

    def send(self, receiver: UpstreamReceiver, data: bytes, complete: bool) -> None:
        """Send a request: its head and perhaps its body; ``complete`` says that nothing follows."""
        self._receiver = receiver
        self._request_done = complete
        self._response_done = False
        self._write(data)

    def send_body(self, data: bytes) -> None:
        """More of the request's body, framed.

        When an answer already waits in the kernel, it is read first: an instance that answers early and closes resets
        the connection at our next write, and with it its answer would be lost (RFC 9112 §9.5).
        """
        if self._deferred or self.poll(0):
            self._deferred.append(data)
            if self._receiver is not None:
                self._receiver.on_upstream_paused()
        else:
            self._write(data)

    def _write_deferred(self, deferred: list[bytes]) -> None:
        if self.open:
            self._write(b"".join(deferred))
        if self._receiver is not None:
            self._receiver.on_upstream_resumed()

    def end_request(self) -> None:
        """The request's body is complete."""
        self._request_done = True
        if self._response_done and self._receiver is not None and self._tunnel is None:
            if self.open:
                self._give_back()
            else:
                self._receiver = None

    @property
    def open(self) -> bool:
        """Whether bytes can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def reading(self) -> bool:
        """Whether the response's bytes may come."""
        return self._transport is not None and self._transport.is_reading()

    def pause_reading(self) -> None:
        """Stop the response's bytes from coming."""
        if self._transport is not None and not self._transport.is_closing():
            self._used |= READING_PAUSED
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let them come again."""
        if self._transport is not None and not self._transport.is_closing():
            self._used &= ~READING_PAUSED
            self._transport.resume_reading()

    def expect_body(self) -> None:
        """The request that is about to be sent has a body."""
        self._used |= BODY_SENT

    def set_receiver(self, receiver: UpstreamReceiver) -> None:
        """From here on ``receiver`` hears of the answer, in place of whoever sent the request."""
        self._receiver = receiver

    def detach(self) -> None:
        """The receiver no longer wants to hear anything; the connection cannot be used for another."""
        self._receiver = None
        self.abort()

    def begin_tunnel(self, tunnel: Tunnel) -> None:
        """Stop framing; bytes go to ``tunnel`` from here on (RFC 9110 §7.8)."""
        self._tunnel = tunnel
        self._receiver = None

    def write(self, data: bytes) -> None:
        """Raw bytes (a tunnel's)."""
        self._write(data)

    def write_eof(self) -> None:
        """The tunnel's other side sends no more; if this one does not either, that is the tunnel's end."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._eof:
            transport.close()
        else:
            transport.write_eof()

    def close(self) -> None:
        """Close once everything written has gone out, or after :data:`FLUSH_SECONDS`."""
        transport = self._transport
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, transport.abort)

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()


def _always_readable(timeout: int) -> list[tuple[int, int]]:
    """A connection that does not exist (any more) has always something waiting: its end."""
    return [(-1, select.POLLHUP)]


def _discard(data: bytes) -> None:
    """Writing to a connection that is gone changes nothing; its receiver is told by ``on_failure``."""
