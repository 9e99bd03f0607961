"""Field lines of HTTP/1.1 header sections (RFC 9110 §5, RFC 9112 §5), each checked once and then remembered.

Whether a line is well formed depends on nothing but the line, and clients and services send the same lines again and
again, also where the section as a whole differs from request to request. So a checked line is kept in a bounded table:
a section of ten fields costs 2 us when its lines are known, against 8 us with llhttp's callbacks and the same checks
(``docs/decisions/007-heads.md``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from passerelle.errors import Failure, Kind
from passerelle.http.messages import FORWARDED_PREFIX, HOP_BY_HOP, list_members
from passerelle.http.messages import SELECTING as SELECTING_FIELDS

# RFC 9112 §5: no blank before the colon; RFC 9110 §5.5: a value holds no control byte but HTAB, so no bare CR or LF
# either; a line that starts with a blank is obs-fold (RFC 9112 §5.2) and does not match.
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")

# 1*DIGIT and nothing that int() would also take (RFC 9110 §8.6); 15 digits are a petabyte.
_LENGTH = re.compile(rb"[0-9]{1,15}")

# A transfer coding that says nothing: none of RFC 9112 §7.2, whose bytes are not the content, and no garbled chunked.
_UNKNOWN_CODING = re.compile(
    rb"(?!(?:x-)?(?:gzip|compress|deflate)$)(?!.*chunk)[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.IGNORECASE
)

# RFC 9110 §7.2 with RFC 3986 §3.2.2: a name, an IPv4 address or a bracketed IPv6 one, and perhaps a port.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z!$&'()*+;=._~%-]+)(?::([0-9]{0,5}))?")

# What the gateway itself says; from a client or a service such a name means nothing.
OWN_PREFIX = b"passerelle-"
# Who the gateway found a client to be: only the gateway says it (security/identity.py).
IDENTITY_PREFIX = b"x-consumer"

# How many lines are remembered and how long one may be: 4,096 lines of 120 bytes are about 1.5 MB.
REMEMBERED = 4096
LONGEST_REMEMBERED = 512
# How many lines of one name: enough for a service's content types, small enough to stay in a processor's cache.
VALUES_REMEMBERED = 128

# How many options all Connection lines of a message may have together. Few mean something, beside names of fields; as a
# set a head full of them took fifty times its bytes.
MOST_OPTIONS = 64


# What a field means to framing and relaying: plain integers, since reading a member of an enum costs 0.05 us. What is
# over ORDINARY frames or routes a message (http1/head.py).
SELECTING = -1  # decides how a cache answers
ORDINARY = 0
DROPPED = 1  # hop-by-hop, or written by the gateway itself
HOST = 2
CONTENT_LENGTH = 3
TRANSFER_ENCODING = 4
CONNECTION = 5
UPGRADE = 6
EXPECT = 7
DEBUG = 8
DATE = 9
FORWARDED = 10  # where a client says that it comes from
USER_AGENT = 11

# Roles of fields that end here; FORWARDED and DEBUG are the gateway's to say.
_ENDS_HERE = frozenset({DROPPED, CONNECTION, TRANSFER_ENCODING, UPGRADE, EXPECT, DEBUG, FORWARDED})

_CONTROLS = bytes(byte for byte in range(256) if (byte < 32 and byte != 9) or byte == 127)


_Reader = Callable[[bytes, Kind], object]


class FieldLine:
    """One checked field line.

    ``name`` is lower case, ``value`` without surrounding blanks, ``line`` as received, without CRLF. ``data`` is what
    the role needs: a Content-Length's int, a Host's normal form, a Connection's options, whether a coding is chunked.
    ``relayed`` is false for what goes no further than the gateway (RFC 9110 §7.6.1).
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
    """Field lines known so far, for requests or for responses (``kind`` is what a malformed line is)."""

    __slots__ = ("_kind", "_many_valued", "_names", "_roles", "_values", "known")

    def __init__(self, kind: Kind, roles: Mapping[bytes, int]) -> None:
        self._kind = kind
        self._roles = roles
        # By names as received: the name in lower case, its role, whether it is relayed, and what reads its value.
        self._names: dict[bytes, tuple[bytes, int, bool, _Reader | None]] = {}
        self._many_valued: set[bytes] = set()  # names of more values than are remembered
        self._values: dict[bytes, list[bytes]] = {}  # the lines remembered of each name
        self.known: dict[bytes, FieldLine] = {}

    def learn(self, line: bytes) -> FieldLine:
        """Check ``line`` (without CRLF) and remember it; a Failure when it is malformed."""
        received, colon, octets = line.partition(b":")
        named = self._names.get(received)
        # A known name is a token, so the value is all that is left to check: half of what the pattern takes.
        if named is None or not colon or octets.translate(None, _CONTROLS) != octets:
            if _LINE.fullmatch(line) is None:
                raise Failure(self._kind, "malformed field line")
            named = self._learn_name(received)
        name, role, relayed, read = named
        value = octets.strip(b" \t")
        field = FieldLine(name, value, line, role, relayed, read(value, self._kind) if read else None)
        # Of a field that has had many values few are worth their place: every eighth, by the hash that the lookup made.
        if len(line) <= LONGEST_REMEMBERED and not (name in self._many_valued and hash(line) & 7):
            self._remember(field)
        return field

    def _remember(self, field: FieldLine) -> None:
        name, line = field.name, field.line
        values = self._values.setdefault(name, [])
        if len(values) >= VALUES_REMEMBERED:
            # A field that differs each time (a trace id) must neither push out the others nor spread over the
            # processor's caches: its lines are forgotten among themselves.
            for old in values:
                self.known.pop(old, None)
            values.clear()
            self._many_valued.add(name)
        values.append(line)
        if len(self.known) >= REMEMBERED:
            # Lines of one request only (cookies, trace ids) fill the table; starting anew costs 20 us each time.
            self.known.clear()
            self._many_valued.clear()
            self._values = {name: [line]}
        self.known[line] = field

    def _learn_name(self, received: bytes) -> tuple[bytes, int, bool, _Reader | None]:
        name = received.lower()
        role = self._roles.get(name) or self._role_by_form(name)
        named = name, role, role not in _ENDS_HERE, _READERS.get(role)
        if len(received) <= LONGEST_REMEMBERED:
            if len(self._names) >= REMEMBERED:
                self._names.clear()
            self._names[received] = named
        return named

    def _role_by_form(self, name: bytes) -> int:
        """The role of a name that is not in the table: those of the gateway and of forwarding go by their beginning.

        CGI and WSGI read ``X_A`` and ``X-A`` as one name (RFC 3875 §4.1.18), so a name with underscores that would be
        one of ours in their eyes never passes.
        """
        if b"_" in name:
            alias = name.replace(b"_", b"-")
            role = self._roles.get(alias) or self._role_by_form(alias)
            return ORDINARY if role in (ORDINARY, SELECTING) else DROPPED
        if name.startswith((OWN_PREFIX, IDENTITY_PREFIX)):
            return DROPPED
        return FORWARDED if name.startswith(FORWARDED_PREFIX) else ORDINARY


