"""Primary cache keys: the parts of a request's URI that identify a stored response (RFC 9111 §2).

A key is ``host SP path``, followed by ``?query`` if the query counts. Everything else that selects a response (header
fields, the consumer) belongs to variants, so that one invalidation of the URI reaches all of them. Only the key is
normalised, never the target that is forwarded.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urljoin, urlsplit


class KeyRule(NamedTuple):
    """Rule that builds the key from the parts of a URI.

    ``hosts``: None if each host has its own responses. If all hosts of a route share their responses, ``hosts`` is the
    pattern that they match (empty for every host): hosts outside the pattern have another route, and perhaps another
    service. ``query``: None keeps the query unchanged; a set (made by :func:`parameters`) keeps only those parameters,
    sorted by name, so that unknown parameters do not create further keys (an empty set drops the query).
    """

    hosts: bytes | None = None
    query: frozenset[bytes] | None = None

    def key(self, host: bytes, path: bytes, query: bytes | None) -> bytes:
        """Build the key of a URI; ``host`` is lower-case, ``path`` canonical, ``query`` without ``?``."""
        if self.hosts is not None:
            host = b"@" + self.hosts  # no Host has that octet: a client cannot request this key directly
        if query is not None and self.query is not None:
            query = _selected(query, self.query)
        return host + b" " + path if query is None else b"%b %b?%b" % (host, path, query)

    def keys(self, host: bytes, path: bytes, query: bytes | None) -> tuple[bytes, ...]:
        """Build all keys under which responses to a URI may be stored."""
        return (self.key(host, path, query),)


class SideKeyRule(KeyRule):
    """Rule of one side of a split, whose responses are stored apart from those of the other sides.

    ``side`` is its name, and ``sides`` are the names of all. A key begins with ``side@``: no Host has that octet.
    """

    side: bytes
    sides: tuple[bytes, ...]
    inner: KeyRule

    @classmethod
    def of(cls, rule: KeyRule, side: bytes, sides: tuple[bytes, ...]) -> SideKeyRule:
        """Return ``rule`` for ``side``."""
        made = cls(*rule)
        made.side, made.sides, made.inner = side, sides, rule
        return made

    def key(self, host: bytes, path: bytes, query: bytes | None) -> bytes:
        """See :meth:`KeyRule.key`."""
        return b"%b@%b" % (self.side, self.inner.key(host, path, query))

    def keys(self, host: bytes, path: bytes, query: bytes | None) -> tuple[bytes, ...]:
        """See :meth:`KeyRule.keys`: the keys of all sides."""
        key = self.inner.key(host, path, query)
        return tuple(b"%b@%b" % (side, key) for side in self.sides)


class RouteKeyRule(KeyRule):
    """Rule of a route with conditions, whose responses are stored apart from those of other routes to the same URI.

    ``route`` is a digest of the route. A key begins with ``=route@``: no service and no Host begins like this.
    """

    route: bytes

    @classmethod
    def of(cls, rule: KeyRule, route: bytes) -> RouteKeyRule:
        """Return ``rule`` for ``route``."""
        made = cls(*rule)
        made.route = route
        return made

    def key(self, host: bytes, path: bytes, query: bytes | None) -> bytes:
        """See :meth:`KeyRule.key`."""
        return b"=%b@%b" % (self.route, super().key(host, path, query))


WHOLE_URI: Final = KeyRule()


def parameters(names: Iterable[str]) -> frozenset[bytes]:
    """Return the names of query parameters in the form that :class:`KeyRule` compares."""
    return frozenset(form for name in names for form in (name.lower().encode(), _parameter(name.encode())))


def _selected(query: bytes, names: frozenset[bytes]) -> bytes | None:
    """Return the pairs with these names, or None if there are none.

    Pairs are sorted by name; pairs with equal names keep their order, because some services use the first and others
    the last. A pair is kept if any service could read its name as one of ``names``.
    """
    found = []
    for pair in query.split(b"&"):
        for piece in pair.split(b";"):
            name = _parameter(piece.partition(b"=")[0])
            start = name.partition(b"[")[0]
            if name in names or start in names:
                found.append((start, pair))
                break
    # A service that treats ";" like "&" finds several names in one pair, so the order of the pairs is kept.
    if b";" not in query:
        found.sort(key=itemgetter(0))
    return b"&".join([pair for _, pair in found]) if found else None


def _parameter(name: bytes) -> bytes:
    """Normalise a parameter name like services that decode it, strip whitespace and ignore letter case."""
    return unquote_to_bytes(name.replace(b"+", b" ")).strip().lower()


def key_path(key: bytes) -> bytes:
    """Return the path in a key made by :meth:`KeyRule.key` or in the key of a variant."""
    path = key.partition(b" ")[2]
    return path.partition(b"\x00")[0].partition(b"?")[0]


class TargetUri(NamedTuple):
    """URI of this gateway that an unsafe request may have changed. ``query`` is without ``?``, or None if absent."""

    path: bytes
    query: bytes | None


def same_origin_target(reference: bytes, authority: bytes, path: bytes, query: bytes | None) -> TargetUri | None:
    """Resolve a Location or Content-Location if it has the same host as the request (RFC 9111 §4.4).

    ``authority`` is the request's Host field in lower case. The result is None for a URI of another origin, because a
    response must not invalidate resources of other origins, and for a reference that is not a valid URI.
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


# Clients reach the gateway over http or https, and the service need not know which of the two was used.
_PORTS: Final = {"http": "80", "https": "443"}


def _origin(netloc: str) -> str:
    host, colon, port = netloc.rpartition(":")
    if colon and port in _PORTS.values():
        return host.lower()
    return netloc.lower()
