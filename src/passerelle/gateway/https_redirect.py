"""Listeners that redirect plain HTTP to https."""

from __future__ import annotations

import re
from collections.abc import Mapping

from passerelle.errors import Failure
from passerelle.gateway.context import Context
from passerelle.gateway.exchange import Exchange
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import RequestHandler, ServerConnection
from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.listener import Listener
from passerelle.upstream.request_headers import is_client_secure

RedirectKey = tuple[int, int]
"""The status of a redirect, and the port to which it leads."""

# Certificate authorities read the responses to HTTP-01 challenges over plain HTTP (RFC 8555 §8.3). These requests take
# the same way as those of other listeners. A token has the characters of base64url, so no other path can begin so.
_CHALLENGE = re.compile(rb"/\.well-known/acme-challenge/[A-Za-z0-9_-]{1,512}").fullmatch


class RedirectedConnection(ClientConnection):
    """A connection of a listener that redirects."""

    __slots__ = ("redirect",)

    def __init__(self, listener: Listener, redirect: RedirectKey) -> None:
        super().__init__(listener)
        self.redirect = redirect


class HttpsRedirect:
    """The handler of a worker with listeners that redirect. ``contexts`` have the redirects, one for each kind.

    Requests that reach a trusted proxy over https, and challenges of ACME, are handled as on other listeners.
    """

    def __init__(self, handler: RequestHandler, contexts: Mapping[RedirectKey, Context]) -> None:
        self._handler = handler
        self._contexts = contexts

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Handle a request."""
        context = self._contexts.get(connection.redirect) if isinstance(connection, RedirectedConnection) else None
        if (
            context is None
            or is_client_secure(head, connection.peer, context.proxies, connection.scheme)
            or _CHALLENGE(target)
        ):
            self._handler.on_request(connection, method, target, head)
            return
        exchange = Exchange(context, connection, method, target, head)
        try:
            exchange.start()
        except Exception as error:
            exchange.on_defect(error)

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Record that a malformed message was refused."""
        return self._handler.on_refused(connection, failure)