def parse_length(value: bytes, kind: Kind) -> int:
    """A Content-Length in bytes (RFC 9110 §8.6: 1*DIGIT, ASCII); a Failure of ``kind`` for anything else."""
    if not _LENGTH.fullmatch(value):
        raise Failure(kind, "malformed Content-Length")
    return int(value)


def parse_host(value: bytes, kind: Kind) -> bytes:
    """A Host without its port, lower case, without a final dot; a Failure when it is none (RFC 9110 §4.2.1, §7.2)."""
    match = _HOST.fullmatch(value)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise Failure(kind, "malformed Host")
    return match[1].lower().rstrip(b".")


def parse_transfer_encoding(value: bytes, kind: Kind) -> bool:
    """True for ``chunked``; empty list members count for nothing (RFC 9110 §5.6.1.2, RFC 9112 §6.1).

    False, of a response only: one name that means no coding (``identity`` once did). Its body ends with the
    connection (RFC 9112 §6.3 item 4), and is taken as it is. What has a meaning or could be read as chunked is refused.
    """
    codings = [m.lower() for m in list_members(value)]
    if codings == [b"chunked"]:
        return True
    if kind is Kind.BAD_RESPONSE and len(codings) == 1 and _UNKNOWN_CODING.fullmatch(codings[0]):
        return False
    if kind is Kind.BAD_REQUEST and codings and codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
        raise Failure(Kind.CODING_UNSUPPORTED, "a transfer coding other than chunked")
    raise Failure(kind, "malformed Transfer-Encoding")


def _options(value: bytes, kind: Kind) -> frozenset[bytes]:
    options = frozenset(m.lower() for m in list_members(value))
    if len(options) > MOST_OPTIONS:
        raise Failure(kind, f"more than {MOST_OPTIONS} options of Connection")
    return options


def _expectation(value: bytes, kind: Kind) -> bool:
    if value.lower() != b"100-continue":
        raise Failure(Kind.EXPECTATION_FAILED, "unknown expectation")
    return True


_READERS: dict[int, _Reader] = {
    HOST: parse_host,
    CONTENT_LENGTH: parse_length,
    TRANSFER_ENCODING: parse_transfer_encoding,
    CONNECTION: _options,
    EXPECT: _expectation,
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
        # A client's word counts only when it is a trusted proxy (RFC 7239 §8.1); the gateway writes these itself.
        b"x-real-ip": FORWARDED,
        b"proxy": DROPPED,  # HTTP_PROXY in a CGI or WSGI environment names a proxy for the service's own requests
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
