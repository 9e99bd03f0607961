"""State shared by all client connections of one worker: limits, counters, and the set of open connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol

from passerelle.http1.clock import Clock
from passerelle.http1.interfaces import RequestHandler, ServerConnection
from passerelle.http1.server.descriptor_limit import DescriptorLimit


class Handshake(Protocol):
    """A TLS handshake in progress, or a header of the PROXY protocol that is not complete."""

    peer: bytes

    def abort(self) -> None:
        """End the handshake and close its connection."""


LOCAL_PEER = b"local"
"""The client of a Unix socket, which has no address."""

LOCAL_ADDRESS = b"127.0.0.1"
"""The address that a client of a Unix socket has in lists, limits, logs and fields: it is on this machine."""


def peer_address(name: object) -> bytes:
    """Return the address of a client, whose socket has the peer ``name``.

    An IPv4 client of a listener for both families has an IPv4-mapped address (RFC 4291 §2.5.5.2); it is the same client
    as on an IPv4 listener, in all lists of addresses, limits and logs.
    """
    if not isinstance(name, tuple):
        return LOCAL_PEER
    return str(name[0]).removeprefix("::ffff:").encode("ascii")


class ListenerLimits:
    """Limits for client connections: sizes in bytes, times in seconds, ``body_rate`` in bytes per second.

    ``per_client`` is the maximum number of connections of one client (None: unlimited). ``client_of`` maps an address
    to the client that is counted, or to None for an address without a limit.
    """

    __slots__ = (
        "body_rate",
        "body_timeout",
        "client_of",
        "connections",
        "fields",
        "head",
        "head_timeout",
        "idle_timeout",
        "per_client",
        "write_timeout",
    )

    def __init__(
        self,
        *,
        head: int = 32_768,
        fields: int = 100,
        head_timeout: float = 10.0,
        idle_timeout: float = 75.0,
        body_timeout: float = 30.0,
        body_rate: int = 240,
        write_timeout: float = 60.0,
        connections: int = 10_000,
        per_client: int | None = None,
        client_of: Callable[[bytes], bytes | None] = lambda peer: peer,
    ) -> None:
        self.head = head
        self.fields = fields
        self.head_timeout = head_timeout
        self.idle_timeout = idle_timeout
        self.body_timeout = body_timeout
        self.body_rate = body_rate
        self.write_timeout = write_timeout
        self.connections = connections
        self.per_client = per_client
        self.client_of = client_of


class Listener:
    """State that all client connections of one worker share.

    ``accepted`` and ``refused`` count connections since the start. ``paused`` is the number of connections whose client
    reads too slowly now. ``handshakes`` holds the TLS handshakes in progress, ``headers`` the connections of proxies
    whose header of the PROXY protocol is not complete, so that the client is not known.
    ``descriptors`` refuses connections where file descriptors run out; None for no such check.
    """

    __slots__ = (
        "_counts",
        "_emptied",
        "accepted",
        "clock",
        "connections",
        "descriptors",
        "draining",
        "handler",
        "handshakes",
        "headers",
        "limits",
        "paused",
        "refused",
    )

    def __init__(self, handler: RequestHandler, limits: ListenerLimits, clock: Clock) -> None:
        self.clock = clock
        self.handler = handler
        self.limits = limits
        self._counts: dict[bytes, int] = {}  # open connections per client, if limited
        self.connections: set[ServerConnection] = set()
        self.handshakes: set[Handshake] = set()
        self.headers: set[Handshake] = set()
        self.accepted = 0
        self.paused = 0
        self.refused = 0
        self.descriptors: DescriptorLimit | None = None
        self.draining = False
        self._emptied: asyncio.Event | None = None

    def apply_limits(self, limits: ListenerLimits) -> None:
        """Apply ``limits`` from now on.

        Open connections stay open; their next request heads are parsed again, under the new limits.
        """
        self.limits = limits
        self._counts = {}
        for connection in self.connections:
            connection.invalidate_head()
            if limits.per_client is not None:
                self._count(connection.peer, inf)
        if limits.per_client is not None:
            for handshake in self.handshakes:
                self._count(handshake.peer, inf)

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as allowed, handshakes and headers included."""
        return len(self.connections) + len(self.handshakes) + len(self.headers) >= self.limits.connections

    def admits(self, connection: ServerConnection) -> bool:
        """Add ``connection`` unless its client has reached its limit; return whether it was added."""
        most = self.limits.per_client
        if most is not None and not self._count(connection.peer, most):
            return False
        self.connections.add(connection)
        return True

    def admits_handshake(self, handshake: Handshake) -> bool:
        """Add ``handshake``, whose connection counts from now on, as :meth:`admits` does."""
        most = self.limits.per_client
        if most is not None and not self._count(handshake.peer, most):
            return False
        self.handshakes.add(handshake)
        return True

    def admits_header(self, waiting: Handshake) -> bool:
        """Add ``waiting``, a connection whose client is not known yet, unless there are as many as allowed."""
        if self.is_full or self.draining:
            return False
        self.headers.add(waiting)
        return True

    def end_handshake(self, handshake: Handshake) -> None:
        """Remove ``handshake``, whose connection is lost or is admitted again as a connection."""
        if handshake in self.handshakes:
            self.handshakes.discard(handshake)
            self._uncount(handshake.peer)

    def _count(self, peer: bytes, most: float) -> bool:
        client = self.limits.client_of(peer)
        if client is None:
            return True
        count = self._counts.get(client, 0)
        if count >= most:
            return False
        self._counts[client] = count + 1
        return True

    def _uncount(self, peer: bytes) -> None:
        client = self.limits.client_of(peer) if self._counts else None
        if client is not None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]

    def sweep(self) -> None:
        """Enforce the time limits of all connections. O(connections); meant to run about once a second."""
        now = self.clock.now
        for connection in list(self.connections):
            connection.check_time(now)
        if self.descriptors is not None:
            self.descriptors.check()

    def waiting_now(self) -> Callable[[], bool]:
        """Return a function that returns whether a request of now still waits for the first byte of its response."""
        waiting = [(each, each.exchange) for each in self.connections if each.exchange is not None]

        def is_any_left() -> bool:
            waiting[:] = [
                (connection, exchange)
                for connection, exchange in waiting
                if connection.exchange is exchange and not connection.response_started
            ]
            return bool(waiting)

        return is_any_left

    def drain(self) -> None:
        """Close idle connections now, and each of the others after its current request."""
        self.draining = True
        for handshake in (*self.handshakes, *self.headers):
            handshake.abort()
        for connection in list(self.connections):
            connection.drain()

    async def wait_until_empty(self) -> None:
        """Wait until the last connection is closed."""
        if self.connections or self.handshakes or self.headers:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def on_connection_lost(self, connection: ServerConnection) -> None:
        """Remove ``connection``, which is closed."""
        if connection in self.connections:
            self.connections.discard(connection)
            self._uncount(connection.peer)
        self.check_empty()

    def check_empty(self) -> None:
        """Wake :meth:`wait_until_empty` if no connection, no handshake and no header is left."""
        if self._emptied is not None and not (self.connections or self.handshakes or self.headers):
            self._emptied.set()
