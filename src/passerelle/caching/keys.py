"""Primary cache keys: what part of a request's URI names the stored response (RFC 9111 §2).

A key is ``host SP path`` and, where the query counts, ``?query``. Whatever else may choose a response (fields,
consumer) is the business of variants, so that one invalidation of the URI reaches all of them. Only the key is ever
normalised, never the target that is forwarded.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit


class KeyRule(NamedTuple):
    """Which parts of the URI make the key.

    ``host``: false where every host shows the same. ``query``: None keeps the query as it is; a set keeps just the
    named parameters, sorted, so that order and strangers do not matter (an empty set drops the query).
    """

    host: bool = True
    query: frozenset[bytes] | None = None

    def key(self, host: bytes, path: bytes, query: bytes | None) -> bytes:
        """The key of a URI. ``host`` is in lower case or stands for it, ``path`` canonical, ``query`` without ``?``."""
        if not self.host:
            host = b"*"
        if query is not None and self.query is not None:
            query = _selected(query, self.query)
        return host + b" " + path if query is None else b"%b %b?%b" % (host, path, query)


WHOLE_URI: Final = KeyRule()


def _selected(query: bytes, names: frozenset[bytes]) -> bytes | None:
    pairs = sorted(pair for pair in query.split(b"&") if pair.partition(b"=")[0] in names)
    return b"&".join(pairs) if pairs else None


def key_path(key: bytes) -> bytes:
    """The path in a key made by :meth:`KeyRule.key`, also of a variant's key."""
    path = key.partition(b" ")[2]
    return path.partition(b"\x00")[0].partition(b"?")[0]


class Target(NamedTuple):
    """A URI of this gateway: what an unsafe request may have changed. ``query`` is without ``?``, None when absent."""

    path: bytes
    query: bytes | None


def same_origin_target(reference: bytes, authority: bytes, path: bytes, query: bytes | None) -> Target | None:
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
        return Target(target_path, parts.query.encode("latin-1") if parts.query else None)
    except ValueError:
        return None


# A gateway is asked over http or https and the service need not know by which.
_PORTS: Final = {"http": "80", "https": "443"}


def _origin(netloc: str) -> str:
    host, colon, port = netloc.rpartition(":")
    if colon and port in _PORTS.values():
        return host.lower()
    return netloc.lower()
