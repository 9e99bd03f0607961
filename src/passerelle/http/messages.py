"""Requests, responses and header fields as plain values (RFC 9110).

Everything is ``bytes``, as it was on the wire. Header fields are a *list of pairs*, never a mapping: order,
repetition and values are kept (RFC 9110 §5.3), and ``Set-Cookie`` is never joined. Names in a :data:`Fields` list
are lower case; what goes out byte-true is relayed from the raw section, not from this list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Field = tuple[bytes, bytes]
Fields = list[Field]

# RFC 9110 §7.6.1: fields that concern one connection, whether or not Connection names them. Proxy-Authenticate and
# Proxy-Authorization are kept out too: this hop is a gateway and no client's credentials for a proxy go upstream.
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

# Request fields that decide how a cache answers, beside those that Vary names: conditions, directives, and who asks
# (RFC 9111 §3.5, §4, §5.2.1; RFC 9110 §13.1, §14.2).
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

# Where a client says that it comes from: some framework believes each of these, X-Forwarded-Prefix too.
FORWARDED_PREFIX = b"x-forwarded-"


def is_forwarding_field(name: bytes) -> bool:
    """Whether a field (lower case) is one by which the gateway tells services of the way that a request came.

    It is in no request as a client sends it, so nothing can be chosen by it.
    """
    return name in (b"forwarded", b"x-real-ip", b"x-request-id") or name.startswith(FORWARDED_PREFIX)


# RFC 9110 §9.2.1 and §9.2.2.
SAFE_METHODS: frozenset[bytes] = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
IDEMPOTENT_METHODS: frozenset[bytes] = SAFE_METHODS | {b"PUT", b"DELETE"}


def get(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The first value of the field called ``name`` (lower case), or None."""
    for key, value in fields:
        if key == name:
            return value
    return None


def get_all(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Every value of the field called ``name`` (lower case), in order."""
    return [value for key, value in fields if key == name]


def combined(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The field's values joined with a comma (RFC 9110 §5.2), or None. Never for ``set-cookie``."""
    values = [value for key, value in fields if key == name]
    return b", ".join(values) if values else None


def list_members(value: bytes) -> Iterator[bytes]:
    """The members of a comma-separated list without quoted strings, empty ones skipped (RFC 9110 §5.6.1.2)."""
    for part in value.split(b","):
        member = part.strip(b" \t")
        if member:
            yield member


def connection_options(fields: Iterable[Field]) -> frozenset[bytes]:
    """Lower-case options of all ``Connection`` lines together (RFC 9110 §7.6.1)."""
    return frozenset(m.lower() for key, value in fields if key == b"connection" for m in list_members(value))


def end_to_end(fields: Iterable[Field]) -> Fields:
    """The fields that may be relayed: neither hop-by-hop nor named by ``Connection`` (RFC 9110 §7.6.1)."""
    fields = list(fields)
    drop = HOP_BY_HOP | (connection_options(fields) - NEVER_NOMINATED)
    return [field for field in fields if field[0] not in drop]


# A client must not use Connection to remove what frames or routes the message, or what the gateway itself adds.
NEVER_NOMINATED: frozenset[bytes] = frozenset({b"host", b"content-length", b"content-type", b"close"})


class Response:
    """A whole response held in memory: what the gateway itself says, a composed answer, a stored one."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: Fields, body: bytes = b"") -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.body)} bytes>"
