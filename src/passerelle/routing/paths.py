"""Request paths: their canonical form, the patterns of routes, and the templates of rewrites.

Routing, guards, cache keys and the upstream's request line all use the result of :func:`canonical_path`, so no two of
them can interpret a path differently (RFC 3986 §6.2.2).

The file is longer than 400 lines because patterns and templates follow from what the canonical form allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from urllib.parse import quote

from passerelle.errors import Failure, Kind
from passerelle.routing.linear_pattern import LinearPattern, LinearPatternError, linear_pattern

MAX_SEGMENTS = 64
"""Maximum number of segments in a pattern."""

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _escape_table() -> dict[bytes, bytes | None]:
    """Map two hexadecimal digits in any case to their canonical spelling, or to None if they are refused."""
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
# Visible ASCII except for what needs closer inspection: escapes, backslashes, a dot or a slash after a slash; "?" and
# "#" end a path. The inner quantifiers are possessive ("*+"), so a path that does not match is scanned only once more;
# the outer one is not, because a possessive group never matches here on CPython before 3.11.5. It is one expression,
# because a separate `b"/." in path` would take 0.2 us, more than the whole match.
_CLEAN = re.compile(rb"(?!.*//)/[!\"$&-\-/->@-\[\]-~]*+(?:(?<!/)\.[!\"$&-\-/->@-\[\]-~]*+)*").fullmatch
_FORBIDDEN = re.compile(rb"[^!-~]|[\\?#]").search
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_SLASHES = re.compile(rb"//+")
# Overlong UTF-8: an ASCII character in two, three or four octets (RFC 3629 §3); "%C0%AE" was once decoded as ".".
_OVERLONG = re.compile(rb"%C[01]%[89AB]|%E0%[89]|%F0%8").search
# Dot segments that only some parsers recognize: with a parameter ("..;x"), or next to an encoded slash ("..%2f").
_HIDDEN = re.compile(rb"(?:/|%2F)\.\.?(?:;|%3B)|/\.\.?%2F|%2F\.\.?(?=/|%2F|$)").search


class EncodedSlashError(Failure):
    """A path contains an encoded slash (``%2F``) and is refused for no other reason."""

    def __init__(self) -> None:
        reason = "an encoded slash (%2F) is not allowed in this path"
        super().__init__(Kind.BAD_PATH, reason, public=reason)


def _refusal(reason: str) -> Failure:
    return Failure(Kind.BAD_PATH, reason, public=reason)


def canonical_path(path: bytes, *, keep_slashes: bool = False) -> bytes:
    """Return the canonical form of a request path without query; raise ``Failure(Kind.BAD_PATH)`` if it is refused.

    Escapes of unreserved characters are decoded, and the others written in upper case (RFC 3986 §6.2.2.1-2). Then
    slashes are merged, and dot segments are removed (§5.2.4). ``%3F`` and ``%25`` are kept, because they differ in
    meaning from their decoded forms. Paths that two parsers could interpret differently are refused: backslashes and
    control octets, plain or encoded; invalid escapes; octets outside ASCII; overlong UTF-8; dot segments with
    parameters (``..;x``) or next to an encoded slash (``..%2F``). ``%2F`` is kept with ``keep_slashes``; without, it
    raises :class:`EncodedSlashError`. The function is idempotent: ``canonical_path(canonical_path(p)) ==
    canonical_path(p)``.
    """
    if _CLEAN(path):
        return path
    return _canonical(path, keep_slashes)


def _canonical(path: bytes, keep_slashes: bool) -> bytes:
    if path[:1] != b"/":
        raise _refusal("it does not start with a slash")
    found = _FORBIDDEN(path)
    if found:
        raise _refusal(f"octet 0x{found.group()[0]:02X} is not allowed in a path")
    if b"%" in path:
        path = _ESCAPE.sub(_unescape, path)
        if _OVERLONG(path):
            raise _refusal("overlong UTF-8")
    if b"//" in path:
        path = _SLASHES.sub(b"/", path)
    dotted = b"/." in path or b"%2F." in path
    if dotted and _HIDDEN(path):
        raise _refusal("hidden dot segment")
    # Before dot segments are removed: in "/a%2Fb/..", they remove more from a decoded path.
    if not keep_slashes and b"%2F" in path:
        raise EncodedSlashError
    return _remove_dot_segments(path) if dotted else path


def _unescape(match: re.Match[bytes]) -> bytes:
    pair = match.group(1)
    if pair is None:
        raise _refusal("invalid % escape")
    spelling = _ESCAPES[pair]
    if spelling is None:
        raise _refusal(f"%{pair.decode()} is not allowed in a path")
    return spelling


def _remove_dot_segments(path: bytes) -> bytes:
    """Remove dot segments (RFC 3986 §5.2.4); ``..`` at the root stays at the root."""
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
    """A path, pattern or template that is invalid.

    The text gives the reason and, where it is known, a correction.
    """


# Characters that are kept in a path; all others are escaped (RFC 3987 §3.1).
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def purged_path(text: str) -> str:
    """Return the canonical form of a path to purge, or of a prefix of paths if it ends with ``*``.

    ``text`` may have any spelling; spaces and characters outside ASCII are escaped. Raise :class:`PatternError` if it
    is not a path.
    """
    if not text.startswith("/"):
        raise PatternError(f"found the path {text!r}; a path begins with /, such as /{text}")
    begins = text.endswith("*")
    # A prefix may end within a segment: "/.*" is not "/*".
    whole = text[:-1] + "x" if begins else text
    try:
        escaped = quote(whole, _VISIBLE, errors="surrogateescape").encode("ascii")
        path = canonical_path(escaped, keep_slashes=True).decode("ascii")
    except Failure as failure:
        more = re.search(r"[?#].*", text, re.DOTALL)
        why = f"a path is purged with every query: leave out {more.group()!r}" if more else failure.detail
        raise PatternError(f"found the path {text!r}: {why}") from None
    return path[:-1] + "*" if begins else path


LITERAL, PARAMETER, REST = 0, 1, 2
"""Kinds of segments, in order of precedence."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_PCHARS = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*").fullmatch


