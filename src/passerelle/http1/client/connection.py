"""Upstream connections: one :class:`UpstreamConnection` per connection to an instance.

Over 400 lines: framing in both directions and the end of the connection share all of its state.
"""

from __future__ import annotations

import asyncio
import enum
import os
import select
from collections.abc import Callable
from typing import Protocol, cast

from passerelle.errors import Failure, Kind
from passerelle.http1.body import ChunkedDecoder, CloseDecoder, CountedDecoder, Decoder
from passerelle.http1.head import ResponseHead
from passerelle.http1.interfaces import Tunnel, UpstreamReceiver

# Maximum size of a response head in bytes: larger than any legitimate head, small enough to bound memory.
MAX_HEAD = 65_536
# Maximum number of 1xx responses before the final one.
MAX_INTERIM = 64
# How much is read from a connection that is already lost: number of reads, and bytes per read.
REMAINING_READS, REMAINING_BYTES = 16, 65_536
# Seconds that a closing connection may take to send its written data. An instance that does not read would otherwise
# hold the connection, and its place in the pool, indefinitely.
FLUSH_SECONDS = 2.0
# What has happened since the connection was released, and must be undone before its next request (bits).
READING_PAUSED = 1
BODY_SENT = 2
CLAIMED = 4


class Claim(enum.Enum):
    """What a connection takes from the pool besides an ordinary place, or in its stead."""

    NONE = enum.auto()
    RESERVE = enum.auto()  # a place of the reserve
    ASIDE = enum.auto()  # set aside: no place
    TUNNEL = enum.auto()  # a tunnel: no place


