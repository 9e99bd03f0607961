"""The sockets on which one worker accepts connections, and how each accepts them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from passerelle.gateway.https_redirect import RedirectedConnection, RedirectKey
from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.failure_log import FailureLog
from passerelle.http1.server.listener import LOCAL_ADDRESS, LOCAL_PEER, Listener
from passerelle.http1.server.proxied import PeerProtocol, ProxiedConnection
from passerelle.security.addresses import AddressSet, Network

BACKLOG = 4096

_log = logging.getLogger("passerelle")


class BoundSocket(NamedTuple):
    """A bound socket for the listener with the index ``listener`` in the file.

    As long as a socket stays open, it has the same ``key``.
    """

    listener: int
    key: int
    sock: socket.socket


class EndpointSettings(NamedTuple):
    """How the sockets of one listener accept connections: with TLS, or with a redirect to https, or neither.

    ``proxies`` are the addresses that must send a header of the PROXY protocol, and ``has_local_proxies`` is whether
    the clients of a Unix socket must; None for connections without a header.
    """

    is_secure: bool
    redirect: RedirectKey | None
    proxies: tuple[Network, ...] | None
    has_local_proxies: bool


class _Endpoint:
    """One socket: its server, its settings, and what makes the protocol of a new connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.name = sock.getsockname()
        self.server: asyncio.AbstractServer | None = None
        self.settings: EndpointSettings | None = None
        self.accept: Callable[[], asyncio.Protocol] = asyncio.Protocol

    @property
    def is_local(self) -> bool:
        """Whether it is a Unix socket."""
        return not isinstance(self.name, tuple)

    def has(self, name: object) -> bool:
        """Whether a connection to the address ``name`` came in here."""
        own = self.name
        if not isinstance(own, tuple) or not isinstance(name, tuple):
            return bool(own == name)
        # The families differ in the length of their names. All others of `[::]` and of 0.0.0.0 are their own.
        return len(own) == len(name) and own[1] == name[1] and own[0] in (name[0], "::", "0.0.0.0")


class Endpoints:
    """All sockets of one worker. ``secure()`` makes the protocol of a new connection over TLS."""

    def __init__(self, listener: Listener, secure: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._secure = secure
        self._open: dict[int, tuple[int, _Endpoint]] = {}  # by key: the index of the listener, and the socket
        self._failures = FailureLog("PROXY protocol: connection of {} refused", _log.warning)

    async def apply(self, settings: Sequence[EndpointSettings], sockets: Sequence[BoundSocket]) -> None:
        """Accept connections on ``sockets``, and on no others, with the ``settings`` of each listener.

        Connections through a socket that is closed, or whose settings have changed, end after the request in flight.

        :raises OSError: if a socket cannot listen. Then the previous sockets still do.
        """
        loop = asyncio.get_running_loop()
        added: list[_Endpoint] = []
        wanted: dict[int, tuple[int, _Endpoint]] = {}
        try:
            for index, key, sock in sockets:
                known = self._open.get(key)
                endpoint = known[1] if known is not None else _Endpoint(sock)
                wanted[key] = index, endpoint
                if known is None:
                    added.append(endpoint)
                    self._configure(endpoint, settings[index])
                    sock.listen(BACKLOG)  # uvloop raises no error of listen()
                    create = loop.create_unix_server if endpoint.is_local else loop.create_server
                    endpoint.server = await create(_acceptor(endpoint), sock=sock, backlog=BACKLOG)
        except BaseException:
            _close(added)
            raise
        leaving = [endpoint for key, (_, endpoint) in self._open.items() if key not in wanted]
        _close(leaving)
        self._open = wanted
        self._drain(leaving)
        self.configure(settings)

    def configure(self, settings: Sequence[EndpointSettings]) -> None:
        """Apply ``settings`` to new connections. Those through sockets that had others end after their request."""
        self._drain([each for index, each in self._open.values() if self._configure(each, settings[index])])

    def close(self) -> None:
        """Accept no more connections."""
        _close([endpoint for _, endpoint in self._open.values()])
        self._open = {}

    def _configure(self, endpoint: _Endpoint, settings: EndpointSettings) -> bool:
        """Apply ``settings``; return whether others were in force."""
        before = endpoint.settings
        if before == settings:
            return False
        endpoint.settings = settings
        accept = self._accept_by(settings)
        is_plainly_local = endpoint.is_local and settings.proxies is None
        endpoint.accept = _with_address(accept) if is_plainly_local else accept
        return before is not None

    def _accept_by(self, settings: EndpointSettings) -> Callable[[], asyncio.Protocol]:
        listener, redirect, failures = self._listener, settings.redirect, self._failures
        accept: Callable[[], asyncio.Protocol]
        if settings.is_secure:
            accept = self._secure
        elif redirect is not None:

            def accept() -> asyncio.Protocol:
                return RedirectedConnection(listener, redirect)
        else:

            def accept() -> asyncio.Protocol:
                return ClientConnection(listener)

        if settings.proxies is None:
            return accept
        proxies, has_local_proxies = AddressSet(settings.proxies), settings.has_local_proxies

        def trusts(peer: bytes) -> bool:
            return has_local_proxies if peer == LOCAL_PEER else proxies.has(peer)

        return lambda: ProxiedConnection(listener, accept, trusts, failures)

    def _drain(self, endpoints: Sequence[_Endpoint]) -> None:
        for connection in list(self._listener.connections) if endpoints else ():
            if any(endpoint.has(connection.local_address) for endpoint in endpoints):
                connection.drain()


def _with_address(accept: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
    """Return ``accept`` for a Unix socket, whose clients have the address of this machine."""

    def accept_local() -> asyncio.Protocol:
        protocol = accept()
        cast(PeerProtocol, protocol).peer = LOCAL_ADDRESS
        return protocol

    return accept_local


def _close(endpoints: Sequence[_Endpoint]) -> None:
    for endpoint in endpoints:
        if endpoint.server is not None:
            endpoint.server.close()


def _acceptor(endpoint: _Endpoint) -> Callable[[], asyncio.Protocol]:
    return lambda: endpoint.accept()