PARAMETER_TYPES = {
    "int": "[0-9]+",
    "uuid": "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
"""The names of patterns that a parameter may have as its type."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a pattern: its kind, and its literal text or the name of its parameter.

    A parameter may have a ``constraint``: a type, or a pattern that its value must match.
    """

    kind: int
    text: str
    constraint: str = ""

    @property
    def pattern(self) -> LinearPattern | None:
        """The pattern of the constraint; None without one."""
        return linear_pattern(PARAMETER_TYPES.get(self.constraint, self.constraint)) if self.constraint else None

    @property
    def shape(self) -> str:
        """The segment without the name of its parameter."""
        constraint = f":{PARAMETER_TYPES.get(self.constraint, self.constraint)}" if self.constraint else ""
        return (self.text, f"{{{constraint}}}", "{*}")[self.kind]

    def overlaps(self, other: Segment) -> bool:
        """Return whether both match one segment; neither is the rest of a path."""
        if self.kind == LITERAL and other.kind == LITERAL:
            return self.text == other.text
        if LITERAL in (self.kind, other.kind):
            literal, pattern = (self, other.pattern) if self.kind == LITERAL else (other, self.pattern)
            return bool(literal.text) and (pattern is None or pattern.matches(literal.text.encode()))
        return self.pattern is None or other.pattern is None or self.pattern.overlaps(other.pattern)

    @property
    def rank(self) -> tuple[int, bool, tuple[int, ...], str]:
        """A sort key: the segment with the lower key is more specific."""
        pattern = self.pattern
        known = (False, pattern.breadth, pattern.text) if pattern is not None else (True, (), "")
        # Names of parameters have no effect; the text of literals only makes the order readable.
        return (self.kind, *known) if self.kind != LITERAL else (self.kind, False, (), self.text)

    def __str__(self) -> str:
        constraint = f":{self.constraint}" if self.constraint else ""
        return (self.text, f"{{{self.text}{constraint}}}", f"{{{self.text}*}}")[self.kind]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed route path.

    ``{name}`` matches one non-empty segment, ``{name:constraint}`` one that fulfils the constraint, and ``{name*}`` the
    rest of the path, which may be empty.
    """

    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parse a pattern such as ``/user/{user_id}`` or ``/files/{rest*}``; raise :class:`PatternError` if invalid."""
        if not text.startswith("/"):
            raise PatternError(_without_slash(text))
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
        """The names of the parameters, in order."""
        return tuple(segment.text for segment in self.segments if segment.kind != LITERAL)

    @property
    def shape(self) -> str:
        """The pattern without parameter names: two patterns with equal shapes match the same paths."""
        return "".join(f"/{segment.shape}" for segment in self.segments)

    @property
    def plain(self) -> str:
        """The pattern as a template: names of parameters without constraints and stars."""
        return "".join(f"/{s.text}" if s.kind == LITERAL else f"/{{{s.text}}}" for s in self.segments)

    @property
    def unconstrained(self) -> str:
        """The pattern without the constraints of its parameters."""
        return "".join(f"/{Segment(s.kind, s.text)}" for s in self.segments)

    def overlaps(self, other: Pattern) -> bool:
        """Return whether a path exists that both patterns match."""
        for index in range(max(len(self.segments), len(other.segments))):
            left = self.segments[index] if index < len(self.segments) else None
            right = other.segments[index] if index < len(other.segments) else None
            if (left and left.kind == REST) or (right and right.kind == REST):
                return True
            if left is None or right is None or not left.overlaps(right):
                return False
        return True

    def __str__(self) -> str:
        return "".join(f"/{segment}" for segment in self.segments)


def _without_slash(text: str) -> str:
    if text[:1] in ("^", "~"):
        instead = "write {name} for one segment, {rest*} for the rest"
        return f"found {text!r}; a path is not a regular expression: {instead}"
    if text.startswith(tuple("“”‘’„")):
        return f"found {text!r} with typographic quotes; write straight ones, or none"
    return f"found {text!r} without a leading slash; write {'/' + text!r}"


def _segment(part: str) -> Segment:
    bare, colon, constraint = part[1:-1].partition(":")
    if part.startswith("{") and part.endswith("}") and colon and _NAME(bare):
        return Segment(PARAMETER, bare, _constraint(part, bare, constraint))
    if part.startswith("{") and part.endswith("}") and part.count("{") == 1:
        name = part[1:-1]
        kind = REST if name.endswith("*") else PARAMETER
        name = name.removesuffix("*")
        if not _NAME(name):
            raise PatternError(f"found {part!r}; a parameter's name is a letter or _, then letters, digits or _")
        return Segment(kind, name)
    if "{" in part or "}" in part:
        raise PatternError(
            f"found {part!r}; a parameter must be a whole segment, such as /{{name}} or, at the end, /{{name*}}"
        )
    if part in ("*", "**"):
        raise PatternError(f"found {part!r}; write {{name}} for any one segment or {{rest*}} for the rest")
    if part.startswith("<") and part.endswith(">"):
        kind_name, _, name = part[1:-1].rpartition(":")
        raise PatternError(f"found {part!r}; a parameter is written {{{name}{'*' if kind_name == 'path' else ''}}}")
    if part.startswith(":") and _NAME(part[1:].rstrip("?*+")):
        name = part[1:].rstrip("?*+")
        raise PatternError(f"found {part!r}; a parameter is written {{{name}{'*' if part[-1] in '*+' else ''}}}")
    _require_pchars(part)
    return Segment(LITERAL, part)


def _constraint(part: str, name: str, text: str) -> str:
    """Check the constraint of a parameter: a type, or a pattern that matches a whole segment."""
    if text in PARAMETER_TYPES:
        return text
    if text in ("path", "*"):
        raise PatternError(f"found {part!r}; the rest of a path is written {{{name}*}}")
    types = ", ".join(PARAMETER_TYPES)
    if re.fullmatch(r"[A-Za-z_]*", text):
        raise PatternError(
            f"found {part!r}; allowed after the colon is {types}, a pattern such as [a-z-]+, or alternatives as a|b"
        )
    if " " in text:
        raise PatternError(f"found {part!r}; a segment of a path has no blanks")
    depth = 0
    for sign in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            raise PatternError(f"found {part!r}; a parameter must be a whole segment, such as /{{{name}}}")
    try:
        pattern = linear_pattern(text)
    except LinearPatternError as error:
        raise PatternError(f"found {part!r}; its pattern cannot be used: {error}") from None
    if pattern.matches(b""):
        raise PatternError(f"found {part!r}; its pattern matches the empty text as well, but no segment is empty")
    if not pattern.overlaps(_SEGMENTS):
        raise PatternError(f"found {part!r}; its pattern matches no segment of a path")
    return text


_SEGMENTS = LinearPattern(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F][0-9A-F])+")


