"""Pool of connections to one instance: reuse, a limit, and a queue of waiters in order of arrival."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.client.names import NameLookup, is_name
from passerelle.http1.clock import Clock
from passerelle.http1.tls_contexts import UpstreamTls, reason


class ConnectionWaiter(Protocol):
    """Waiter for a connection from a pool."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Take ``connection``."""

    def on_no_connection(self, failure: Failure) -> None:
        """Handle the failure to get a connection."""


class ConnectionPool:
    """Connections to one instance: the idle ones, the number of open ones, and the waiters.

    ``checkout`` and ``release`` are O(1). At most ``limit`` connections are open. Beyond that, at most
    ``waiting_limit`` requests wait in order; any further request fails at once.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_host",
        "_idle",
        "_keepalive",
        "_limit",
        "_loop",
        "_names",
        "_options",
        "_port",
        "_tasks",
        "_timeout",
        "_tls",
        "_type",
        "_waiting",
        "_waiting_limit",
        "open",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        host: str,
        port: int,
        *,
        limit: int = 256,
        waiting_limit: int = 256,
        connect_timeout: float = 2.0,
        keepalive: float = 4.0,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._host = host
        self._port = port
        self._names = NameLookup(loop, clock, host, port) if is_name(host) else None
        self._limit = limit
        self._waiting_limit = waiting_limit
        self._timeout = connect_timeout
        self._keepalive = keepalive
        self._idle: deque[UpstreamConnection] = deque()
        self._waiting: deque[ConnectionWaiter] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._tls: UpstreamTls | None = None
        self._type = UpstreamConnection
        self._options: Mapping[str, Any] = {}
        self.open = 0

    def configure(self, limit: int, waiting_limit: int, connect_timeout: float, keepalive: float) -> None:
        """Apply new settings from now on. Connections above a lowered limit stay open until they are released."""
        self._limit = limit
        self._waiting_limit = waiting_limit
        self._timeout = connect_timeout
        self._keepalive = keepalive

    def secure(self, tls: UpstreamTls | None) -> None:
        """Connect with ``tls`` (None: without TLS) from now on. Idle connections with other settings are closed."""
        if tls == self._tls:
            return
        self._tls = tls
        if tls is None:
            self._type, self._options = UpstreamConnection, {}
        else:
            # Imported here, so that a gateway without TLS upstreams does not load the module.
            from passerelle.http1.client.tls import TlsUpstreamConnection

            self._type, self._options = TlsUpstreamConnection, tls.options(self._host)
        while self._idle:
            self._idle.pop().close()

    @property
    def authority(self) -> bytes:
        """The address of the instance as a Host field has it: without the default port (RFC 9110 §7.2)."""
        text = f"[{self._host}]" if ":" in self._host else self._host
        default = 443 if self._tls is not None else 80
        return (text if self._port == default else f"{text}:{self._port}").encode("ascii")

    @property
    def secured(self) -> bool:
        """Whether new connections use TLS."""
        return self._tls is not None

    @property
    def limit(self) -> int:
        """Maximum number of open connections."""
        return self._limit

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a connection."""
        return len(self._waiting)

    def checkout(self) -> UpstreamConnection | None:
        """Return the most recently used idle connection that is fit for a request, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.poll(0):
                return connection
            connection.abort()
        return None

    def request(self, waiter: ConnectionWaiter) -> None:
        """Give ``waiter`` a new connection or, at the limit, the next one that is released."""
        if self.open < self._limit:
            self.open += 1
            task = self._loop.create_task(self._connect(waiter))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._idle:
            # The waiter needs a new connection: an idle one is closed to make room, and the waiter is served when it is
            # gone.
            self._waiting.append(waiter)
            self._idle.popleft().abort()
        elif len(self._waiting) < self._waiting_limit:
            self._waiting.append(waiter)
        else:
            waiter.on_no_connection(Failure(Kind.OVERLOADED, "connections and queue are full"))

    def withdraw(self, waiter: ConnectionWaiter) -> bool:
        """Remove ``waiter`` from the queue.

        Return False if it is not queued, because a connection is being opened for it: it will receive that one.
        """
        before = len(self._waiting)
        if before:
            self._waiting = deque(w for w in self._waiting if w is not waiter)
        return len(self._waiting) < before

    async def _connect(self, waiter: ConnectionWaiter) -> None:
        connection = self._type(self)
        try:
            async with asyncio.timeout(self._timeout):
                await self._open(connection)
        except TimeoutError:
            failure = Failure(Kind.CONNECT_TIMEOUT, "connect timed out", retryable=True)
        except OSError as error:
            failure = Failure(Kind.CONNECT_FAILED, reason(error), retryable=True)
        else:
            if connection.connected:
                waiter.on_connection(connection)
                return
            failure = Failure(Kind.CONNECT_FAILED, "connection closed while connecting", retryable=True)
        self._on_connect_failed(waiter, connection, failure)

    async def _open(self, connection: UpstreamConnection) -> None:
        """Connect to the first address of the target that accepts; OSError of the last one if none does."""
        names = self._names
        addresses = [self._host] if names is None else await names.known()
        for number, address in enumerate(addresses, 1):
            connection.address = address
            try:
                await self._loop.create_connection(lambda: connection, address, self._port, **self._options)
                return
            except OSError:
                # A failed TLS handshake has used this connection: it cannot connect again.
                if number == len(addresses) or connection.connected:
                    raise

    def _is_current(self, connection: UpstreamConnection) -> bool:
        """Return whether the name of the target still has the address of ``connection``."""
        return self._names is None or connection.address in self._names.addresses

    def _on_connect_failed(self, waiter: ConnectionWaiter, connection: UpstreamConnection, failure: Failure) -> None:
        if not connection.connected:
            self.open -= 1  # otherwise lost() counts it
        waiter.on_no_connection(failure)
        self._connect_next_waiter()

    def release(self, connection: UpstreamConnection) -> None:
        """Take back ``connection``, which is ready for another request."""
        if self._names is not None and not self._is_current(connection):
            connection.close()
        elif self._waiting:
            self._waiting.popleft().on_connection(connection)
        elif self._closed:
            connection.close()
        else:
            connection.fresh = False
            connection.idle_since = self._clock.now
            self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """Remove ``connection``, which is closed."""
        self.open -= 1
        if not connection.fresh and self._idle:
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)
        self._connect_next_waiter()

    def _connect_next_waiter(self) -> None:
        """Connect for the first waiter, if there is room."""
        if self._waiting and self.open < self._limit:
            self.request(self._waiting.popleft())

    def sweep(self) -> None:
        """Close connections that have been idle for longer than ``keepalive``, the oldest first."""
        idle = self._idle
        now = self._clock.now
        while idle and now - idle[0].idle_since > self._keepalive:
            idle.popleft().close()
        if self._names is not None and self.open:
            self._names.refresh()
            for connection in [each for each in idle if not self._is_current(each)]:
                idle.remove(connection)
                connection.close()

    def close(self) -> None:
        """Close idle connections now, and each of the others when it is released."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
