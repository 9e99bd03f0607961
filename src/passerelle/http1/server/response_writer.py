"""Responses to a client, framed for its capabilities (RFC 9112 §6.1): HTTP version, HEAD, keep-alive."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from passerelle.http.messages import Response
from passerelle.http1.body import LAST_CHUNK, Decoder, encode_chunk
from passerelle.http1.head import ResponseHead
from passerelle.http1.interfaces import ServerExchange, Tunnel
from passerelle.http1.serialize import serialize
from passerelle.http1.server.body_writer import SLICE, BodyWriter
from passerelle.http1.server.listener import Listener
from passerelle.http1.websocket import GOING_AWAY, FrameTracker

RESET = struct.pack("ii", 1, 0)

# Reasons why reading is paused (bits).
PIPELINED = 1
BODY = 2


class ResponseWriter(asyncio.Protocol, ABC):
    """Writing half of a client's connection.

    :class:`passerelle.http1.server.connection.ClientConnection` adds the reading half.
    """

    __slots__ = (
        "_buffer",
        "_chunking",
        "_decoder",
        "_eof",
        "_exchange",
        "_frames",
        "_head_only",
        "_keep_alive",
        "_listener",
        "_paused_by",
        "_progress",
        "_response_done",
        "_since",
        "_started",
        "_streamed",
        "_transport",
        "_tunnel",
        "_tunnel_half_closed",
        "_tunnel_idle",
        "_write",
        "idled",
        "peer",
        "sent",
        "version11",
    )

    scheme = b"http"

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes | memoryview], None] = discard
        self._exchange: ServerExchange | None = None
        self._decoder: Decoder | None = None
        self._buffer = b""
        self._tunnel: Tunnel | None = None
        self._tunnel_idle = inf
        self._response_done = False
        self._chunking = False
        self._eof = False
        self._tunnel_half_closed = False
        self._frames: FrameTracker | None = None
        self._streamed: ResponseHead | None = None  # the head of the last response in chunks
        self._head_only = False
        self._keep_alive = True
        self._paused_by = 0
        self._progress = 0
        self._since = listener.clock.now
        self._started = False
        self.idled = False  # closed because its tunnel was idle
        self.peer = b""
        self.sent = 0
        self.version11 = True

    def send_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Send a response's head with the first bytes of its body, or all of it if ``complete``."""
        whole = head.whole
        usual = complete and self._keep_alive and self.version11 and self._decoder is None
        if usual and whole is not None and head.content_length == len(data):
            self._write(whole + data if not self._head_only else whole)
            self.sent += len(data)
            self._done()
            return
        self._begin_response(head.relay, head, data, complete)

    def send_head(self, relay: bytes, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Send a response as :meth:`send_response` does, with ``relay`` in place of the field lines of ``head``."""
        whole = complete and head.has_date and head.content_length == len(data)
        if whole and self._keep_alive and self.version11 and self._decoder is None:
            self._write(b"%b\r\n%b" % (relay, data if not self._head_only else b""))
            self.sent += len(data)
            self._done()
            return
        self._begin_response(relay, head, data, complete)

    def _begin_response(self, relay: bytes, head: ResponseHead, data: bytes, complete: bool) -> None:
        lines = [relay]
        if not head.has_date:
            lines.append(self._listener.clock.date)
        bodied = not (self._head_only or head.status < 200 or head.status in (204, 304))
        if bodied and (head.content_length < 0 or head.chunked):
            if complete:
                lines.append(b"Content-Length: %d\r\n" % len(data))
            elif self.version11:
                self._chunking = True
                self._streamed = head
                lines.append(b"Transfer-Encoding: chunked\r\n")
            else:
                self._keep_alive = False  # HTTP/1.0: the body ends with the connection
        if head.close and self._decoder is not None:
            self._keep_alive = False  # the service closes its connection, and so reads no more of the upload
        self._append_last_lines(lines)
        self._started = True
        if data and bodied:
            self.sent += len(data)
            lines.append(encode_chunk(data) if self._chunking else data)
        self._write(b"".join(lines))
        if complete:
            self._done()

    def _append_last_lines(self, lines: list[bytes]) -> None:
        """Append the Connection line, if this response needs one, and the empty line."""
        if self._decoder is not None and not (self._exchange is not None and self._exchange.wants_body):
            self._keep_alive = False  # the rest of the upload is not read (RFC 9112 §9.6)
        if not self._keep_alive:
            lines.append(b"Connection: close\r\n")
        elif not self.version11:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")

    def send_body(self, data: bytes) -> None:
        """Send more of the response body; ``data`` is not empty."""
        self._progress += 1
        if self._head_only:
            return
        self.sent += len(data)
        self._write(encode_chunk(data) if self._chunking else data)

    def begin_file(self) -> int | None:
        """Prepare for :meth:`send_file` (see :class:`passerelle.http1.interfaces.ServerConnection`)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return None
        transport.set_write_buffer_limits(high=0)
        descriptor: int = transport.get_extra_info("socket").fileno()
        return descriptor

    def send_file(self, connection: int, file: int, offset: int, most: int) -> int | None:
        """Have the kernel send a part of ``file`` (see :class:`passerelle.http1.interfaces.ServerConnection`)."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return None
        try:
            sent = os.sendfile(connection, file, offset, most)
        except (BlockingIOError, ConnectionError):
            return None  # the next write discovers that the client has gone
        self._progress += 1
        self.sent += sent
        return sent

    def end_file(self) -> None:
        """End what :meth:`begin_file` has begun."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.set_write_buffer_limits()

    def end_response(self) -> None:
        """Complete the response body."""
        if self._chunking:
            self._write(LAST_CHUNK)
        self._done()

    def send(self, response: Response) -> None:
        """Send a complete response that the gateway made itself."""
        self.send_made(serialize(response), response.body, response.status not in (204, 304))

    def send_made(self, head: bytes, body: bytes, counted: bool = True) -> None:
        """Send a complete response whose status line and field lines are serialized already (``head``).

        ``counted``: add Content-Length.
        """
        lines = [head, self._listener.clock.date]
        if counted:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        self._append_last_lines(lines)
        if body and not self._head_only:
            self.sent += len(body)
            lines.append(body)
        self._started = True
        self._write(b"".join(lines))
        self._done()

    def send_ready(self, message: bytes, size: int) -> bool:
        """Send a complete message with a body of ``size`` bytes that was serialized for a persistent connection.

        Return False, and send nothing, if this connection needs other framing.
        """
        if not (self._keep_alive and self.version11) or self._head_only:
            return False
        self.sent += size
        self._write(message)
        if self._buffer or self._eof or self._paused_by:
            self._done()
        else:
            self._since = self._listener.clock.now  # the only part of _done() that is needed here; saves 0.1 us
        return True

    def send_stored(self, head: bytes, body: bytes | memoryview) -> None:
        """Send a stored response; ``head`` is its status line and all its field lines."""
        lines: list[Any] = [head]
        self._append_last_lines(lines)
        self._started = True
        if len(body) > SLICE and not self._head_only and self._decoder is None:
            self.sent += len(body)
            self._write(b"".join(lines))
            self._exchange = rest = BodyWriter(self, body)
            rest.send()
            return
        if not self._head_only:
            self.sent += len(body)
            lines.append(body)
        self._write(b"".join(lines))
        self._done()

    def send_slice(self, data: memoryview) -> None:
        """Send more of a stored body."""
        self._progress += 1
        self._write(data)

    def send_interim(self, relay: bytes) -> None:
        """Send a 1xx response (RFC 9110 §15.2), except to an HTTP/1.0 client."""
        if self.version11 and not self._started:
            self._write(relay + b"\r\n")

    def send_switch(self, head: ResponseHead, added: bytes) -> None:
        """Send 101 (Switching Protocols) with the field lines ``added``.

        No message is framed on this connection afterwards.
        """
        self._started = True
        self._write(b"%b%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (head.relay, added, head.upgrade or b""))

    @property
    def local(self) -> bool:
        """Whether the client is on this machine."""
        return self.peer.startswith(b"127.") or self.peer == b"::1"

    @property
    def local_address(self) -> object:
        """The address that the client has connected to, as :meth:`socket.socket.getsockname` returns it."""
        return self._transport.get_extra_info("sockname") if self._transport is not None else None

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The client's verified TLS certificate; None on a plain connection."""
        return None

    @property
    def exchange(self) -> ServerExchange | None:
        """The exchange of the current request; None between requests."""
        return self._exchange

    @property
    def response_started(self) -> bool:
        """Whether a byte of the final response was written."""
        return self._started

    @property
    def ended(self) -> bool:
        """Whether the client has closed its sending side (half-close)."""
        return self._eof

    @property
    def closing(self) -> bool:
        """Whether the connection is closing or closed, so that no further data reaches the client."""
        return self._transport is None or self._transport.is_closing()

    @property
    def receiving(self) -> bool:
        """Whether the request body is still incomplete."""
        return self._decoder is not None

    def abort(self) -> None:
        """Close the connection at once; the client sees an incomplete message (RFC 9112 §8)."""
        if self._transport is not None:
            self._transport.abort()

    def cut_short(self) -> None:
        """End a response whose body cannot be completed, so that the client sees the truncation (RFC 9112 §8)."""
        transport = self._transport
        if transport is None:
            return
        if not self.version11:
            # HTTP/1.0: a body that ends with the connection is recognizably truncated only after a reset.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
        else:
            self.close()

    def begin_tunnel(self, tunnel: Tunnel, idle: float, frames: FrameTracker | None) -> bytes:
        """Stop framing and pass bytes to ``tunnel`` from now on. Return the bytes already read (RFC 9110 §7.8).

        Both sides are closed when neither sends anything for ``idle`` seconds.
        """
        self._tunnel = tunnel
        self._tunnel_idle = idle
        self._frames = frames
        self._progress += 1  # the idle time starts now
        early, self._buffer = self._buffer, b""
        self._resume(PIPELINED | BODY)
        return early

    def write(self, data: bytes) -> None:
        """Send raw bytes of a tunnel."""
        self._progress += 1
        self.sent += len(data)
        if self._frames is not None:
            self._frames.feed(data)
        self._write(data)

    def end_stream(self) -> None:
        """End an event stream or a WebSocket in order, because the gateway stops.

        Neither has an end of its own, and a reader of either recognizes an incomplete event or message. Anything else
        is unchanged: a message that is cut must not look complete.
        """
        if self._tunnel is not None:
            if self._frames is not None and self._frames.may_close:
                self._write(GOING_AWAY)
                self._write = discard
        elif self._chunking and self._exchange is not None and _is_event_stream(self._streamed):
            self._write(LAST_CHUNK)
            self._write = discard
            self.close()

    def write_eof(self) -> None:
        """Close the sending direction of a tunnel; close the connection if the client has closed its side, too."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._eof:
            transport.close()
        else:
            self._tunnel_half_closed = True
            transport.write_eof()

    def close(self) -> None:
        """Close the connection after all written data has been sent."""
        if self._transport is not None:
            self._transport.close()

    def pause_reading(self) -> None:
        """Stop reading the request body."""
        self._pause(BODY)

    def resume_reading(self) -> None:
        """Read the request body again."""
        self._resume(BODY)

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

    @abstractmethod
    def _done(self) -> None:
        """Continue with the next request after a complete response, or close the connection."""


def _is_event_stream(head: ResponseHead | None) -> bool:
    value = (head.get(b"content-type") or b"") if head is not None else b""
    return value.partition(b";")[0].strip().lower() == b"text/event-stream"


def discard(data: bytes | memoryview) -> None:
    """Drop data for a closed connection. The exchange is notified by ``on_client_lost``."""
