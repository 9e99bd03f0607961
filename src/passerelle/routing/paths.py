"""Request paths: the one canonical form, the patterns of routes, and the templates of rewrites.

Everything that looks at a path (routing, guards, cache keys, the upstream's request line) looks at what
:func:`canonical_path` returned, so no two of them can see different paths (RFC 3986 §6.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from urllib.parse import quote

from passerelle.errors import Failure, Kind

MAX_SEGMENTS = 64
"""A pattern has at most this many segments."""

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _escape_table() -> dict[bytes, bytes | None]:
    """Two hexadecimal digits in any case -> their canonical spelling, or None where they are refused."""
    table: dict[bytes, bytes | None] = {}
    digits = b"0123456789ABCDEFabcdef"
    for high in digits:
        for low in digits:
            pair = bytes((high, low))
            octet = int(pair, 16)
            if octet in _UNRESERVED:
                table[pair] = bytes((octet,))
            elif octet < 0x20 or octet in (0x5C, 0x7F):
                table[pair] = None
            else:
                table[pair] = b"%" + pair.upper()
    return table


_ESCAPES = _escape_table()
# Visible ASCII without what needs a second look: escapes, backslash, a dot after a slash; "?" and "#" end a path.
# Possessive ("*+"), so that a path that does not fit is not read twice. One expression, because `b"/." in path` alone
# takes longer than all of it (0.2 of 0.33 us on CPython 3.11).
_CLEAN = re.compile(rb"/[!\"$&-\-/->@-\[\]-~]*+(?:(?<!/)\.[!\"$&-\-/->@-\[\]-~]*+)*+").fullmatch
_FORBIDDEN = re.compile(rb"[^!-~]|[\\?#]").search
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
# UTF-8 that spells an ASCII character in two, three or four octets (RFC 3629 §3): "%C0%AE" was once read as ".".
_OVERLONG = re.compile(rb"%C[01]%[89AB]|%E0%[89]|%F0%8").search
# Dot segments that only some readers see: with a parameter ("..;x"), or beside an encoded slash ("..%2f").
_HIDDEN = re.compile(rb"(?:/|%2F)\.\.?(?:;|%3B)|/\.\.?%2F|%2F\.\.?(?=/|%2F|$)").search


def canonical_path(path: bytes) -> bytes:
    """The canonical form of a request path (without query), or ``Failure(Kind.BAD_PATH)``.

    Escapes of unreserved characters are decoded and the others written in upper case (RFC 3986 §6.2.2.1-2); then
    dot segments are removed (§5.2.4). ``%2F``, ``%3F``, ``%25`` and empty segments stay as they are: they do not mean
    what their look-alikes mean. Refused is what two readers could take for two different paths: backslashes and
    control octets, plain or encoded; broken escapes; octets outside ASCII; overlong UTF-8; dot segments with
    parameters (``..;x``) or beside an encoded slash (``..%2F``). The result is stable:
    ``canonical_path(canonical_path(p)) == canonical_path(p)``.
    """
    if _CLEAN(path):
        return path
    return _canonical(path)


def _canonical(path: bytes) -> bytes:
    if path[:1] != b"/":
        raise Failure(Kind.BAD_PATH, "it does not start with a slash")
    found = _FORBIDDEN(path)
    if found:
        raise Failure(Kind.BAD_PATH, f"octet 0x{found.group()[0]:02X} is not allowed in a path")
    if b"%" in path:
        path = _ESCAPE.sub(_unescape, path)
        if _OVERLONG(path):
            raise Failure(Kind.BAD_PATH, "overlong UTF-8")
    if b"/." not in path and b"%2F." not in path:
        return path
    if _HIDDEN(path):
        raise Failure(Kind.BAD_PATH, "a hidden dot segment")
    return _remove_dot_segments(path)


def _unescape(match: re.Match[bytes]) -> bytes:
    pair = match.group(1)
    if pair is None:
        raise Failure(Kind.BAD_PATH, "a broken % escape")
    spelling = _ESCAPES[pair]
    if spelling is None:
        raise Failure(Kind.BAD_PATH, f"%{pair.decode()} is not allowed in a path")
    return spelling


def _remove_dot_segments(path: bytes) -> bytes:
    """RFC 3986 §5.2.4, by segments; ``..`` at the root stays at the root."""
    segments = path.split(b"/")
    last = len(segments) - 1
    kept: list[bytes] = []
    for index, segment in enumerate(segments[1:], 1):
        if segment == b".." and kept:
            kept.pop()
        if segment not in (b".", b".."):
            kept.append(segment)
        elif index == last:
            kept.append(b"")
    return b"/" + b"/".join(kept)


class PatternError(ValueError):
    """A path, pattern or template that cannot be used; the text says why, and what to write instead where that is
    known."""


# What stands in a path as it is; all else that people write there is escaped (RFC 3987 §3.1).
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def purged_path(text: str) -> str:
    """What a purge is to let go of, in canonical form: a path or, with ``*`` at its end, how paths begin.

    It may be written in any spelling; blanks and characters outside ASCII are escaped. :class:`PatternError` where it
    is no path.
    """
    if not text.startswith("/"):
        raise PatternError(f"found the path {text!r}; a path begins with /, such as /{text}")
    begins = text.endswith("*")
    # A beginning may end within a segment: "/.*" is not "/*".
    whole = text[:-1] + "x" if begins else text
    try:
        path = canonical_path(quote(whole, _VISIBLE, errors="surrogateescape").encode("ascii")).decode("ascii")
    except Failure as failure:
        more = re.search(r"[?#].*", text, re.DOTALL)
        why = f"a path is purged whatever the query: leave out {more.group()!r}" if more else failure.detail
        raise PatternError(f"found the path {text!r}: {why}") from None
    return path[:-1] + "*" if begins else path


LITERAL, PARAMETER, REST = 0, 1, 2
"""Kinds of segments, in the order in which they win."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_PCHARS = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*").fullmatch


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a pattern: its kind, and the literal text or the parameter's name."""

    kind: int
    text: str

    def __str__(self) -> str:
        return (self.text, f"{{{self.text}}}", f"{{{self.text}*}}")[self.kind]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A route's path, parsed: ``{name}`` is one segment that is not empty, ``{name*}`` the rest, even of nothing."""

    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parse a pattern such as ``/user/{user_id}`` or ``/files/{rest*}``; raises :class:`PatternError`."""
        if not text.startswith("/"):
            raise PatternError(f"found {text!r} without a leading slash; write {'/' + text!r}")
        parts = text[1:].split("/")
        if len(parts) > MAX_SEGMENTS:
            raise PatternError(f"found {len(parts)} segments; allowed are {MAX_SEGMENTS}")
        segments = tuple(_segment(part) for part in parts)
        names = [segment.text for segment in segments if segment.kind != LITERAL]
        for name in names:
            if names.count(name) > 1:
                raise PatternError(f"found {{{name}}} twice in {text!r}; give each parameter its own name")
        for segment in segments[:-1]:
            if segment.kind == REST:
                raise PatternError(
                    f"found {segment} before the end of {text!r}; write {{{segment.text}}} for one segment"
                )
        _require_canonical(text, "".join(f"/{s.text if s.kind == LITERAL else 'x'}" for s in segments))
        return cls(segments)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(segment.text for segment in self.segments if segment.kind != LITERAL)

    @property
    def shape(self) -> str:
        """The pattern without its parameters' names: two patterns of one shape match the same paths."""
        return "".join("/" + (s.text if s.kind == LITERAL else ("{}", "{*}")[s.kind - 1]) for s in self.segments)

    def __str__(self) -> str:
        return "".join(f"/{segment}" for segment in self.segments)


