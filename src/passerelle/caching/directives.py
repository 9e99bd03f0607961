"""Cache directives: ``Cache-Control`` (RFC 9111 §5.2) and targeted fields such as ``CDN-Cache-Control`` (RFC 9213).

The parsers never raise, whatever the input. Malformed parts are ignored where the RFC requires it; otherwise the safer
interpretation is used. A lifetime that is malformed, or given twice with different values, makes the response stale
(RFC 9111 §4.2.1). Text inside a quoted string is never a directive. Huge values are capped (RFC 9111 §1.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from passerelle.http.messages import list_members

# RFC 9111 §1.2.2: a recipient that overflows uses 2147483648 or the greatest number it can represent.
MAX_SECONDS: Final = 2**31

_TCHAR = rb"!#$%&'*+.^_`|~0-9A-Za-z-"
# One list member: text without commas, where a quoted string counts as a whole. An unterminated quoted string extends
# to the end of the line, so nothing after its opening quote is taken for a directive. Each alternative starts with a
# different byte, so there is no backtracking.
_MEMBER = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+', re.DOTALL)
_TOKEN = re.compile(rb"[" + _TCHAR + rb"]+")
_DIGITS = re.compile(rb"[0-9]+")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


class Directives:
    """Parsed directives: maps each lower-case name to its arguments in order (None for a directive without an
    argument).

    An argument that the grammar does not allow (whitespace around ``=``) is kept as ``b""``, which is neither a number
    nor a list: the directive counts, but its argument does not.
    """

    __slots__ = ("members",)

    def __init__(self, members: dict[bytes, list[bytes | None]]) -> None:
        self.members = members

    def __contains__(self, name: bytes) -> bool:
        return name in self.members

    def __bool__(self) -> bool:
        return bool(self.members)

    def seconds(self, name: bytes, invalid: int = 0) -> int | None:
        """Return the directive's delta-seconds, capped at 2**31, or None if the directive is absent.

        ``invalid`` is returned if the argument is missing, malformed or contradicted by a second value. The default of
        0 makes a lifetime stale.
        """
        values = self.members.get(name)
        if values is None:
            return None
        first = values[0]
        if first is None or not _DIGITS.fullmatch(first):
            return invalid
        # Ten digits already exceed the cap; int() of thousands of digits would be slow, or raise ValueError.
        digits = first.lstrip(b"0") or b"0"
        number = MAX_SECONDS if len(digits) > 10 else min(int(digits), MAX_SECONDS)
        if len(values) > 1 and any(v != first for v in values):
            return invalid
        return number

    def unqualified(self, name: bytes) -> bool:
        """Return whether ``no-cache`` or ``private`` has no usable field list (RFC 9111 §5.2.2.4, §5.2.2.7)."""
        values = self.members.get(name)
        return values is not None and any(not v or not any(list_members(v)) for v in values)

    def fields(self, name: bytes) -> frozenset[bytes]:
        """Return the lower-case field names listed by a qualified ``no-cache`` or ``private``."""
        values = self.members.get(name) or ()
        return frozenset(m.lower() for v in values if v for m in list_members(v))


NONE: Final = Directives({})

# Services repeat the same few values; 1,024 values of at most 256 bytes take less than half a megabyte.
_REMEMBERED: Final = 1024
_LONGEST: Final = 256
_known: dict[bytes, Directives] = {}


def parse_cache_control(lines: Iterable[bytes]) -> Directives:
    """Parse all ``Cache-Control`` lines of a message into one set of directives, in order."""
    parsed = [_parse_line(line) for line in lines]
    if not parsed:
        return NONE
    if len(parsed) == 1:
        return parsed[0]
    members: dict[bytes, list[bytes | None]] = {}
    for one in parsed:
        for name, values in one.members.items():
            members.setdefault(name, []).extend(values)
    return Directives(members)


def _parse_line(line: bytes) -> Directives:
    found = _known.get(line)
    if found is not None:
        return found
    members: dict[bytes, list[bytes | None]] = {}
    for match in _MEMBER.finditer(line):
        name, equals, argument = match[0].strip(b" \t").partition(b"=")
        key = name.rstrip(b" \t").lower()
        if not _TOKEN.fullmatch(key):
            continue
        members.setdefault(key, []).append(_argument(name, argument) if equals else None)
    directives = Directives(members)
    if len(line) <= _LONGEST:
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[line] = directives
    return directives


def _argument(name: bytes, argument: bytes) -> bytes:
    """Return a token, or the text of a quoted string, or ``b""`` if ``argument`` is neither."""
    if name[-1:] in b" \t":
        return b""
    if len(argument) >= 2 and argument[:1] == b'"' and argument[-1:] == b'"':
        return _ESCAPE.sub(rb"\1", argument[1:-1])
    return argument if _TOKEN.fullmatch(argument) else b""


# Directives whose argument is a number of seconds, those that may list fields, and those without an argument: a
# targeted field gives each the matching type (RFC 9213 §2.1).
_SECONDS: Final = frozenset({b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"})
_LISTS: Final = frozenset({b"no-cache", b"private"})
_FLAGS: Final = frozenset(
    {
        b"immutable",
        b"must-revalidate",
        b"must-understand",
        b"no-store",
        b"no-transform",
        b"proxy-revalidate",
        b"public",
    }
)


def parse_targeted(lines: Iterable[bytes]) -> Directives | None:
    """Parse a targeted field; return None if the cache must ignore the field (RFC 9213 §2.1, §2.2).

    A targeted field is a Dictionary (RFC 9651 §3.2), so the grammar is strict: if a value does not parse, is empty, or
    gives a known directive the wrong type, the field counts as absent and ``Cache-Control`` applies.
    """
    text = b", ".join(lines).strip(b" ")
    dictionary = _Dictionary(text).parse()
    if not dictionary:
        return None
    members: dict[bytes, list[bytes | None]] = {}
    for name, value in dictionary.items():
        if value is False:
            continue
        if value is True:
            if name in _SECONDS:
                return None
            members[name] = [None]
        elif name in _SECONDS:
            if type(value) is not int:
                return None
            members[name] = [b"%d" % value]
        elif name in _LISTS:
            if type(value) is not str:
                return None
            members[name] = [value.encode("ascii")]
        elif name in _FLAGS:
            return None
    return Directives(members)


class _Malformed(Exception):
    """The text is not a structured Dictionary."""


class _Dictionary:
    """Strict parser of a structured Dictionary (RFC 9651 §4.2.2); parameters are parsed and discarded.

    Values: int for an Integer, str for a String, bool for a Boolean, and bytes for every type that no cache directive
    uses.
    """

    _KEY = re.compile(rb"[a-z*][a-z0-9_.*-]*")
    _NUMBER = re.compile(rb"(-?[0-9]{1,15})(?![0-9.])|-?[0-9]{1,12}\.[0-9]{1,3}(?![0-9.])")
    _STRING = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
    _OTHER = re.compile(
        rb"[A-Za-z*][" + _TCHAR + rb":/]*"  # Token
        rb"|:[A-Za-z0-9+/=]*:"  # Byte Sequence
        rb"|@-?[0-9]{1,15}(?![0-9.])"  # Date
        rb'|%"(?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*"'  # Display String
    )
    _OWS = re.compile(rb"[ \t]*")

    __slots__ = ("at", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    def parse(self) -> dict[bytes, object] | None:
        try:
            return self._members()
        except _Malformed:
            return None

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise _Malformed
        self.at = match.end()
        return match

    def _take(self, byte: bytes) -> bool:
        if self.text[self.at : self.at + 1] == byte:
            self.at += 1
            return True
        return False

    def _members(self) -> dict[bytes, object]:
        members: dict[bytes, object] = {}
        while self.at < len(self.text):
            name = self._match(self._KEY)[0]
            members.pop(name, None)
            members[name] = self._member() if self._take(b"=") else True
            self._parameters()
            self._match(self._OWS)
            if self.at == len(self.text):
                return members
            if not self._take(b","):
                raise _Malformed
            self._match(self._OWS)
            if self.at == len(self.text):
                raise _Malformed  # a trailing comma (RFC 9651 §4.2.2 step 2.10)
        return members

    def _member(self) -> object:
        if not self._take(b"("):
            return self._item()
        while True:
            while self._take(b" "):
                pass
            if self._take(b")"):
                return b""
            self._item()
            self._parameters()
            if self.text[self.at : self.at + 1] not in (b" ", b")"):
                raise _Malformed

    def _item(self) -> object:
        head = self.text[self.at : self.at + 1]
        if head == b'"':
            return _ESCAPE.sub(rb"\1", self._match(self._STRING)[1]).decode("ascii")
        if head == b"?":
            flag = self.text[self.at : self.at + 2]
            self.at += 2
            if flag not in (b"?0", b"?1"):
                raise _Malformed
            return flag == b"?1"
        if head.isdigit() or head == b"-":
            whole = self._match(self._NUMBER)[1]
            return b"" if whole is None else int(whole)
        self._match(self._OTHER)
        return b""

    def _parameters(self) -> None:
        while self._take(b";"):
            while self._take(b" "):
                pass
            self._match(self._KEY)
            if self._take(b"="):
                self._item()
