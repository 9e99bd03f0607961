"""Field lines of HTTP/1.1 header sections (RFC 9110 §5, RFC 9112 §5): the layout of a section.

The values of a head differ in each request (cookies, trace ids, conditions), but its names hardly do: a client program
sends the same ones in the same order. What follows from names alone is therefore computed once for each sequence of
names (:class:`Layout`). What is left for each head is one pass over its octets, and the values that frame or route it
(``docs/decisions/020-patterns-of-layouts.md``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import compress
from operator import itemgetter
from typing import Any

from passerelle.errors import Failure, Kind
from passerelle.http.messages import FORWARDED_PREFIX, HOP_BY_HOP
from passerelle.http.messages import SELECTING as SELECTING_FIELDS

# RFC 9112 §5: no whitespace before the colon. A line that starts with whitespace is obs-fold (RFC 9112 §5.2) and does
# not match.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:")

# Prefix of fields that only the gateway sets; such a field from a client or a service is dropped.
OWN_PREFIX = b"passerelle-"
# Prefix of fields with the identity of an authenticated client; only the gateway sets them (security/identity.py).
IDENTITY_PREFIX = b"x-consumer"

# Maximum number of remembered layouts, and of the fields and the bytes of names in one (about 5 KB at most). Programs,
# their versions, optional fields and proxies make some hundreds.
REMEMBERED = 1024
_MOST_FIELDS, _MOST_NAME_BYTES = 50, 1024

# A layout gets a pattern when it has been found this many times, so that names that a client invents never cost a
# compilation (1 ms) each; and at most this many layouts of a table have patterns, of 3 to 14 KB each.
PATTERN_AFTER, _MOST_PATTERNS = 32, 256
# Maximum number of patterns for some lines of one layout, of 1 to 14 KB each.
_MOST_PARTS = 16


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
# Roles of fields whose values frame or route a message. Content-Length is not one of them: it differs with each body.
_FRAMING = frozenset({HOST, TRANSFER_ENCODING, CONNECTION, UPGRADE, EXPECT, DEBUG})
_ONCE = {HOST: "Host", CONTENT_LENGTH: "Content-Length", TRANSFER_ENCODING: "Transfer-Encoding"}

# RFC 9110 §5.5: no control character but HTAB in a value. They map to another octet, all others to themselves.
WITHOUT_CONTROLS = bytes(c ^ 0x80 if (c < 32 and c != 9) or c == 127 else c for c in range(256))
# The same octets as a class of a pattern, without the negation, which costs half as much again for each octet.
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"


class FieldLine:
    """One field line: ``name`` in lower case, ``value`` without surrounding whitespace, ``line`` as received, without
    CRLF."""

    __slots__ = ("line", "name", "value")

    def __init__(self, name: bytes, value: bytes, line: bytes) -> None:
        self.name = name
        self.value = value
        self.line = line


class Layout:
    """The names of a header section in their order, and what follows from them alone.

    ``names`` are in lower case. ``at`` maps a name to the numbers of its lines. ``framing`` selects the lines of a
    section that frame or route it, as the key of what they state together; ``roles`` are the roles of these lines.
    ``content_length`` and ``user_agent`` are numbers of lines, or -1 (the empty string after the last line).
    ``selecting`` are the numbers of the lines that select a stored response
    (:data:`passerelle.http.messages.SELECTING`). ``kept`` states for each line whether it is forwarded, or is None if
    all are.

    ``fullmatch`` matches the well-formed sections of this layout and no others, once the layout is in frequent use:
    checking the names, checking each octet of the values, and finding the lines are one pass. Before that, it matches
    nothing. ``groups`` are the numbers of the groups of the lines in a match, ``agent_group`` is that of
    ``user_agent``, ``framing_groups`` selects from a match what ``framing`` selects from lines, and ``runs`` the runs
    of lines that are forwarded (None: the whole section is).

    ``varies`` states for each line whether its value neither frames nor routes the message, and is forwarded unless
    Connection names it.
    """

    __slots__ = (
        "_framing_numbers",
        "_kept_groups",
        "_kept_without",
        "_parts",
        "_prefixes",
        "agent_group",
        "at",
        "content_length",
        "forwarded",
        "framing",
        "framing_groups",
        "fullmatch",
        "groups",
        "has_date",
        "kept",
        "names",
        "roles",
        "runs",
        "selecting",
        "user_agent",
        "uses",
        "varies",
    )

    def __init__(self, prefixes: list[bytes], named: list[tuple[bytes, int]], kind: Kind) -> None:
        self.names = tuple([name for name, _ in named])
        self._prefixes = tuple(prefixes)
        at: dict[bytes, tuple[int, ...]] = {}
        by_role: dict[int, list[int]] = {}
        for number, (name, role) in enumerate(named):
            at[name] = (*at.get(name, ()), number)
            by_role.setdefault(role, []).append(number)
        for role, text in _ONCE.items():
            if len(by_role.get(role, ())) > 1:
                raise Failure(kind, f"more than one {text}")
        self.at = at
        self._framing_numbers = [number for number, (_, role) in enumerate(named) if role in _FRAMING]
        self.roles = tuple([named[number][1] for number in self._framing_numbers])
        self.framing = _pick(self._framing_numbers, -1)
        self.content_length = by_role.get(CONTENT_LENGTH, (-1,))[0]
        self.user_agent = by_role.get(USER_AGENT, (-1,))[-1]
        self.selecting = tuple(by_role.get(SELECTING, ()))
        self.forwarded = FORWARDED in by_role
        self.has_date = DATE in by_role
        dropped = not _ENDS_HERE.isdisjoint(by_role)
        self.kept = (*(role not in _ENDS_HERE for _, role in named), True) if dropped else None
        self.varies = tuple([role in (ORDINARY, SELECTING) for _, role in named])
        self._parts: dict[tuple[int, int], Callable[[bytes], re.Match[bytes] | None]] = {}
        self._kept_without: dict[frozenset[bytes], tuple[bool, ...]] = {}
        self._kept_groups: dict[frozenset[bytes], Callable[[re.Match[bytes]], tuple[bytes, ...]]] = {}
        self.uses = 0
        self.fullmatch: Callable[[bytes], re.Match[bytes] | None] = _no_match
        self.groups: tuple[int, ...] = ()
        self.agent_group = 0
        self.framing_groups = self.framing
        self.runs: Callable[[re.Match[bytes]], tuple[bytes, ...]] | None = None

    def compile(self) -> None:
        """Make the pattern of the layout: a group for each line without its CRLF, in groups for runs of kept lines."""
        pattern: list[bytes] = []
        groups: list[int] = []
        runs: list[int] = []
        count, in_run = 0, False
        for number, prefix in enumerate(self._prefixes):
            kept = self.kept is None or self.kept[number]
            if kept and not in_run:
                count += 1
                runs.append(count)
                pattern.append(b"(")
            elif in_run and not kept:
                pattern.append(b")")
            in_run = kept
            count += 1
            groups.append(count)
            pattern.append(b"(%b%b)\r\n" % (re.escape(prefix), _VALUE))
        if in_run:
            pattern.append(b")")
        pattern.append(b"()")  # what lines have in their last item: the empty string after the last CRLF
        empty = count + 1
        self.groups = (*groups, empty)
        self.agent_group = self.groups[self.user_agent]
        self.framing_groups = _pick([groups[number] for number in self._framing_numbers], empty)
        self.runs = _pick(runs, empty) if self.kept is not None else None
        self.fullmatch = re.compile(b"".join(pattern)).fullmatch

    def match_values(self, first: int, end: int) -> Callable[[bytes], re.Match[bytes] | None] | None:
        """Return what matches the lines ``first`` to ``end`` (exclusive) if they are well-formed: from the value of the
        first one to that of the last one.

        Return None if there are enough such patterns: to compile one takes longer than to read a head.
        """
        known = self._parts.get((first, end))
        if known is None and len(self._parts) < _MOST_PARTS:
            others = [b"\r\n%b%b" % (re.escape(prefix), _VALUE) for prefix in self._prefixes[first + 1 : end]]
            known = self._parts[first, end] = re.compile(_VALUE + b"".join(others)).fullmatch
        return known

    def kept_without(self, names: frozenset[bytes], *, remember: bool = False) -> tuple[bool, ...]:
        """Return ``kept`` without the fields ``names``; ``remember`` it if the same names are requested repeatedly."""
        known = self._kept_without.get(names)
        if known is None:
            kept = self.kept or (True,) * (len(self.names) + 1)
            known = (*(keep and name not in names for keep, name in zip(kept, self.names, strict=False)), True)
            if remember:
                self._kept_without[names] = known
        return known

    def groups_without(self, names: frozenset[bytes]) -> Callable[[re.Match[bytes]], tuple[bytes, ...]]:
        """Return what selects from a match the lines that are forwarded but those of the fields ``names``, a constant
        set."""
        known = self._kept_groups.get(names)
        if known is None:
            kept = list(compress(self.groups, self.kept_without(names, remember=True)))  # with the empty string
            known = self._kept_groups[names] = itemgetter(*kept) if len(kept) > 1 else _no_line
        return known


def _no_match(section: bytes) -> re.Match[bytes] | None:
    return None


def _no_line(match: re.Match[bytes]) -> tuple[bytes, ...]:
    return (b"",)


def _pick(numbers: list[int], empty: int) -> Callable[[Any], tuple[bytes, ...]]:
    """Return what selects the items ``numbers``, with the item ``empty`` added so that the result is always a tuple."""
    return itemgetter(*numbers, *[empty] * (2 - len(numbers)))


class LayoutTable:
    """Bounded table of the layouts of requests, or of responses.

    A malformed section is a Failure of ``kind``. ``roles`` maps lower-case names to roles.
    """

    __slots__ = ("_kind", "_names", "_patterns", "_roles", "known")

    def __init__(self, kind: Kind, roles: Mapping[bytes, int]) -> None:
        self._kind = kind
        self._roles = roles
        self._patterns = 0  # layouts in `known` that have one
        # By name as received, with its colon: the lower-case name and its role.
        self._names: dict[bytes, tuple[bytes, int]] = {}
        self.known: dict[bytes, Layout] = {}  # by all names as received, a line each

    def split(self, section: bytes) -> tuple[list[bytes], Layout]:
        """Return the lines of ``section`` and their layout; raise Failure if one of them is malformed.

        ``section`` has a CRLF after each line, and so the last item of the lines is empty.
        """
        lines = section.split(b"\r\n")
        # Without its CRLFs, a section has no CR or LF that is not a bare one.
        text = b"".join(lines)
        if lines[-1] or text.translate(WITHOUT_CONTROLS) != text:
            raise Failure(self._kind, "malformed field line")
        prefixes = [line[: line.find(b":") + 1] for line in lines]
        key = b"\n".join(prefixes)
        layout = self.known.get(key) or self._learn(key, prefixes[:-1])
        layout.uses += 1
        if layout.uses == PATTERN_AFTER and self._patterns < _MOST_PATTERNS:
            self._patterns += 1
            layout.compile()
        return lines, layout

    def _learn(self, key: bytes, prefixes: list[bytes]) -> Layout:
        known = self._names
        named = [known.get(prefix) or self._learn_name(prefix) for prefix in prefixes]
        layout = Layout(prefixes, named, self._kind)
        if len(prefixes) <= _MOST_FIELDS and len(key) <= _MOST_NAME_BYTES:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
                self._patterns = 0
            self.known[key] = layout
        return layout

    def _learn_name(self, received: bytes) -> tuple[bytes, int]:
        if _NAME.fullmatch(received) is None:
            raise Failure(self._kind, "malformed field line")
        name = received[:-1].lower()
        named = name, self._roles.get(name) or self._role_by_prefix(name)
        if len(received) <= _MOST_NAME_BYTES:
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


_DROPPED: dict[bytes, int] = dict.fromkeys(HOP_BY_HOP, DROPPED)

REQUEST_LAYOUTS = LayoutTable(
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

RESPONSE_LAYOUTS = LayoutTable(
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
