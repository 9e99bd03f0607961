"""The way back of a rewrite: paths and hosts in responses of a service become those that clients use."""

from __future__ import annotations

import re
from collections.abc import Collection

from passerelle.gateway.response_headers import RequestContext, ResponseHeaderRules
from passerelle.security.cors import CorsPolicy
from passerelle.security.header_rules import SecurityHeaderFields

_LINES = re.compile(rb"\r\n(location|content-location|set-cookie):[ \t]*([^\r\n]*)", re.IGNORECASE)
# An absolute URI or a path, then the query and the fragment. A network-path reference (//host) has another host.
_REFERENCE = re.compile(rb"(?:(https?://)([^/?#]*)(?=[/?#]|$)|(?=/(?!/)))(/[^?#]*)?([?#].*)?", re.IGNORECASE)


class ReverseRewriting:
    """Rewrites ``Location``, ``Content-Location`` and the paths and domains of cookies.

    ``prefix`` is what the route strips from the paths of clients, ``path`` what begins all paths of the service; both
    are empty or begin with a slash and do not end with one. ``authorities`` are the hosts (lower case, with their
    ports) under which the service knows itself, besides that of the client.
    """

    __slots__ = ("_authorities", "_names", "_path", "_prefix")

    def __init__(self, prefix: bytes, path: bytes, authorities: Collection[bytes]) -> None:
        self._prefix = prefix
        self._path = path
        self._authorities = frozenset(authorities)
        self._names = frozenset(re.sub(rb":[0-9]+$", b"", authority) for authority in authorities)

    def apply(self, head: bytes, hosts: Collection[bytes]) -> bytes:
        """Return ``head`` as the client is to receive it; ``hosts`` (lower case) are those that the client used."""

        def changed(line: re.Match[bytes]) -> bytes:
            name, value = line.groups()
            value = self._cookie(value) if name.lower() == b"set-cookie" else self._reference(value, hosts)
            return b"\r\n%b: %b" % (name, value)

        return _LINES.sub(changed, head)

    def _reference(self, value: bytes, hosts: Collection[bytes]) -> bytes:
        found = _REFERENCE.fullmatch(value)
        if found is None:
            return value
        scheme, authority, path, rest = found[1] or b"", found[2] or b"", found[3] or b"/", found[4] or b""
        if authority.lower() not in hosts:
            if scheme and authority.lower() not in self._authorities:
                return value
            scheme = authority = b""  # a path is relative to the host of the client
        outside = self._outer(path)
        if outside is None:
            return value
        if not authority and outside.startswith(b"//"):
            outside = b"/" + outside.lstrip(b"/")  # two slashes would begin a host
        return b"".join((scheme, authority, outside, rest))

    def _outer(self, path: bytes) -> bytes | None:
        """Return the path for clients, or None if the gateway forwards no path of clients to it."""
        inner = self._path
        if inner:
            if path != inner and not path.startswith(inner + b"/"):
                return None
            path = path[len(inner) :] or b"/"
        return self._prefix + path

    def _cookie(self, value: bytes) -> bytes:
        pair, *attributes = value.split(b";")
        kept = [pair]
        for attribute in attributes:
            name, _, given = attribute.partition(b"=")
            name, given = name.strip().lower(), given.strip()
            if name == b"domain" and given.lstrip(b".").lower() in self._names:
                continue  # without it, the cookie is for the host of the client
            # Browsers refuse a cookie whose name begins with __Host- unless its path is / (RFC 6265bis §4.1.3.2).
            if name == b"path" and given.startswith(b"/") and not pair.strip().lower().startswith(b"__host-"):
                attribute = b" Path=%b" % self._cookie_path(given)
            kept.append(attribute)
        return b";".join(kept)

    def _cookie_path(self, path: bytes) -> bytes:
        if path == b"/" or (self._path + b"/").startswith(path.rstrip(b"/") + b"/"):
            return self._prefix or b"/"  # it covers the whole service
        outside = self._outer(path)
        return path if outside is None else outside


class RewritingHeaderRules(ResponseHeaderRules):
    """Response header rules that also rewrite responses of the service."""

    __slots__ = ("_rewriting",)

    def __init__(
        self,
        rewriting: ReverseRewriting,
        strip: list[bytes],
        added: bytes,
        security: SecurityHeaderFields | None,
        cors: CorsPolicy | None,
        request_id: bool = False,
        hides_timing: bool = False,
    ) -> None:
        super().__init__(strip, added, security, cors, request_id, hides_timing)
        self._rewriting = rewriting

    def apply(self, head: bytes, request: RequestContext) -> bytes:
        """Return ``head`` (status line and field lines, each with CRLF) as edited for ``request``."""
        hosts = request.hosts
        if hosts:  # what guards respond with has the paths of clients
            head = self._rewriting.apply(head, hosts)
        return super().apply(head, request)