def _segment(part: str) -> Segment:
    if part.startswith("{") and part.endswith("}") and part.count("{") == 1:
        name = part[1:-1]
        kind = REST if name.endswith("*") else PARAMETER
        name = name.removesuffix("*")
        if not _NAME(name):
            raise PatternError(f"found {part!r}; a parameter's name is a letter or _, then letters, digits or _")
        return Segment(kind, name)
    if "{" in part or "}" in part:
        raise PatternError(
            f"found {part!r}; a parameter is a whole segment, such as /{{name}} or, at the end, /{{name*}}"
        )
    if part in ("*", "**"):
        raise PatternError(f"found {part!r}; write {{name}} for any one segment or {{rest*}} for the rest")
    if part.startswith("<") and part.endswith(">"):
        name = part[1:-1].rpartition(":")[2]
        raise PatternError(f"found {part!r}; a parameter is written {{{name}}}")
    _require_pchars(part)
    return Segment(LITERAL, part)


def _require_pchars(text: str) -> None:
    if _PCHARS(text):
        return
    for character in text:
        if character in "?#":
            raise PatternError(f"found {text!r}; a path ends before {character!r}: leave it out")
    whole = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    escaped = "".join(c if c == "%" or _PCHARS(c) else "".join(f"%{o:02X}" for o in c.encode()) for c in whole)
    raise PatternError(f"found {text!r} with characters that a path cannot have; write {escaped!r}")


