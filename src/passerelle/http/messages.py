"""Responses and header fields as plain values (RFC 9110).

All values are ``bytes`` as on the wire. Header fields are a *list of pairs*, never a mapping: order, repetition and
values are preserved (RFC 9110 §5.3), and ``Set-Cookie`` is never combined. Names in a :data:`Fields` list are lower
case. Forwarded field lines are taken byte for byte from the received section, not from such a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Field = tuple[bytes, bytes]
Fields = list[Field]

# RFC 9110 §7.6.1: fields that concern one connection, whether or not Connection names them. Proxy-Authenticate and
# Proxy-Authorization are included: this hop is a gateway, and credentials for a proxy are not forwarded upstream.
HOP_BY_HOP: frozenset[bytes] = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Request fields that affect how a cache responds, besides those that Vary names: conditions, directives and the
# identity of the client (RFC 9111 §3.5, §4, §5.2.1; RFC 9110 §13.1, §14.2).
SELECTING: frozenset[bytes] = frozenset(
    {
        b"authorization",
        b"cache-control",
        b"cookie",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    }
)

# Fields that the request for a part of a composition must not inherit: conditions, ranges and codings apply to the
# whole response (RFC 9110 §13, §14, §12.5.3), and there is no body.
NOT_FOR_PARTS: frozenset[bytes] = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"accept-ranges",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-type",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    }
)

# Prefix of forwarding fields. Every one is believed by some framework, X-Forwarded-Prefix included.
FORWARDED_PREFIX = b"x-forwarded-"


def is_forwarding_field(name: bytes) -> bool:
    """Whether ``name`` (lower case) is a field that the gateway adds to describe the client or the request.

    Clients do not choose its value, so a stored response must not be selected by it.
    """
    return name in (b"forwarded", b"x-real-ip", b"x-request-id") or name.startswith(FORWARDED_PREFIX)


# RFC 9110 §9.2.1 and §9.2.2.
SAFE_METHODS: frozenset[bytes] = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
IDEMPOTENT_METHODS: frozenset[bytes] = SAFE_METHODS | {b"PUT", b"DELETE"}


def get(fields: Iterable[Field], name: bytes) -> bytes | None:
    """Return the first value of the field ``name`` (lower case), or None."""
    for key, value in fields:
        if key == name:
            return value
    return None


def get_all(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Return all values of the field ``name`` (lower case), in order."""
    return [value for key, value in fields if key == name]


def combined(fields: Iterable[Field], name: bytes) -> bytes | None:
    """Return the values of a field joined with commas (RFC 9110 §5.2), or None. Not for ``set-cookie``."""
    values = [value for key, value in fields if key == name]
    return b", ".join(values) if values else None


def list_members(value: bytes) -> Iterator[bytes]:
    """Yield the members of a comma-separated list without quoted strings; skip empty ones (RFC 9110 §5.6.1.2)."""
    for part in value.split(b","):
        member = part.strip(b" \t")
        if member:
            yield member


def connection_options(fields: Iterable[Field]) -> frozenset[bytes]:
    """Return the options of all ``Connection`` lines in lower case (RFC 9110 §7.6.1)."""
    return frozenset(m.lower() for key, value in fields if key == b"connection" for m in list_members(value))


def end_to_end(fields: Iterable[Field]) -> Fields:
    """Return the fields that may be forwarded: neither hop-by-hop nor named by ``Connection`` (RFC 9110 §7.6.1)."""
    fields = list(fields)
    drop = HOP_BY_HOP | (connection_options(fields) - NEVER_NOMINATED)
    return [field for field in fields if field[0] not in drop]


# Fields that frame or route the message, or that the gateway adds: Connection cannot remove them.
NEVER_NOMINATED: frozenset[bytes] = frozenset({b"host", b"content-length", b"content-type", b"close"})


class Response:
    """A complete response in memory: made by the gateway, composed, or stored."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: Fields, body: bytes = b"") -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.body)} bytes>"
