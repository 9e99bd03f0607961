"""Requests as plugins see them, and what a guard has read of one.

A guard decides by what it reads. Where responses are stored, two requests may share one only if all that guards have
read of them is the same. So on such routes the request is a :class:`TrackedRequest`, which remembers what was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from hashlib import blake2b
from types import MappingProxyType

from passerelle.plugins import Headers, Request
from passerelle.security.guard import FieldSource, GuardedCall

_NOTHING: MappingProxyType[str, object] = MappingProxyType({})
_NO_SCOPES: frozenset[str] = frozenset()
# What is in every key of the cache, or is no property of the client.
_KEYED = frozenset({"method", "path", "route", "request_id", "headers"})
_TRACKED = frozenset(field.name for field in fields(Request)) - _KEYED


class ReceivedHeaders(Headers):
    """The header fields of a message, which are decoded when they are read. ``names`` collects what was read."""

    __slots__ = ("_head", "names")

    def __init__(self, head: FieldSource, names: set[str] | None = None) -> None:
        self._head = head
        self.names = names

    def get_all(self, name: str) -> list[str]:
        """See :meth:`passerelle.plugins.Headers.get_all`."""
        name = name.lower()
        if self.names is not None:
            self.names.add(name)
        try:
            return [line.value.decode("latin-1") for line in self._head.named(name.encode("ascii"))]
        except UnicodeEncodeError:
            return []

    def __iter__(self) -> Iterator[str]:
        found = list(dict.fromkeys(line.name.decode("latin-1") for line in self._head.lines))
        if self.names is not None:
            self.names.update(found, ("",))  # "" stands for the list of names itself
        return iter(found)

    def __len__(self) -> int:
        return len(list(iter(self)))


class TrackedRequest(Request):
    """A request that remembers in ``reads`` which of its properties were read."""

    __slots__ = ("reads",)

    def __getattribute__(self, name: str) -> object:
        if name in _TRACKED:
            object.__getattribute__(self, "reads").add(name)
        return object.__getattribute__(self, name)


def request_of(call: GuardedCall, route: str, *, tracked: bool = False) -> Request:
    """Return ``call`` on ``route`` as plugins see it; ``tracked``: what they read of it is remembered."""
    identity = call.identity
    made = (TrackedRequest if tracked else Request)(
        call.method.decode("latin-1"),
        call.path.decode("latin-1"),
        (call.query if call.forwarded_query is None else call.forwarded_query)[1:].decode("latin-1"),
        ReceivedHeaders(call.head, set() if tracked else None),
        call.address.decode("latin-1"),
        (call.get(b"host") or b"").decode("latin-1"),
        call.scheme.decode("ascii"),
        route,
        call.request_id.decode("latin-1"),
        identity.consumer if identity is not None else None,
        identity.scopes if identity is not None else _NO_SCOPES,
        identity.claims if identity is not None else _NOTHING,
    )
    if tracked:
        object.__setattr__(made, "reads", set())
    return made


def headers_read(request: Request) -> set[str]:
    """Return the names of the fields that were read of a tracked ``request``."""
    names = request.headers.names if isinstance(request.headers, ReceivedHeaders) else None
    return set() if names is None else names - {""}


def digest_of_reads(request: TrackedRequest) -> bytes:
    """Return what stands for all that was read of ``request``: empty if that is nothing but what is in every key."""
    read = set(object.__getattribute__(request, "reads"))
    headers = request.headers
    assert isinstance(headers, ReceivedHeaders)
    names = set(headers.names or ())
    if not read and not names:
        return b""
    parts = [f"{name}={getattr(request, name)!r}" for name in sorted(read)]
    parts += [f"{name}: {headers.get_all(name)!r}" for name in sorted(names) if name]
    if "" in names:
        parts.append("names")
    return blake2b("\0".join(parts).encode("utf-8", "backslashreplace"), digest_size=16).digest()