def _require_canonical(text: str, sample: str) -> None:
    """Requests are matched in canonical form: another spelling would never match."""
    try:
        canonical = canonical_path(sample.encode("ascii"))
    except Failure as failure:
        raise PatternError(f"found {text!r}: {failure.detail}") from None
    if canonical != sample.encode("ascii"):
        raise PatternError(f"found {text!r}, which is not in canonical form; write {canonical.decode()!r}")


_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_AFFIX = re.compile(r"[A-Za-z0-9._~-]*").fullmatch


class Template:
    """An upstream path such as ``/internal/{user_id}``, filled with a match's raw parameters.

    A parameter can never add a segment, a query or a dot segment: values are segments of a canonical path, put in as
    they were (still percent-encoded), and the text beside a parameter in its segment may not be dots alone.
    ``rest`` names the parameters that stand for several segments; in a template they must be whole segments.
    """

    __slots__ = ("_format", "_pick", "names", "text")

    def __init__(self, text: str, rest: frozenset[str] = frozenset()) -> None:
        """Parse ``text``; raises :class:`PatternError`."""
        if not text.startswith("/"):
            raise PatternError(f"found {text!r} without a leading slash; write {'/' + text!r}")
        names: list[str] = []
        for part in text[1:].split("/"):
            _template_segment(part, rest, names)
        sample = _PLACEHOLDER.sub("x", text)
        _require_canonical(text, sample)
        self.text = text
        self.names = tuple(names)
        # itemgetter gives the one value, or a tuple of several: what "%" takes.
        self._pick = itemgetter(*names) if names else None
        self._format = (_PLACEHOLDER.sub("%b", text.replace("%", "%%")) if names else text).encode("ascii")

    def fill(self, params: Mapping[str, bytes]) -> bytes:
        """The path with the values of ``params``; ``KeyError`` where one is missing."""
        return self._format % self._pick(params) if self._pick is not None else self._format

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _template_segment(part: str, rest: frozenset[str], names: list[str]) -> None:
    """Check one segment of a template and add its parameters to ``names``."""
    found = _PLACEHOLDER.findall(part)
    if not found:
        if "{" in part or "}" in part:
            raise PatternError(f"found {part!r} with a lone brace; parameters are written {{name}}")
        _require_pchars(part)
        return
    for name in found:
        if name.endswith("*") and _NAME(name[:-1]):
            raise PatternError(f"found {part!r}; write {{{name[:-1]}}} here: the star belongs into the route's path")
        if not _NAME(name):
            raise PatternError(f"found {part!r}; a parameter's name is a letter or _, then letters, digits or _")
        if name in rest and part != f"{{{name}}}":
            raise PatternError(f"found {part!r}; {{{name}}} stands for several segments and is alone between slashes")
        names.append(name)
    affixes = [affix for affix in _PLACEHOLDER.split(part)[::2] if affix]
    for affix in affixes:
        if not _AFFIX(affix) or not affix.strip("."):
            raise PatternError(
                f"found {part!r}; allowed beside a parameter are letters, digits, - _ ~ and dots, not dots alone"
            )