class ConnectionOwner(Protocol):
    """Owner of an instance's connections (the pool), as the connections see it."""

    def release(self, connection: UpstreamConnection) -> None:
        """Take back ``connection``, which is ready for another request."""

    def lost(self, connection: UpstreamConnection) -> None:
        """Remove ``connection``, which is closed."""

    def take_back(self, connection: UpstreamConnection) -> None:
        """Count ``connection`` again, if it was set aside: its client is not the slow side any more."""

    def on_tunnel(self, connection: UpstreamConnection) -> None:
        """Count ``connection`` no more: it is a tunnel."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to an instance. It carries one request at a time and never pipelines."""

    __slots__ = (
        "_decoder",
        "_deferred",
        "_eof",
        "_interims",
        "_last_head",
        "_partial_head",
        "_receiver",
        "_request_done",
        "_response_done",
        "_seen",
        "_transport",
        "_tunnel",
        "_used",
        "_write",
        "address",
        "claimed",
        "client",
        "connected",
        "connecting",
        "fresh",
        "idle_since",
        "poll",
        "pool",
    )

    def __init__(self, pool: ConnectionOwner) -> None:
        self.pool = pool
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None] = _discard
        # Events pending in the kernel. EOF or unsolicited bytes make an idle connection unfit for a request (RFC 9112
        # §9.2, §9.3.1). One poll(2), 0.4 us, at every reuse.
        self.poll: Callable[[int], list[tuple[int, int]]] = _always_readable
        self._receiver: UpstreamReceiver | None = None
        self._decoder: Decoder | None = None
        self._last_head: ResponseHead | None = None
        self._partial_head = b""
        self._interims = 0
        self._deferred: list[bytes] = []
        self._eof = False
        self._request_done = True
        self._response_done = True
        self._tunnel: Tunnel | None = None
        self._used = 0  # bits of READING_PAUSED and the others; 0, the common case, costs one load at release
        self._seen = 0  # what the last sweep saw: the identity of the receiver
        self.claimed = Claim.NONE
        self.client: bytes | None = None  # that the claim is counted for
        self.fresh = True
        self.connecting = 0.0  # how long it took to open (seconds)
        self.connected = False  # whether it was ever connected; only then connection_lost() is called
        self.idle_since = 0.0
        self.address = ""  # the address behind the name of the target, if it is a name

    # ---- the event loop's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport of the established connection, and register its socket for polling."""
        self.connected = True
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        self.poll = poll.poll

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection, closed by either side, to its owner and its receiver."""
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
            # Early response: the rest of the request body is still read from the client, but sent nowhere.
            receiver.on_upstream_resumed()
            return
        if self._decoder is None:
            kind = Kind.UPSTREAM_CLOSED if exc is None and not self._partial_head else Kind.UPSTREAM_RESET
            receiver.on_failure(Failure(kind, str(exc or "connection closed before a response")))
        elif isinstance(self._decoder, CloseDecoder) and exc is None:
            receiver.on_end()
        else:
            receiver.on_failure(Failure(Kind.TRUNCATED, str(exc or "connection closed within a body")))

    def _read_remaining(self) -> None:
        """Read what the instance sent before it reset the connection, if a write failed before a read.

        An early response may still be in the kernel then (RFC 9112 §9.5). Over TLS it is lost, because decryption needs
        the transport.
        """
        transport = self._transport
        if transport is None or transport.get_extra_info("ssl_object") is not None:
            return
        self._request_done = False  # whatever the response says, the connection is not reused
        descriptor = transport.get_extra_info("socket").fileno()
        for _ in range(REMAINING_READS):
            try:
                data = os.read(descriptor, REMAINING_BYTES)
            except OSError:
                return
            if not data or self._receiver is None or self._response_done:
                return
            self.data_received(data)

    def eof_received(self) -> bool:
        """Close the connection: the instance sends no more. A tunnel stays half-open."""
        if self._tunnel is not None:
            self._eof = True
            self._tunnel.write_eof()
            return True
        return False

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the instance: a response, or tunnel data."""
        if self._deferred:
            # Deferred data belongs to the current request: until it is written, the connection must not be released.
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
                self.abort()  # unsolicited bytes (RFC 9112 §9.2) must never become the response to a later request
            return
        if self._decoder is not None:
            self._on_body(receiver, data)
            return
        if self._partial_head:
            data = self._partial_head + data
            self._partial_head = b""
        last = self._last_head
        if last is not None and data[: len(last.raw)] == last.raw:
            head = last  # services repeat their heads within a second; a comparison is 20 times cheaper than parsing
            start = len(head.raw)
        else:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD:
                self._keep_partial_head(receiver, data)
                return
            start = end + 4
            try:
                head = ResponseHead(data[:start], last)
            except Failure as failure:
                self._fail(receiver, failure)
                return
            self._last_head = head
        if head.content_length == len(data) - start and head.bodied and receiver.method != b"HEAD":
            self._on_response_complete(head.close)
            receiver.on_response(head, data[start:], True)
        else:
            self._on_head(receiver, head, data[start:])

    def pause_writing(self) -> None:
        """Pause the source of the data: the instance reads too slowly."""
        if self._tunnel is not None:
            self._tunnel.pause_reading()
        elif self._receiver is not None:
            self._receiver.on_upstream_paused()

    def resume_writing(self) -> None:
        """Resume the source of the data."""
        if self._tunnel is not None:
            self._tunnel.resume_reading()
        elif self._receiver is not None:
            self._receiver.on_upstream_resumed()

    # ---- responses in

    def _keep_partial_head(self, receiver: UpstreamReceiver, data: bytes) -> None:
        if len(data) > MAX_HEAD:
            self._fail(receiver, Failure(Kind.BAD_RESPONSE, f"head over {MAX_HEAD} bytes"))
        elif not b"HTTP/1.".startswith(data[:7]):
            self._fail(receiver, Failure(Kind.BAD_RESPONSE, "not HTTP/1"))
        else:
            self._partial_head = data

    def _on_head(self, receiver: UpstreamReceiver, head: ResponseHead, data: bytes) -> None:
        """Handle a head whose body is not complete in the same read, or that has no body."""
        if head.status < 200:
            self._on_interim(receiver, head, data)
            return
        if not head.bodied or receiver.method == b"HEAD":
            self._on_response_complete(head.close or bool(data))
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
            self._on_response_complete(head.close or bool(decoder.rest))
            receiver.on_response(head, payload, True)
        else:
            receiver.on_response(head, payload, False)

    def _on_interim(self, receiver: UpstreamReceiver, head: ResponseHead, data: bytes) -> None:
        self._last_head = None
        if head.status == 101:
            if head.upgrade is None:
                self._fail(receiver, Failure(Kind.BAD_RESPONSE, "101 without Upgrade or its Connection option"))
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

    def _on_body(self, receiver: UpstreamReceiver, data: bytes) -> None:
        decoder = cast(Decoder, self._decoder)
        try:
            payload = decoder.feed(data)
        except Failure as failure:
            self._fail(receiver, failure)
            return
        if payload:
            receiver.on_data(payload)
        if decoder.done and self._receiver is receiver:
            head = cast(ResponseHead, self._last_head)
            self._on_response_complete(head.close or bool(decoder.rest))
            receiver.on_end()

    def _on_response_complete(self, close: bool) -> None:
        """Complete the response: release the connection, close it, or wait for the end of the request."""
        self._decoder = None
        self._interims = 0
        self._response_done = True
        if not self._request_done:
            if close:
                self.close()
            if self._receiver is not None:
                self._receiver.on_request_sent()  # an early response: the rest of the request changes nothing
        elif close:
            self.abort()
        else:
            self._release()

    def _release(self) -> None:
        """Release the connection to its owner in the state of a new one: no receiver, reading, no unsent data.

        A slow client pauses reading on the connection that its response comes from. If the last bytes of that response
        have already arrived, nothing else would resume reading, and the next response would stay in the kernel.
        """
        self._receiver = None
        if self._used:
            transport = self._transport
            if self._deferred or transport is None or transport.get_write_buffer_size():
                # The instance responded before it read the whole request: the next request would queue behind data that
                # may never be read.
                self.abort()
                return
            if self._used & READING_PAUSED:
                transport.resume_reading()
            if self._used & CLAIMED:
                self.pool.take_back(self)
            self._used = 0
        self.pool.release(self)

    def _fail(self, receiver: UpstreamReceiver, failure: Failure) -> None:
        self._receiver = None
        self.abort()
        receiver.on_failure(failure)

    # ---- requests out

    def send(self, receiver: UpstreamReceiver, data: bytes, complete: bool) -> None:
        """Send a request's head and the first bytes of its body, or all of it if ``complete``."""
        self._receiver = receiver
        self._request_done = complete
        self._response_done = False
        self._write(data)

    @property
    def defers(self) -> bool:
        """Whether body data is kept back until what the instance has sent, or the end of the connection, is read."""
        return bool(self._deferred)

    def send_body(self, data: bytes) -> None:
        """Send more of the request body, framed already.

        If a response is waiting in the kernel, it is read first: an instance that responds early and closes resets the
        connection at the next write, which would destroy its response (RFC 9112 §9.5).
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
        """Complete the request body."""
        self._request_done = True
        if self._used & CLAIMED:
            self.pool.take_back(self)
        if not self._response_done and self._receiver is not None:
            self._receiver.on_request_sent()
        if self._response_done and self._receiver is not None and self._tunnel is None:
            if self.open:
                self._release()
            else:
                self._receiver = None

    @property
    def open(self) -> bool:
        """Whether bytes can still be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def reading(self) -> bool:
        """Whether reading the response is not paused."""
        return self._transport is not None and self._transport.is_reading()

    def pause_reading(self) -> None:
        """Stop reading the response."""
        if self._transport is not None and not self._transport.is_closing():
            self._used |= READING_PAUSED
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the response again."""
        if self._transport is not None and not self._transport.is_closing():
            self._used &= ~READING_PAUSED
            self._transport.resume_reading()

    def expect_body(self) -> None:
        """Note that the next request has a body."""
        self._used |= BODY_SENT

    def claim(self, claim: Claim, client: bytes | None) -> None:
        """Note what the connection takes from the pool, on behalf of ``client``."""
        self.claimed = claim
        self.client = client
        self._used |= CLAIMED

    def has_lasted(self) -> bool:
        """Whether the transfer of one body, in either direction, was in progress at the last call and still is."""
        receiver, seen = self._receiver, self._seen
        transfers = receiver is not None and (self._decoder is not None or not self._request_done)
        self._seen = id(receiver) if transfers else 0
        return transfers and seen == self._seen

    def client_key(self) -> bytes | None:
        """Return the client of the request in progress, as the pool counts it."""
        return self._receiver.client_key() if self._receiver is not None else None

    def set_receiver(self, receiver: UpstreamReceiver) -> None:
        """Deliver the response to ``receiver`` from now on, in place of the receiver given to :meth:`send`."""
        self._receiver = receiver

    def detach(self) -> None:
        """Drop the receiver and close the connection, which cannot carry another request."""
        self._receiver = None
        self.abort()

    def begin_tunnel(self, tunnel: Tunnel) -> None:
        """Stop framing and pass bytes to ``tunnel`` from now on (RFC 9110 §7.8)."""
        self._tunnel = tunnel
        self._receiver = None
        self.pool.on_tunnel(self)

    def write(self, data: bytes) -> None:
        """Send raw bytes of a tunnel."""
        self._write(data)

    def write_eof(self) -> None:
        """Close the sending direction of a tunnel; close the connection if the instance has closed its side, too."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._eof:
            transport.close()
        else:
            transport.write_eof()

    def close(self) -> None:
        """Close the connection after all written data has been sent, or after :data:`FLUSH_SECONDS`."""
        transport = self._transport
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, transport.abort)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def _always_readable(timeout: int) -> list[tuple[int, int]]:
    """Report a pending event for a connection that is not open: its end."""
    return [(-1, select.POLLHUP)]


def _discard(data: bytes) -> None:
    """Drop data for a closed connection. Its receiver is notified by ``on_failure``."""