def _require_pchars(text: str) -> None:
    if _PCHARS(text):
        return
    for character in text:
        if character in "?#":
            raise PatternError(f"found {text!r}; a path ends before {character!r}: remove the rest")
    whole = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    escaped = "".join(c if c == "%" or _PCHARS(c) else "".join(f"%{o:02X}" for o in c.encode()) for c in whole)
    raise PatternError(f"found {text!r} with characters that are not allowed in a path; write {escaped!r}")


def _require_canonical(text: str, sample: str) -> None:
    """Raise :class:`PatternError` unless ``sample`` is canonical: requests are matched in canonical form."""
    try:
        canonical = canonical_path(sample.encode("ascii"), keep_slashes=True)
    except Failure as failure:
        raise PatternError(f"found {text!r}: {failure.detail}") from None
    if canonical != sample.encode("ascii"):
        if canonical == _SLASHES.sub(b"/", sample.encode("ascii")):
            raise PatternError(f"found {text!r} with an empty segment; write {re.sub('//+', '/', text)!r}")
        raise PatternError(f"found {text!r}, which is not in canonical form; write {canonical.decode()!r}")


_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_AFFIX = re.compile(r"[A-Za-z0-9._~-]*").fullmatch


class Template:
    """An upstream path such as ``/internal/{user_id}``, filled with the raw parameters of a match.

    A parameter cannot add a segment, a query or a dot segment: values are segments of a canonical path and stay
    percent-encoded, and the text next to a parameter in its segment must not consist of dots alone. ``rest`` names the
    parameters that match any number of segments; each must be the whole last segment of the template, because it may
    be empty.
    """

    __slots__ = ("_format", "_pick", "names", "text")

    def __init__(self, text: str, rest: frozenset[str] = frozenset()) -> None:
        """Parse ``text``; raise :class:`PatternError` if it is invalid."""
        if not text.startswith("/"):
            raise PatternError(f"found {text!r} without a leading slash; write {'/' + text!r}")
        names: list[str] = []
        *parts, last = text[1:].split("/")
        for part in parts:
            _template_segment(part, rest, names)
        for name in names:
            if name in rest:
                raise PatternError(f"found {{{name}}} before the end of {text!r}; it may be empty and must come last")
        _template_segment(last, rest, names)
        sample = _PLACEHOLDER.sub("x", text)
        _require_canonical(text, sample)
        self.text = text
        self.names = tuple(names)
        # itemgetter returns the single value, or a tuple of several: the operand that "%" takes.
        self._pick = itemgetter(*names) if names else None
        self._format = (_PLACEHOLDER.sub("%b", text.replace("%", "%%")) if names else text).encode("ascii")

    def fill(self, params: Mapping[str, bytes]) -> bytes:
        """Return the path with the values of ``params``; raise ``KeyError`` if one is missing."""
        return self._format % self._pick(params) if self._pick is not None else self._format

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _template_segment(part: str, rest: frozenset[str], names: list[str]) -> None:
    """Validate one segment of a template and append its parameters to ``names``."""
    found = _PLACEHOLDER.findall(part)
    if not found:
        if "{" in part or "}" in part:
            raise PatternError(f"found {part!r} with a lone brace; parameters are written {{name}}")
        _require_pchars(part)
        return
    for name in found:
        if name.endswith("*") and _NAME(name[:-1]):
            raise PatternError(f"found {part!r}; write {{{name[:-1]}}} here: the star belongs in the path of the route")
        if not _NAME(name):
            raise PatternError(f"found {part!r}; a parameter's name is a letter or _, then letters, digits or _")
        if name in rest and part != f"{{{name}}}":
            raise PatternError(f"found {part!r}; {{{name}}} matches several segments and must be a whole segment")
        names.append(name)
    affixes = [affix for affix in _PLACEHOLDER.split(part)[::2] if affix]
    for affix in affixes:
        if not _AFFIX(affix) or not affix.strip("."):
            raise PatternError(
                f"found {part!r}; next to a parameter, only letters, digits, - _ ~ and dots are allowed, not dots alone"
            )
