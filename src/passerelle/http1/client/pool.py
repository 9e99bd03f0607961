"""Pool of connections to one instance: reuse, a limit, and a queue of waiters in which clients take turns.

A *place* is the right to a connection for a request that waits for its response. Some requests last as long as their
clients like: tunnels, uploads, and bodies of responses. Their connections are set aside and free their places: those of
tunnels at once, the others when they have lasted from one sweep to the next. One client may have a part of the
connections set aside; beyond that, they keep their places. So the last quarter of the places is a *reserve*, of which
one client may have a part as well. Places below the reserve are not counted by client, which costs a request nothing.

The file is longer than 400 lines because every change of a place changes what the queue and the free connections may be
used for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Protocol

from passerelle.errors import Failure, Kind
from passerelle.http1.client.connection import Claim, UpstreamConnection
from passerelle.http1.client.names import NameLookup, is_name
from passerelle.http1.client.places import CLIENT_SHARE, FairQueue, SharedPlaces, share_of
from passerelle.http1.clock import Clock
from passerelle.http1.tls_contexts import UpstreamTls, reason

# The reserve is one place out of this number.
RESERVE = 4


class ConnectionWaiter(Protocol):
    """Waiter for a connection from a pool."""

    def client_key(self) -> bytes | None:
        """Return the client of the request, as :mod:`.places` counts it."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Take ``connection``."""

    def on_no_connection(self, failure: Failure) -> None:
        """Handle the failure to get a connection."""


