"""Client connections over TLS, which begin and end differently from plain ones.

This event loop cannot half-close TLS: once one side has sent close_notify (RFC 8446 §6.1), the connection ends. Data
written before is still sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, cast

from passerelle.http1.server.body_writer import BodyWriter
from passerelle.http1.server.connection import LINGER_BYTES, ClientConnection
from passerelle.http1.server.failure_log import FailureLog
from passerelle.http1.server.listener import Listener, peer_address
from passerelle.http1.server.timeouts import LINGER_SECONDS
from passerelle.http1.tls_contexts import reason
from passerelle.http1.tls_handshake import Validated, alert_sender

if TYPE_CHECKING:
    import ssl


class TlsHandshake(asyncio.Protocol):
    """A client's connection during its handshake; a :class:`TlsClientConnection` takes over afterwards.

    ``peer`` is the address of the client, if it is known before the connection is made.
    """

    def __init__(self, listener: Listener, context: ssl.SSLContext, failures: FailureLog) -> None:
        self._listener = listener
        self._context = context
        self._failures = failures
        self._handshake: Coroutine[Any, Any, asyncio.Transport | None] | None = None
        self._transport: asyncio.Transport | None = None
        self.peer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake, or refuse the connection beyond the limits, before a handshake costs CPU time."""
        self._transport = cast(asyncio.Transport, transport)
        listener = self._listener
        limits = listener.limits
        self.peer = self.peer or peer_address(transport.get_extra_info("peername"))
        scarce = listener.descriptors is not None and listener.descriptors.refuses(transport)
        if listener.is_full or scarce or listener.draining or not listener.admits_handshake(self):
            listener.accepted += 1
            listener.refused += 1
            self._transport.abort()
            return
        alert_sender.set(self._send_alert)  # for the callbacks of this handshake, which inherit this context
        self._handshake = asyncio.get_running_loop().start_tls(
            self._transport,
            self,
            self._context,
            server_side=True,
            ssl_handshake_timeout=limits.head_timeout,
            ssl_shutdown_timeout=limits.write_timeout,
        )
        # The coroutine is driven here, not by a task: a task would start after the first bytes have arrived.
        self._step(None)

    def _send_alert(self, alert: bytes) -> None:
        """Send the alert of a failed handshake at once: the event loop discards what it has not yet written."""
        transport = self._transport
        if transport is not None and not transport.get_write_buffer_size():
            with contextlib.suppress(OSError):
                os.write(transport.get_extra_info("socket").fileno(), alert)

    def abort(self) -> None:
        """End the handshake and close its connection."""
        if self._transport is not None:
            self._transport.abort()

    def _step(self, waited_for: asyncio.Future[Any] | None) -> None:
        """Run the handshake until it has to wait."""
        handshake = cast("Coroutine[Any, Any, asyncio.Transport | None]", self._handshake)
        try:
            waiter: asyncio.Future[Any] = handshake.send(None)
        except StopIteration as end:
            self._listener.end_handshake(self)
            self._on_done(end.value)
        except Validated:
            self._listener.end_handshake(self)
            self._listener.accepted += 1
            self._listener.check_empty()
        except OSError as error:
            self._listener.end_handshake(self)
            self._failed(reason(error))
        else:
            waiter.add_done_callback(self._step)

    def _on_done(self, secured: asyncio.Transport | None) -> None:
        if secured is None or secured.is_closing():
            self._failed("the client left")
            return
        connection = TlsClientConnection(self._listener, cast(asyncio.Transport, self._transport))
        connection.peer = self.peer
        secured.set_protocol(connection)
        connection.connection_made(secured)

    def _failed(self, why: str) -> None:
        self._listener.accepted += 1
        self._listener.refused += 1
        if not self._listener.draining:
            self._failures.add(self.peer.decode(), why)
        self._listener.check_empty()


class TlsClientConnection(ClientConnection):
    """One client's connection over TLS; ``raw`` is the transport below TLS."""

    __slots__ = ("_raw",)

    scheme = b"https"

    def __init__(self, listener: Listener, raw: asyncio.Transport) -> None:
        super().__init__(listener)
        self._raw = raw

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The client's verified certificate, as :meth:`ssl.SSLSocket.getpeercert` returns it; None without one."""
        return self._transport.get_extra_info("peercert") or None if self._transport is not None else None

    def begin_file(self) -> int | None:
        """Return None: the kernel does not encrypt files."""
        return None

    def eof_received(self) -> bool:
        """Handle close_notify from the client: the connection ends."""
        self._eof = True
        if self._tunnel is not None:
            self._tunnel.write_eof()
        elif isinstance(self._exchange, BodyWriter):
            self._exchange.send_all()
        return False

    def write_eof(self) -> None:
        """End the connection: TLS has no half-close here."""
        self._end()

    def close(self) -> None:
        """Close the connection after all written data has been sent.

        If nothing is left to send, the raw transport is closed at once: an idle client may not read its close_notify.
        """
        if self._transport is not None:
            self._end()
            if not self._pending:
                self._raw.close()

    def _linger(self, transport: asyncio.Transport) -> None:
        self._buffer = b""
        self._end()

    def _end(self) -> None:
        """Send close_notify after the written data, and read on for a bounded time (RFC 9112 §9.6)."""
        if self._transport is not None and not self._transport.is_closing():
            self._paused_by = 0
            self._linger_left = LINGER_BYTES
            self._since = self._listener.clock.now
            self._transport.close()

    @property
    def _pending(self) -> int:
        """Bytes not yet accepted by the kernel, encrypted or not."""
        return self._raw.get_write_buffer_size() + super()._pending

    def check_time(self, now: float) -> None:
        """Enforce the time limits.

        A closing connection lasts until its last bytes are sent, at most ``write_timeout`` (of the TLS shutdown).
        """
        if self._linger_left < 0:
            super().check_time(now)
        elif now - self._since > LINGER_SECONDS and not self._pending:
            self._raw.abort()
