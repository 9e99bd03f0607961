"""Field lines of HTTP/1.1 header sections (RFC 9110 §5, RFC 9112 §5), each validated once and cached.

Whether a line is well formed depends on the line alone, and clients and services repeat the same lines even where the
whole section varies from request to request. Validated lines are therefore cached in a bounded table: a section of ten
fields takes 2 us when its lines are known, against 8 us with the callbacks of llhttp and the same checks
(``docs/decisions/007-heads.md``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Any

from passerelle.errors import Failure, Kind
from passerelle.http.messages import FORWARDED_PREFIX, HOP_BY_HOP, list_members
from passerelle.http.messages import SELECTING as SELECTING_FIELDS

# RFC 9112 §5: no whitespace before the colon. RFC 9110 §5.5: no control byte but HTAB in a value, hence no bare CR or
# LF. A line that starts with whitespace is obs-fold (RFC 9112 §5.2) and does not match.
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")

# 1*DIGIT (RFC 9110 §8.6); int() alone would accept more. 15 digits are a petabyte.
_LENGTH = re.compile(rb"[0-9]{1,15}")

# A transfer coding without a meaning: none of RFC 9112 §7.2, whose bytes are not the content, and nothing that
# resembles chunked.
_UNKNOWN_CODING = re.compile(
    rb"(?!(?:x-)?(?:gzip|compress|deflate)$)(?!.*chunk)[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.IGNORECASE
)

# RFC 9110 §7.2 with RFC 3986 §3.2.2: a name, an IPv4 address or a bracketed IPv6 address, with an optional port.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z!$&'()*+;=._~%-]+)(?::([0-9]{0,5}))?")

# Prefix of fields that only the gateway sets; such a field from a client or a service is dropped.
OWN_PREFIX = b"passerelle-"
# Prefix of fields with the identity of an authenticated client; only the gateway sets them (security/identity.py).
IDENTITY_PREFIX = b"x-consumer"

# Maximum number of cached lines, and their maximum length: 4,096 lines of 120 bytes are about 1.5 MB.
REMEMBERED = 4096
LONGEST_REMEMBERED = 512
# Maximum number of cached lines per name: enough for the content types of a service, few enough for a CPU cache.
VALUES_REMEMBERED = 128

# Maximum number of options in all Connection lines of a message. Few have a meaning besides names of fields, and as a
# set, a head full of options takes fifty times its size.
MOST_OPTIONS = 64


# Roles of fields in framing and forwarding: plain integers, because reading an enum member costs 0.05 us. Roles above
# ORDINARY affect how a message is framed or routed (http1/head.py).
SELECTING = -1  # selects the stored response
ORDINARY = 0
DROPPED = 1  # hop-by-hop, or set by the gateway itself
HOST = 2
CONTENT_LENGTH = 3
TRANSFER_ENCODING = 4
CONNECTION = 5
UPGRADE = 6
EXPECT = 7
DEBUG = 8
DATE = 9
FORWARDED = 10  # forwarding information: client address, scheme, host
USER_AGENT = 11

# Roles of fields that are not forwarded. The gateway sets those of FORWARDED and DEBUG itself.
_ENDS_HERE = frozenset({DROPPED, CONNECTION, TRANSFER_ENCODING, UPGRADE, EXPECT, DEBUG, FORWARDED})

_CONTROLS = bytes(byte for byte in range(256) if (byte < 32 and byte != 9) or byte == 127)


_ValueParser = Callable[[bytes, Kind], object]


class FieldLine:
    """One validated field line.

    ``name`` is lower case, ``value`` has no surrounding whitespace, ``line`` is the line as received without CRLF.
    ``data`` is the parsed value that the role needs: the int of a Content-Length, the normalized Host, the options of a
    Connection, whether a Transfer-Encoding is chunked. ``relayed`` is False for fields that are not forwarded (RFC 9110
    §7.6.1).
    """

    __slots__ = ("data", "line", "name", "relayed", "role", "value")

    def __init__(self, name: bytes, value: bytes, line: bytes, role: int, relayed: bool, data: Any) -> None:
        self.name = name
        self.value = value
        self.line = line
        self.role = role
        self.relayed = relayed
        self.data = data


class FieldTable:
    """Bounded table of validated field lines, for requests or for responses.

    A malformed line is a Failure of ``kind``. ``roles`` maps lower-case names to roles.
    """

    __slots__ = ("_kind", "_many_valued", "_names", "_roles", "_values", "known")

    def __init__(self, kind: Kind, roles: Mapping[bytes, int]) -> None:
        self._kind = kind
        self._roles = roles
        # By name as received: the lower-case name, its role, whether it is forwarded, and the parser of its value.
        self._names: dict[bytes, tuple[bytes, int, bool, _ValueParser | None]] = {}
        self._many_valued: set[bytes] = set()  # names with more values than VALUES_REMEMBERED
        self._values: dict[bytes, list[bytes]] = {}  # the cached lines per name
        self.known: dict[bytes, FieldLine] = {}

    def learn(self, line: bytes) -> FieldLine:
        """Validate ``line`` (without CRLF) and cache it; raise Failure if it is malformed."""
        received, colon, octets = line.partition(b":")
        named = self._names.get(received)
        # A known name is a valid token, so only the value is left to check: half of the cost of the pattern.
        if named is None or not colon or octets.translate(None, _CONTROLS) != octets:
            if _LINE.fullmatch(line) is None:
                raise Failure(self._kind, "malformed field line")
            named = self._learn_name(received)
        name, role, relayed, read = named
        value = octets.strip(b" \t")
        field = FieldLine(name, value, line, role, relayed, read(value, self._kind) if read else None)
        # Of a field with many values, only every eighth line is cached, selected by its hash, which the lookup has
        # computed.
        if len(line) <= LONGEST_REMEMBERED and not (name in self._many_valued and hash(line) & 7):
            self._remember(field)
        return field

    def _remember(self, field: FieldLine) -> None:
        name, line = field.name, field.line
        values = self._values.setdefault(name, [])
        if len(values) >= VALUES_REMEMBERED:
            # A field with a new value each time (such as a trace ID) must not evict other fields or fill the CPU
            # caches: only its own lines are evicted.
            for old in values:
                self.known.pop(old, None)
            values.clear()
            self._many_valued.add(name)
        values.append(line)
        if len(self.known) >= REMEMBERED:
            # The table is full of lines that occurred once (cookies, trace IDs); clearing it costs 20 us.
            self.known.clear()
            self._many_valued.clear()
            self._values = {name: [line]}
        self.known[line] = field

    def _learn_name(self, received: bytes) -> tuple[bytes, int, bool, _ValueParser | None]:
        name = received.lower()
        role = self._roles.get(name) or self._role_by_prefix(name)
        named = name, role, role not in _ENDS_HERE, _VALUE_PARSERS.get(role)
        if len(received) <= LONGEST_REMEMBERED:
            if len(self._names) >= REMEMBERED:
                self._names.clear()
            self._names[received] = named
        return named

    def _role_by_prefix(self, name: bytes) -> int:
        """Return the role of a name that is not in the table, by its prefix.

        CGI and WSGI map ``X_A`` and ``X-A`` to the same name (RFC 3875 §4.1.18). A name with underscores is therefore
        dropped if the name with hyphens has a special role.
        """
        if b"_" in name:
            alias = name.replace(b"_", b"-")
            role = self._roles.get(alias) or self._role_by_prefix(alias)
            return ORDINARY if role in (ORDINARY, SELECTING) else DROPPED
        if name.startswith((OWN_PREFIX, IDENTITY_PREFIX)):
            return DROPPED
        return FORWARDED if name.startswith(FORWARDED_PREFIX) else ORDINARY


def parse_length(value: bytes, kind: Kind) -> int:
    """Return a Content-Length in bytes (RFC 9110 §8.6: 1*DIGIT, ASCII); raise a Failure of ``kind`` otherwise."""
    if not _LENGTH.fullmatch(value):
        raise Failure(kind, "malformed Content-Length")
    return int(value)


def parse_host(value: bytes, kind: Kind) -> bytes:
    """Return a Host in lower case, without port and trailing dot (RFC 9110 §4.2.1, §7.2).

    Raise a Failure of ``kind`` if it is malformed.
    """
    match = _HOST.fullmatch(value)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise Failure(kind, "malformed Host")
    if match[1].startswith(b"["):
        try:
            IPv6Address(match[1][1:-1].decode("ascii"))
        except ValueError:
            raise Failure(kind, "malformed Host") from None
    return match[1].lower().rstrip(b".")


def parse_transfer_encoding(value: bytes, kind: Kind) -> bool:
    """Return whether the transfer coding is ``chunked``; raise Failure if it is malformed or not supported.

    Empty list members are ignored (RFC 9110 §5.6.1.2, RFC 9112 §6.1). The result is False only for a response with one
    name that denotes no known coding (such as the former ``identity``). The body of such a response ends with the
    connection (RFC 9112 §6.3 item 4) and is relayed unchanged. A name with a meaning, or one that could be taken for
    ``chunked``, is refused.
    """
    codings = [m.lower() for m in list_members(value)]
    if codings == [b"chunked"]:
        return True
    if kind is Kind.BAD_RESPONSE and len(codings) == 1 and _UNKNOWN_CODING.fullmatch(codings[0]):
        return False
    if kind is Kind.BAD_REQUEST and codings and codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
        raise Failure(Kind.CODING_UNSUPPORTED, "transfer coding other than chunked")
    raise Failure(kind, "malformed Transfer-Encoding")


def _parse_options(value: bytes, kind: Kind) -> frozenset[bytes]:
    options = frozenset(m.lower() for m in list_members(value))
    if len(options) > MOST_OPTIONS:
        raise Failure(kind, f"more than {MOST_OPTIONS} Connection options")
    return options


def _parse_expectation(value: bytes, kind: Kind) -> bool:
    if value.lower() != b"100-continue":
        raise Failure(Kind.EXPECTATION_FAILED, "unknown expectation")
    return True


_VALUE_PARSERS: dict[int, _ValueParser] = {
    HOST: parse_host,
    CONTENT_LENGTH: parse_length,
    TRANSFER_ENCODING: parse_transfer_encoding,
    CONNECTION: _parse_options,
    EXPECT: _parse_expectation,
}

_DROPPED: dict[bytes, int] = dict.fromkeys(HOP_BY_HOP, DROPPED)

REQUEST_FIELDS = FieldTable(
    Kind.BAD_REQUEST,
    {
        **_DROPPED,
        b"connection": CONNECTION,
        b"content-length": CONTENT_LENGTH,
        b"expect": EXPECT,
        b"forwarded": FORWARDED,
        b"host": HOST,
        b"passerelle-debug": DEBUG,
        b"transfer-encoding": TRANSFER_ENCODING,
        b"upgrade": UPGRADE,
        b"user-agent": USER_AGENT,
        **dict.fromkeys(SELECTING_FIELDS, SELECTING),
        # Believed from a trusted proxy only (RFC 7239 §8.1); the gateway sets it itself.
        b"x-real-ip": FORWARDED,
        b"proxy": DROPPED,  # in a CGI or WSGI environment, HTTP_PROXY sets the proxy for the service's own requests
        b"x-request-id": DROPPED,
    },
)

RESPONSE_FIELDS = FieldTable(
    Kind.BAD_RESPONSE,
    {
        **_DROPPED,
        b"connection": CONNECTION,
        b"content-length": CONTENT_LENGTH,
        b"date": DATE,
        b"transfer-encoding": TRANSFER_ENCODING,
        b"upgrade": UPGRADE,
    },
)
