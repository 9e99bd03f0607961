"""TLS connections to instances."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from passerelle.http1.body import CloseDecoder
from passerelle.http1.client.connection import ConnectionOwner, UpstreamConnection


class TlsUpstreamConnection(UpstreamConnection):
    """One TLS connection to an instance."""

    __slots__ = ("_closed_cleanly", "_poll_hangup", "_poll_input")

    def __init__(self, pool: ConnectionOwner) -> None:
        super().__init__(pool)
        self._closed_cleanly = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport after the handshake has verified the instance.

        Session tickets may wait in the kernel until the first response, so pending bytes make a connection unfit only
        between requests, not before its first one.
        """
        super().connection_made(transport)
        self._poll_input = self.poll
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        self.poll = self._poll_hangup = poll.poll

    def send(self, receiver: Any, data: bytes, complete: bool) -> None:
        """Send a request's head and the first bytes of its body, or all of it if ``complete``."""
        if self._transport is not None:
            self.poll = self._poll_hangup
        super().send(receiver, data, complete)

    def _on_response_complete(self, close: bool) -> None:
        if self._transport is not None:
            self.poll = self._poll_input
        super()._on_response_complete(close)

    def end_request(self) -> None:
        """Complete the request body."""
        if self._response_done and self._transport is not None:
            self.poll = self._poll_input
        super().end_request()

    def eof_received(self) -> bool:
        """Handle close_notify from the instance: the connection ends."""
        self._closed_cleanly = True
        if self._tunnel is not None:
            self._tunnel.write_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection.

        A body that ends with the connection is complete only after close_notify (RFC 9112 §9.8).
        """
        if exc is None and not self._closed_cleanly and isinstance(self._decoder, CloseDecoder):
            exc = ConnectionAbortedError("closed without close_notify")
        super().connection_lost(exc)

    def write_eof(self) -> None:
        """Close the connection: TLS has no half-close here."""
        self.close()
