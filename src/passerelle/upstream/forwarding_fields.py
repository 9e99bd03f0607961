"""Further fields about the client that a service may receive: ``Forwarded``, ``X-Real-IP``, ``X-Forwarded-Port``.

They are derived from the ``X-Forwarded-…`` lines of the gateway (see :mod:`.request_headers`), which contain only what
the gateway has seen itself or a trusted proxy reports.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from passerelle.security.header_rules import lines_of, without

FORWARDED = "Forwarded"
REAL_IP = "X-Real-IP"
PORT = "X-Forwarded-Port"

_FOR = re.compile(rb"\r\nX-Forwarded-For: ([^\r\n]*)")
_HOST = re.compile(rb"\r\nX-Forwarded-Host: ([^\r\n]*)")
_PROTO = re.compile(rb"\r\nX-Forwarded-Proto: ([A-Za-z][A-Za-z0-9+.-]*)\r\n")
_PORT_OF = re.compile(rb":([0-9]{1,5})$")
_IPV4 = re.compile(rb"[0-9.]+")
_TO_ESCAPE = re.compile(rb'(["\\])')


class ForwardingFields:
    """Adds the fields ``names`` to requests, in place of any fields of these names."""

    __slots__ = ("_names", "_strip")

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._strip = lines_of([name.lower().encode("ascii") for name in sorted(names)], aliases=True)

    def apply(self, message: bytes) -> bytes:
        """Return the head ``message`` of a request, from the request line to the empty line, with the fields."""
        # The request line is the first line, and no field is before it.
        message = without(message, self._strip)
        chain = _value(_FOR, message).split(b", ")
        host, proto = _value(_HOST, message), _value(_PROTO, message)
        lines = b""
        if FORWARDED in self._names:
            lines += b"Forwarded: %b\r\n" % _forwarded(chain, host, proto)
        if REAL_IP in self._names and chain[0]:
            lines += b"X-Real-IP: %b\r\n" % chain[0]
        if PORT in self._names:
            port = _PORT_OF.search(host)
            lines += b"X-Forwarded-Port: %b\r\n" % (port[1] if port is not None else _standard_port(proto))
        return b"%b%b\r\n" % (message[:-2], lines)


def _value(pattern: re.Pattern[bytes], message: bytes) -> bytes:
    found = pattern.search(message)
    return found[1] if found is not None else b""


def _standard_port(proto: bytes) -> bytes:
    return b"443" if proto.lower() == b"https" else b"80"


def _forwarded(chain: list[bytes], host: bytes, proto: bytes) -> bytes:
    """Return the value of ``Forwarded`` (RFC 7239 §4): one element for each address, the client's first.

    Host and scheme are those of the request of the client, so they are in its element.
    """
    first = b"for=%b" % _node(chain[0])
    if host:
        first += b';host="%b"' % _TO_ESCAPE.sub(rb"\\\1", host)
    if proto:
        first += b";proto=%b" % proto
    return b", ".join([first, *(b"for=%b" % _node(address) for address in chain[1:])])


def _node(address: bytes) -> bytes:
    """Return an address as a node (RFC 7239 §6): IPv6 in brackets and quoted."""
    if b":" in address:
        return b'"[%b]"' % address
    return address if _IPV4.fullmatch(address) else b"unknown"
