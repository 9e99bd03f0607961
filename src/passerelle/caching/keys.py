"""Primary cache keys: what part of a request's URI names the stored response (RFC 9111 §2).

A key is ``host SP path`` and, where the query counts, ``?query``. Whatever else may choose a response (fields,
consumer) is the business of variants, so that one invalidation of the URI reaches all of them. Only the key is ever
normalised, never the target that is forwarded.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urljoin, urlsplit


class KeyRule(NamedTuple):
    """Which parts of the URI make the key.

    ``hosts``: None where each host has its own; where all hosts of a route show the same, the pattern that they fit
    (empty for every host): other hosts have another route, and perhaps another service. ``query``: None keeps the query
    as it is; a set (made by :func:`parameters`) keeps just those parameters, sorted by name, so that strangers do not
    matter (an empty set drops the query).
    """

    hosts: bytes | None = None
    query: frozenset[bytes] | None = None

    def key(self, host: bytes, path: bytes, query: bytes | None) -> bytes:
        """The key of a URI. ``host`` is in lower case or stands for it, ``path`` canonical, ``query`` without ``?``."""
        if self.hosts is not None:
            host = b"@" + self.hosts  # no Host has that octet: a client cannot ask for this key by its own
        if query is not None and self.query is not None:
            query = _selected(query, self.query)
        return host + b" " + path if query is None else b"%b %b?%b" % (host, path, query)


WHOLE_URI: Final = KeyRule()


def parameters(names: Iterable[str]) -> frozenset[bytes]:
    """The names of query parameters as :class:`KeyRule` has them."""
    return frozenset(form for name in names for form in (name.lower().encode(), _parameter(name.encode())))


def _selected(query: bytes, names: frozenset[bytes]) -> bytes | None:
    """The named parameters as they were sent. Their order counts among equal names alone, of which some services read
    the first and others the last. What one service or another could read as one of the names counts as it."""
    found = []
    for pair in query.split(b"&"):
        for piece in pair.split(b";"):
            name = _parameter(piece.partition(b"=")[0])
            start = name.partition(b"[")[0]
            if name in names or start in names:
                found.append((start, pair))
                break
    # Who takes ";" for another "&" reads several names in a pair: then every order is one of its own.
    if b";" not in query:
        found.sort(key=itemgetter(0))
    return b"&".join([pair for _, pair in found]) if found else None


def _parameter(name: bytes) -> bytes:
    """The name of a parameter as services read it that decode it, drop blanks round it and overlook letter case."""
    return unquote_to_bytes(name.replace(b"+", b" ")).strip().lower()


def key_path(key: bytes) -> bytes:
    """The path in a key made by :meth:`KeyRule.key`, also of a variant's key."""
    path = key.partition(b" ")[2]
    return path.partition(b"\x00")[0].partition(b"?")[0]


class TargetUri(NamedTuple):
    """A URI of this gateway: what an unsafe request may have changed. ``query`` is without ``?``, None when absent."""

    path: bytes
    query: bytes | None


def same_origin_target(reference: bytes, authority: bytes, path: bytes, query: bytes | None) -> TargetUri | None:
    """What a Location or Content-Location points at, if it is on the same host as the request (RFC 9111 §4.4).

    ``authority`` is the request's Host field in lower case. Another origin's URI gives None: a response must not be
    able to invalidate what is not its own. So does a reference that is no URI.
    """
    try:
        base = "http://" + authority.decode("latin-1") + path.decode("latin-1")
        if query is not None:
            base += "?" + query.decode("latin-1")
        parts = urlsplit(urljoin(base, reference.decode("latin-1").strip()))
        if parts.scheme not in _PORTS or _origin(parts.netloc) != _origin(authority.decode("latin-1")):
            return None
        target_path = (parts.path or "/").encode("latin-1")
        return TargetUri(target_path, parts.query.encode("latin-1") if parts.query else None)
    except ValueError:
        return None


# A gateway is asked over http or https and the service need not know by which.
_PORTS: Final = {"http": "80", "https": "443"}


def _origin(netloc: str) -> str:
    host, colon, port = netloc.rpartition(":")
    if colon and port in _PORTS.values():
        return host.lower()
    return netloc.lower()
