"""Connections over TLS to instances."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from passerelle.http1.body import CloseDecoder
from passerelle.http1.client.connection import ConnectionOwner, UpstreamConnection


class TlsUpstreamConnection(UpstreamConnection):
    """One connection over TLS to an instance."""

    __slots__ = ("_closed_cleanly", "_lenient", "_strict")

    def __init__(self, pool: ConnectionOwner) -> None:
        super().__init__(pool)
        self._closed_cleanly = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, and the instance has proved who it is.

        Session tickets may wait in the kernel until the first answer: bytes alone make the connection unfit only
        between requests.
        """
        super().connection_made(transport)
        self._strict = self.poll
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        self.poll = self._lenient = poll.poll

    def send(self, receiver: Any, data: bytes, complete: bool) -> None:
        """Send a request."""
        if self._transport is not None:
            self.poll = self._lenient
        super().send(receiver, data, complete)

    def _finished(self, close: bool) -> None:
        if self._transport is not None:
            self.poll = self._strict
        super()._finished(close)

    def end_request(self) -> None:
        """The request's body is complete."""
        if self._response_done and self._transport is not None:
            self.poll = self._strict
        super().end_request()

    def eof_received(self) -> bool:
        """The instance said close_notify."""
        self._closed_cleanly = True
        if self._tunnel is not None:
            self._tunnel.write_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone. A body that ends with it is whole only after close_notify (RFC 9112 §9.8)."""
        if exc is None and not self._closed_cleanly and isinstance(self._decoder, CloseDecoder):
            exc = ConnectionAbortedError("closed without close_notify")
        super().connection_lost(exc)

    def write_eof(self) -> None:
        """The tunnel's other side sends no more."""
        self.close()
