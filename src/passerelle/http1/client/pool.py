"""Connections to one instance: reused while they are fit for it, bounded in number, waited for in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.clock import Clock
from passerelle.http1.tls_contexts import UpstreamTls, reason


class ConnectionWaiter(Protocol):
    """Who asked a pool for a connection."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Here it is."""

    def on_no_connection(self, failure: Failure) -> None:
        """There is none."""


class ConnectionPool:
    """Connections to one instance: those idle, the number open, who waits for one.

    ``checkout`` and ``release`` are O(1). At most ``limit`` connections are open; over that at most ``waiting_limit``
    requests wait in order; over that the answer is a Failure at once.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_host",
        "_idle",
        "_keepalive",
        "_limit",
        "_loop",
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
        """Other settings from now on. What is open over a lower limit stays open until it is done."""
        self._limit = limit
        self._waiting_limit = waiting_limit
        self._timeout = connect_timeout
        self._keepalive = keepalive

    def secure(self, tls: UpstreamTls | None) -> None:
        """Connect with ``tls`` from now on. Idle connections that were made otherwise are closed."""
        if tls == self._tls:
            return
        self._tls = tls
        if tls is None:
            self._type, self._options = UpstreamConnection, {}
        else:
            # Imported for who needs it.
            from passerelle.http1.client.tls import TlsUpstreamConnection

            self._type, self._options = TlsUpstreamConnection, tls.options(self._host)
        while self._idle:
            self._idle.pop().close()

    @property
    def secured(self) -> bool:
        """Whether it connects over TLS."""
        return self._tls is not None

    @property
    def limit(self) -> int:
        """The most connections."""
        return self._limit

    @property
    def waiting(self) -> int:
        """How many requests wait for a connection."""
        return len(self._waiting)

    def checkout(self) -> UpstreamConnection | None:
        """The idle connection used last, if there is one fit for a request."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.poll(0):
                return connection
            connection.abort()
        return None

    def request(self, waiter: ConnectionWaiter) -> None:
        """Give ``waiter`` a new connection, or, at the limit, the next one that is returned."""
        if self.open < self._limit:
            self.open += 1
            task = self._loop.create_task(self._connect(waiter))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._idle:
            # A new one is asked for: an idle one makes room for it, and is gone in a moment.
            self._waiting.append(waiter)
            self._idle.popleft().abort()
        elif len(self._waiting) < self._waiting_limit:
            self._waiting.append(waiter)
        else:
            waiter.on_no_connection(Failure(Kind.OVERLOADED, "connections and queue are full"))

    def withdraw(self, waiter: ConnectionWaiter) -> bool:
        """``waiter`` no longer wants a connection. False if one is being made for it: that one it will be told of."""
        before = len(self._waiting)
        if before:
            self._waiting = deque(w for w in self._waiting if w is not waiter)
        return len(self._waiting) < before

    async def _connect(self, waiter: ConnectionWaiter) -> None:
        connection = self._type(self)
        try:
            async with asyncio.timeout(self._timeout):
                await self._loop.create_connection(lambda: connection, self._host, self._port, **self._options)
        except TimeoutError:
            failure = Failure(Kind.CONNECT_TIMEOUT, "connect timed out", retryable=True)
        except OSError as error:
            failure = Failure(Kind.CONNECT_FAILED, reason(error), retryable=True)
        else:
            if connection.made:
                waiter.on_connection(connection)
                return
            failure = Failure(Kind.CONNECT_FAILED, "closed while it was connected to", retryable=True)
        self._on_connect_failed(waiter, connection, failure)

    def _on_connect_failed(self, waiter: ConnectionWaiter, connection: UpstreamConnection, failure: Failure) -> None:
        if not connection.made:
            self.open -= 1  # else its end is told, and counted
        waiter.on_no_connection(failure)
        self._serve_waiting()

    def release(self, connection: UpstreamConnection) -> None:
        """``connection`` has done its work and may do more."""
        if self._waiting:
            self._waiting.popleft().on_connection(connection)
        elif self._closed:
            connection.close()
        else:
            connection.fresh = False
            connection.idle_since = self._clock.now
            self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """``connection`` is gone."""
        self.open -= 1
        if not connection.fresh and self._idle:
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """A place has become free: connect for the first who waits."""
        if self._waiting and self.open < self._limit:
            self.request(self._waiting.popleft())

    def sweep(self) -> None:
        """Close what has been idle for longer than ``keepalive``: oldest first."""
        idle = self._idle
        now = self._clock.now
        while idle and now - idle[0].idle_since > self._keepalive:
            idle.popleft().close()

    def close(self) -> None:
        """Close idle connections now, the others when they come back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