class ConnectionPool:
    """Connections to one instance: the idle ones, the number of open ones, and the waiters.

    ``checkout`` and ``release`` are O(1). At most ``limit`` connections have a place (``open``), and ``aside_limit``
    are set aside; one client gets at most ``client_share`` of them and of the reserve. Beyond that, at most
    ``waiting_limit`` requests wait. If a further one comes from a client with fewer, it displaces the last one of the
    client with the most; otherwise it fails at once.

    Free connections are in ``_idle``. While more connections are open than there are places below the reserve, the
    difference is in ``_spare`` instead: so ``_idle`` is empty when only the reserve is left.
    """

    __slots__ = (
        "_aside",
        "_clock",
        "_closed",
        "_common",
        "_connections",
        "_host",
        "_idle",
        "_is_socket",
        "_keepalive",
        "_limit",
        "_loop",
        "_names",
        "_options",
        "_port",
        "_reserve",
        "_scarce",
        "_spare",
        "_tasks",
        "_timeout",
        "_tls",
        "_type",
        "_waiting",
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
        aside_limit: int = 256,
        client_share: float = CLIENT_SHARE,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._host = host
        self._port = port
        self._is_socket = host.startswith("/")  # the path of a Unix socket
        self._names = NameLookup(loop, clock, host, port) if not self._is_socket and is_name(host) else None
        self._aside = SharedPlaces(aside_limit, aside_limit)
        self._reserve = SharedPlaces(limit, limit)
        self._waiting: FairQueue[ConnectionWaiter] = FairQueue(waiting_limit)
        self._connections: set[UpstreamConnection] = set()
        self._idle: deque[UpstreamConnection] = deque()
        self._spare: deque[UpstreamConnection] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._tls: UpstreamTls | None = None
        self._type = UpstreamConnection
        self._options: Mapping[str, Any] = {}
        self._scarce = False  # `release` has more to do than to keep the connection
        self.open = 0
        self.configure(limit, waiting_limit, connect_timeout, keepalive, aside_limit, client_share)

    def configure(
        self,
        limit: int,
        waiting_limit: int,
        connect_timeout: float,
        keepalive: float,
        aside_limit: int,
        client_share: float,
    ) -> None:
        """Apply new settings from now on. Connections above a lowered limit stay open until they are released."""
        reserve = limit // RESERVE
        self._limit = self._reserve.limit = limit
        self._common = limit - reserve
        self._reserve.most = share_of(reserve, client_share)
        self._aside.limit, self._aside.most = aside_limit, share_of(aside_limit, client_share)
        self._waiting.limit = waiting_limit
        self._timeout = connect_timeout
        self._keepalive = keepalive
        self._dispatch(new=True)

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
        self._close_free()

    @property
    def authority(self) -> bytes:
        """The address of the instance as a Host field has it: without the default port (RFC 9110 §7.2).

        That of a Unix socket is ``localhost``.
        """
        if self._is_socket:
            return b"localhost"
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
        return self._waiting.waiting

    @property
    def idle(self) -> list[UpstreamConnection]:
        """The open connections without a request."""
        return [*self._spare, *self._idle]

    @property
    def set_aside(self) -> int:
        """Number of connections of uploads and response bodies that are set aside."""
        return self._aside.taken

    @property
    def _in_use(self) -> int:
        return self.open - len(self._idle) - len(self._spare)

    @property
    def connecting(self) -> int:
        """Number of connections that are being opened."""
        return len(self._tasks)

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
        if self.open < self._common:
            self._open_for(waiter)
            return
        client = waiter.client_key()
        if self._idle and self.open >= self._limit:
            # The waiter needs a new connection: an idle one is closed to make room, and the waiter is served when it is
            # gone.
            self._wait(client, waiter)
            self._idle.popleft().abort()
        elif not self._place(client, waiter, bool(self._idle)):
            self._queue(client, waiter)

    def _queue(self, client: bytes | None, waiter: ConnectionWaiter) -> None:
        """Let ``waiter`` wait if there is room in the queue for its client."""
        failure = Failure(Kind.OVERLOADED, "connections and queue are full")
        if not self._waiting.is_full:
            self._wait(client, waiter)
        elif (displaced := self._waiting.displace(client)) is not None:
            self._wait(client, waiter)
            displaced.on_no_connection(failure)
        else:
            waiter.on_no_connection(failure)

    def _wait(self, client: bytes | None, waiter: ConnectionWaiter) -> None:
        self._waiting.add(client, waiter)
        self._scarce = True

    def _place(self, client: bytes | None, waiter: ConnectionWaiter, new: bool) -> bool:
        """Give ``waiter`` a connection if there is a place for its client, preferably a ``new`` one."""
        reserved = self._in_use >= self._common
        if reserved and self._reserve.is_full_for(client):
            return False
        if not (new and self.open < self._limit) and (connection := self._take_free()) is not None:
            if reserved:
                self._reserve.take(client)
                connection.claim(Claim.RESERVE, client)
            waiter.on_connection(connection)
            return True
        if self.open >= self._limit:
            return False
        if reserved:
            self._reserve.take(client)
        self._open_for(waiter, Claim.RESERVE if reserved else Claim.NONE, client)
        return True

    def _take_free(self) -> UpstreamConnection | None:
        """Return a free connection that is fit for a request, or None."""
        while self._spare or self._idle:
            connection = (self._spare or self._idle).pop()
            if not connection.poll(0):
                return connection
            connection.abort()
        return None

    def _dispatch(self, *, new: bool) -> None:
        """Give the places that are free to waiters. ``new``: open connections rather than reuse free ones."""
        self._balance()
        while self._waiting.by_client and (self.open < self._limit or self._spare or self._idle):
            reserved = self._in_use >= self._common
            found = self._waiting.pop(self._may_reserve if reserved else None)
            if found is None:
                break
            if not self._place(*found, new):
                self._wait(*found)
                break
        self._scarce = bool(self._closed or self._waiting.by_client or self.open > self._common or self._reserve.taken)

    def _may_reserve(self, client: bytes | None) -> bool:
        return not self._reserve.is_full_for(client)

    def _balance(self) -> None:
        """Keep as many free connections in ``_spare`` as are open above the places below the reserve."""
        above = max(0, self.open - self._common)
        while len(self._spare) > above:
            self._idle.append(self._spare.pop())
        while len(self._spare) < above and self._idle:
            self._spare.append(self._idle.popleft())

    def is_queued(self, waiter: ConnectionWaiter) -> bool:
        """Whether ``waiter`` waits for a place."""
        return any(waiter in waiters for waiters in self._waiting.by_client.values())

    def withdraw(self, waiter: ConnectionWaiter) -> bool:
        """Remove ``waiter`` from the queue.

        Return False if it is not queued, because a connection is being opened for it: it will receive that one.
        """
        return self._waiting.remove(waiter)

    def _open_for(self, waiter: ConnectionWaiter, claim: Claim = Claim.NONE, client: bytes | None = None) -> None:
        """Open a connection for ``waiter``."""
        self.open += 1
        if self.open > self._common:
            self._scarce = True
            self._balance()
        connection = self._type(self)
        if claim is not Claim.NONE:
            connection.claim(claim, client)
        task = self._loop.create_task(self._connect(waiter, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, waiter: ConnectionWaiter, connection: UpstreamConnection) -> None:
        began = perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                await self._open(connection)
        except TimeoutError:
            failure = Failure(Kind.CONNECT_TIMEOUT, "connect timed out", retryable=True)
        except OSError as error:
            failure = Failure(Kind.CONNECT_FAILED, reason(error), retryable=True)
        else:
            if connection.connected:
                connection.connecting = perf_counter() - began
                self._connections.add(connection)
                waiter.on_connection(connection)
                return
            failure = Failure(Kind.CONNECT_FAILED, "connection closed while connecting", retryable=True)
        self._on_connect_failed(waiter, connection, failure)

    async def _open(self, connection: UpstreamConnection) -> None:
        """Connect to the first address of the target that accepts; OSError of the last one if none does."""
        if self._is_socket:
            connection.address = self._host
            await self._loop.create_unix_connection(lambda: connection, self._host)
            return
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
        if not connection.connected:  # otherwise lost() does it
            self.open -= 1
            self._unreserve(connection)
        waiter.on_no_connection(failure)
        self._dispatch(new=True)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back ``connection``, which is ready for another request."""
        if self._names is not None and not self._is_current(connection):
            connection.close()
        elif self._scarce:
            self._release_scarce(connection)
        else:
            connection.fresh = False
            connection.idle_since = self._clock.now
            self._idle.append(connection)

    def _release_scarce(self, connection: UpstreamConnection) -> None:
        self._unreserve(connection)
        if self.open > self._limit or (self._closed and not self._waiting.by_client):
            connection.close()
            return
        connection.fresh = False
        connection.idle_since = self._clock.now
        self._idle.append(connection)
        self._dispatch(new=False)

    def _unreserve(self, connection: UpstreamConnection) -> None:
        if connection.claimed is Claim.RESERVE:
            self._reserve.give_back(connection.client)
            connection.claimed = Claim.NONE

    # ---- connections of requests that last as long as their clients like

    def on_tunnel(self, connection: UpstreamConnection) -> None:
        """Free the place of ``connection``, which is a tunnel from now on."""
        self.take_back(connection)
        self._unreserve(connection)
        connection.claim(Claim.TUNNEL, None)
        self.open -= 1
        self._dispatch(new=True)

    def take_back(self, connection: UpstreamConnection) -> None:
        """Give ``connection`` a place again, if it is set aside: its request waits for the service, or has ended.

        There may be more than ``limit`` places then, by at most the number of connections set aside.
        """
        if connection.claimed is Claim.ASIDE:
            self._aside.give_back(connection.client)
            connection.claimed = Claim.NONE
            self.open += 1
            self._balance()
            self._scarce = True

    def _set_aside(self) -> None:
        """Free the places of connections whose transfer has lasted since the last sweep."""
        before = self.open
        for connection in self._connections:
            if not connection.has_lasted() or connection.claimed in (Claim.ASIDE, Claim.TUNNEL):
                continue
            client = connection.client_key()
            if not self._aside.is_full_for(client):
                self._unreserve(connection)
                self._aside.take(client)
                connection.claim(Claim.ASIDE, client)
                self.open -= 1
        if self.open < before:
            self._dispatch(new=True)

    def lost(self, connection: UpstreamConnection) -> None:
        """Remove ``connection``, which is closed."""
        self._connections.discard(connection)
        if connection.claimed is Claim.ASIDE:
            self._aside.give_back(connection.client)
        elif connection.claimed is not Claim.TUNNEL:
            self.open -= 1
            self._unreserve(connection)
        if not connection.fresh:
            for free in (self._idle, self._spare):
                with contextlib.suppress(ValueError):
                    free.remove(connection)
        self._dispatch(new=True)

    def sweep(self) -> None:
        """Close connections that have been idle for longer than ``keepalive``, and set lasting ones aside."""
        now = self._clock.now
        for free in (self._idle, self._spare):
            while free and now - free[0].idle_since > self._keepalive:
                free.popleft().close()
        if self._names is not None and self.open:
            self._names.refresh()
            for connection in [each for each in self.idle if not self._is_current(each)]:
                (self._idle if connection in self._idle else self._spare).remove(connection)
                connection.close()
        self._set_aside()

    def close(self) -> None:
        """Close idle connections now, and each of the others when it is released."""
        self._closed = self._scarce = True
        self._close_free()

    def _close_free(self) -> None:
        for free in (self._idle, self._spare):
            while free:
                free.pop().close()
