"""Connections that begin with a header of the PROXY protocol, before TLS and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.failure_log import FailureLog
from passerelle.http1.server.listener import LOCAL_ADDRESS, LOCAL_PEER, Listener, peer_address
from passerelle.http1.server.proxy_protocol import MalformedHeader, parse_header


class PeerProtocol(Protocol):
    """The protocol that takes over a connection, whose client has the address ``peer``."""

    peer: bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection."""


class ProxiedConnection(asyncio.Protocol):
    """A connection of a trusted proxy until its header is complete; then ``accept()`` makes its next protocol.

    ``trusts(peer)`` is whether a peer may send a header. All others are refused, also those that send none: without
    it, the client is not known. The header has as long as the head of a request.
    """

    def __init__(
        self,
        listener: Listener,
        accept: Callable[[], asyncio.Protocol],
        trusts: Callable[[bytes], bool],
        failures: FailureLog,
    ) -> None:
        self._listener = listener
        self._accept = accept
        self._trusts = trusts
        self._failures = failures
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = b""
        self.peer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse a peer that is not trusted, and connections beyond the limits; wait for the header of others."""
        self._transport = cast(asyncio.Transport, transport)
        listener = self._listener
        scarce = listener.descriptors is not None and listener.descriptors.refuses(transport)
        name = transport.get_extra_info("peername")
        self.peer = peer_address(name)
        if name is None:
            self._refuse(None)  # the peer has reset the connection already, as probes do
        elif not self._trusts(self.peer):
            self._refuse("not a trusted proxy")
        elif scarce or not listener.admits_header(self):
            self._refuse(None)
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(listener.limits.head_timeout, self._refuse, "no header in time")

    def data_received(self, data: bytes) -> None:
        """Collect the header, and pass the connection on once it is complete."""
        if self._timer is None:
            return  # refused
        self._buffer += data
        try:
            header = parse_header(self._buffer)
        except MalformedHeader as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._pass_on(header.source, self._buffer[header.size :])

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection, whose proxy has left."""
        self._end()
        self._listener.check_empty()

    def abort(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._listener.headers.discard(self)

    def _refuse(self, why: str | None) -> None:
        """Close the connection. Without ``why``, it is over a limit, which other reports have."""
        self._end()
        self._listener.accepted += 1
        self._listener.refused += 1
        if why is not None:
            self._failures.add(self.peer.decode("ascii", "replace"), why)
        self.abort()

    def _pass_on(self, source: bytes | None, rest: bytes) -> None:
        self._end()
        transport = self._transport
        assert transport is not None
        protocol = self._accept()
        own = LOCAL_ADDRESS if self.peer == LOCAL_PEER else self.peer
        cast(PeerProtocol, protocol).peer = source if source is not None else own
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if not rest or transport.is_closing():
            return
        if isinstance(protocol, ClientConnection):
            protocol.data_received(rest)
        else:
            # The protocol of TLS is connected in the next turn of the loop, before the transport reads again.
            asyncio.get_running_loop().call_soon(_feed, transport, rest)


def _feed(transport: asyncio.Transport, data: bytes) -> None:
    """Pass bytes that were read before to the protocol of TLS, as the event loop would."""
    protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())
    while data and not transport.is_closing():
        buffer = memoryview(protocol.get_buffer(len(data)))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]
