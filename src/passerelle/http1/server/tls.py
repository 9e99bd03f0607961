"""Connections over TLS. They differ from plain ones where TLS does: in how they begin, and in how they end.

TLS has no half-close that this event loop could keep: when one side has said its last word (close_notify, RFC 8446
§6.1) the connection ends. What was written before is still sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from passerelle.http1.server.connection import LINGER_BYTES, ClientConnection
from passerelle.http1.server.listener import Listener
from passerelle.http1.server.response_writer import BodyWriter
from passerelle.http1.server.timeouts import LINGER_SECONDS
from passerelle.http1.tls_contexts import reason

if TYPE_CHECKING:
    import ssl


# Failed handshakes are told of once in so many seconds: anybody can make as many as they like.
QUIET = 10.0


class HandshakeFailureLog:
    """Says that handshakes fail, at most once every :data:`QUIET` seconds."""

    def __init__(self, warn: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._warn = warn
        self._clock = clock
        self._count = 0
        self._since = -QUIET

    def add(self, peer: str, why: str) -> None:
        """A handshake with ``peer`` failed."""
        self._count += 1
        now = self._clock()
        if now - self._since >= QUIET:
            more = f" ({self._count} since the last such line)" if self._count > 1 else ""
            self._warn(f"tls: handshake with {peer} failed: {why}{more}")
            self._count, self._since = 0, now


class TlsHandshake(asyncio.Protocol):
    """A client's connection until its handshake is done; then it is a :class:`TlsClientConnection`."""

    def __init__(self, listener: Listener, context: ssl.SSLContext, failures: HandshakeFailureLog) -> None:
        self._listener = listener
        self._context = context
        self._failures = failures
        self._handshake: Coroutine[Any, Any, asyncio.Transport | None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected. Beyond the limit it is turned away before a handshake costs anything."""
        self._transport = cast(asyncio.Transport, transport)
        listener = self._listener
        limits = listener.limits
        if len(listener.connections) + len(listener.handshakes) >= limits.connections or listener.draining:
            listener.accepted += 1
            listener.refused += 1
            self._transport.abort()
            return
        listener.handshakes.add(self)
        self._handshake = asyncio.get_running_loop().start_tls(
            self._transport,
            self,
            self._context,
            server_side=True,
            ssl_handshake_timeout=limits.head_timeout,
            ssl_shutdown_timeout=limits.write_timeout,
        )
        # Driven from here and not by a task, which would begin too late: the first bytes come before it.
        self._step(None)

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    def _step(self, waited_for: asyncio.Future[Any] | None) -> None:
        """Let the handshake go on until it must wait."""
        handshake = cast("Coroutine[Any, Any, asyncio.Transport | None]", self._handshake)
        try:
            waiter: asyncio.Future[Any] = handshake.send(None)
        except StopIteration as end:
            self._listener.handshakes.discard(self)
            self._on_done(end.value)
        except OSError as error:
            self._listener.handshakes.discard(self)
            self._failed(reason(error))
        else:
            waiter.add_done_callback(self._step)

    def _on_done(self, secured: asyncio.Transport | None) -> None:
        if secured is None or secured.is_closing():
            self._failed("the client left")
            return
        connection = TlsClientConnection(self._listener, cast(asyncio.Transport, self._transport))
        secured.set_protocol(connection)
        connection.connection_made(secured)

    def _failed(self, why: str) -> None:
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        self._listener.accepted += 1
        self._listener.refused += 1
        if not self._listener.draining:
            self._failures.add(str(name[0]) if isinstance(name, tuple) else "a client", why)
        self._listener.check_empty()


class TlsClientConnection(ClientConnection):
    """One client's connection over TLS; ``raw`` is the transport below."""

    __slots__ = ("_raw",)

    scheme = b"https"

    def __init__(self, listener: Listener, raw: asyncio.Transport) -> None:
        super().__init__(listener)
        self._raw = raw

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The client's certificate, verified, in the form of :meth:`ssl.SSLSocket.getpeercert`; None without one."""
        return self._transport.get_extra_info("peercert") or None if self._transport is not None else None

    def eof_received(self) -> bool:
        """The client said close_notify: that is its end."""
        self._eof = True
        if self._tunnel is not None:
            self._tunnel.write_eof()
        elif isinstance(self._exchange, BodyWriter):
            self._exchange.send_all()
        return False

    def write_eof(self) -> None:
        """The tunnel's other side sends no more."""
        self._end()

    def close(self) -> None:
        """Close once everything written has gone out. Idle clients do not read: nobody waits for their answer."""
        if self._transport is not None:
            self._end()
            if not self._pending:
                self._raw.close()

    def _linger(self, transport: asyncio.Transport) -> None:
        self._buffer = b""
        self._end()

    def _end(self) -> None:
        """Say close_notify after what was written, and read on for a bounded time (RFC 9112 §9.6)."""
        if self._transport is not None and not self._transport.is_closing():
            self._paused_by = 0
            self._linger_left = LINGER_BYTES
            self._since = self._listener.clock.now
            self._transport.close()

    @property
    def _pending(self) -> int:
        """As for plain connections, what is encrypted already included."""
        return self._raw.get_write_buffer_size() + super()._pending

    def check_time(self, now: float) -> None:
        """As for plain connections, but what ends has until its last bytes are taken (at most ``write_timeout``)."""
        if self._linger_left < 0:
            super().check_time(now)
        elif now - self._since > LINGER_SECONDS and not self._pending:
            self._raw.abort()
