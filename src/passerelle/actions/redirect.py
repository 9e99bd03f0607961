"""Redirects (RFC 9110 §15.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from passerelle.actions.interfaces import ActionExchange
from passerelle.errors import Failure, Kind
from passerelle.http.messages import Response
from passerelle.http1.head import RequestHead
from passerelle.routing.paths import Template
from passerelle.security.addresses import Proxies
from passerelle.security.guard import GuardedCall
from passerelle.upstream.request_headers import is_client_secure, trusted_host


@dataclass(frozen=True, slots=True)
class RedirectTarget:
    """The parts of the new URL. What is None stays as in the request; ``host`` has a port if the URL has one.

    ``port`` is that of the host of the request under another ``scheme``; None for the usual one.
    """

    scheme: bytes | None = None
    host: bytes | None = None
    www: Literal["add", "remove"] | None = None
    path: Template | None = None
    keeps_query: bool = True
    port: int | None = None

    @property
    def is_relative(self) -> bool:
        """Whether only the path and the query change."""
        return self.scheme is None and self.host is None and self.www is None


class Redirect:
    """Redirects the requests of one route. ``proxies`` are trusted to state the scheme and the host of a request."""

    __slots__ = ("_proxies", "_status", "_target")

    def __init__(self, status: int, target: RedirectTarget, proxies: Proxies) -> None:
        self._status = status
        self._target = target
        self._proxies = proxies

    def __call__(self, exchange: ActionExchange, head: RequestHead, path: bytes, params: Mapping[str, bytes]) -> None:
        """Respond with the new URL.

        :raises Failure: if the request has no host where one is needed, or if the new URL is that of the request.
        """
        exchange.respond(Response(self._status, [(b"Location", self._location(exchange.guarded_call(), head, params))]))

    def _location(self, call: GuardedCall, head: RequestHead, params: Mapping[str, bytes]) -> bytes:
        target = self._target
        here = call.path if call.path != b"*" else b"/"
        path = here if target.path is None else target.path.fill(params)
        query = call.query if target.keeps_query else b""
        is_same = path == here and query == call.query
        if target.is_relative:
            if is_same:
                raise _loop()
            return path + query  # a path has one slash at its beginning, so this is no link to another host
        secure = is_client_secure(head, call.peer, self._proxies, call.scheme)
        scheme = b"https" if secure else b"http"
        authority = trusted_host(head, call.peer, self._proxies) or head.authority.lower()
        host = authority if target.host is None else target.host
        if target.scheme not in (None, scheme) and target.host is None:
            host = _without_port(host)
            if host and target.port is not None:
                host = b"%b:%d" % (host, target.port)
        if target.www == "add" and not host.startswith(b"www."):
            host = b"www." + host
        elif target.www == "remove":
            host = host.removeprefix(b"www.")
        if not host:
            raise Failure(Kind.BAD_REQUEST, "no host to redirect to")
        if is_same and (target.scheme or scheme, host) == (scheme, authority):
            raise _loop()
        return b"%b://%b%b%b" % (target.scheme or scheme, host, path, query)


def _without_port(authority: bytes) -> bytes:
    host, colon, _ = authority.rpartition(b":")
    return host if colon and not authority.endswith(b"]") else authority


def _loop() -> Failure:
    return Failure(Kind.INTERNAL, "the redirect leads to the URL of the request")
