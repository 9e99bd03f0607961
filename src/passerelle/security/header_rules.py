"""Rules that set, add and remove header fields of forwarded messages, and the security headers for browsers.

The rules process whole sections (lines with CRLF after each): lines that no rule names are forwarded byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from passerelle.http.messages import Field
from passerelle.security.credentials.api_keys import KEY_FORM

_PREFIX_LINE = re.compile(rb"\r\nX-Forwarded-Prefix: ([^\r\n]*)")  # as upstream/request_headers.py writes it
_PARAMETER = re.compile(rb"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def lines_of(names: Collection[bytes], *, aliases: bool = False) -> re.Pattern[bytes]:
    """Compile a pattern for the lines of the fields ``names``, each with the CRLF before it.

    With ``aliases``, the pattern also matches names that CGI and WSGI do not distinguish (RFC 3875 §4.1.18): ``X_A``
    for ``X-A``.
    """
    forms = [re.escape(name.replace(b"_", b"-")) for name in names] if aliases else [re.escape(name) for name in names]
    if aliases:
        forms = [form.replace(rb"\-", b"[-_]") for form in forms]
    return re.compile(rb"\r\n(?:%b):[^\r\n]*" % b"|".join(sorted(forms)), re.IGNORECASE)


def without(section: bytes, pattern: re.Pattern[bytes]) -> bytes:
    """Return ``section``, which begins with a field line, without the lines that match ``pattern``."""
    # The pattern includes the CRLF of the preceding line: the first line gets one, and the result has one too many.
    return pattern.sub(b"", b"\r\n" + section)[2:]


class WithheldFields:
    """Field lines of clients that no service of a route receives.

    Fields ``names`` (lower case) are withheld with any value, ``key_header`` where it contains an API key of the
    gateway; both also under names that CGI and WSGI do not distinguish. ``cookies`` are removed from ``Cookie``.
    """

    __slots__ = ("_cookies", "_lines")

    def __init__(self, names: Collection[bytes], key_header: bytes | None, cookies: Collection[bytes]) -> None:
        forms = [lines_of(names, aliases=True).pattern] if names else []
        if key_header is not None:
            name = re.escape(key_header.replace(b"_", b"-")).replace(rb"\-", b"[-_]")
            forms.append(rb"\r\n%b:[^\r\n]*(?-i:%b)[^\r\n]*" % (name, KEY_FORM))
        self._lines = re.compile(b"|".join(forms), re.IGNORECASE) if forms else None
        self._cookies = frozenset(cookies)

    def apply(self, section: bytes) -> bytes:
        """Return ``section`` (CRLF after each line) without the withheld fields and cookies."""
        if self._lines is not None:
            section = without(section, self._lines)
        if any(name in section for name in self._cookies):
            lines = [self._without_cookies(line) for line in section.split(b"\r\n")]
            section = b"\r\n".join([line for line in lines[:-1] if line] + [b""])
        return section

    def _without_cookies(self, line: bytes) -> bytes:
        if line[:7].lower() != b"cookie:":
            return line
        pairs = [pair.strip(b" \t") for pair in line[7:].split(b";")]
        kept = [pair for pair in pairs if pair.partition(b"=")[0].strip() not in self._cookies]
        if len(kept) == len(pairs):
            return line
        return b"Cookie: %b" % b"; ".join(kept) if any(kept) else b""


class RequestHeaderRules:
    """Changes to the request fields that services receive.

    Values may contain ``{parameter}`` of the path. A parameter is inserted as it occurs in the path, percent-encoded,
    so it cannot end the line.
    """

    __slots__ = ("_parts", "_strip")

    def __init__(self, put: Mapping[bytes, bytes], add: Mapping[bytes, bytes], remove: Iterable[bytes]) -> None:
        names = [*remove, *put]
        self._strip = lines_of(names, aliases=True) if names else None
        text = b"".join(b"%b: %b\r\n" % field for field in (*put.items(), *add.items()))
        # Literal, name, literal, name, ..., literal.
        self._parts = _PARAMETER.split(text)

    def apply(self, section: bytes, params: Mapping[str, bytes]) -> bytes:
        """Return the section (CRLF after each line) as the service receives it."""
        if self._strip is not None:
            section = without(section, self._strip)
        parts = self._parts
        if len(parts) == 1:
            return section + parts[0]
        filled = [part if index % 2 == 0 else params[part.decode()] for index, part in enumerate(parts)]
        return section + b"".join(filled)


class StrippedPrefixRules(RequestHeaderRules):
    """Rules of a route whose rewrite strips ``prefix`` from the path: the service receives it in X-Forwarded-Prefix.

    It comes after the prefix that a trusted proxy has stripped. A rule for the field replaces both.
    """

    __slots__ = ("_prefix", "_rules")

    def __init__(self, prefix: bytes, rules: RequestHeaderRules | None) -> None:
        self._prefix = prefix
        self._rules = rules

    def apply(self, section: bytes, params: Mapping[str, bytes]) -> bytes:
        """Return the section (CRLF after each line) as the service receives it."""
        outer = _PREFIX_LINE.search(section)
        prefix = self._prefix
        if outer is not None:
            section = section[: outer.start()] + section[outer.end() :]
            prefix = outer[1].rstrip(b"/") + prefix
        section = b"%bX-Forwarded-Prefix: %b\r\n" % (section, prefix)
        return section if self._rules is None else self._rules.apply(section, params)


class SecurityHeaderFields:
    """Security fields for browsers, each added if the response lacks it. ``hsts`` is for responses over TLS only."""

    __slots__ = ("_lines", "_names", "_plain", "_secure")

    def __init__(self, fields: Iterable[Field], hsts: bytes | None) -> None:
        pairs = list(fields)
        self._plain = b"".join(b"%b: %b\r\n" % field for field in pairs)
        if hsts is not None:
            pairs.append((b"Strict-Transport-Security", hsts))
        self._secure = b"".join(b"%b: %b\r\n" % field for field in pairs)
        self._lines = {name.lower(): b"%b: %b\r\n" % (name, value) for name, value in pairs}
        forms = b"|".join(re.escape(name) for name in self._lines)
        self._names = re.compile(rb"\r\n(%b):" % forms, re.IGNORECASE) if self._lines else None

    @property
    def names(self) -> Collection[bytes]:
        """Return the names of the fields that may be added, in lower case."""
        return self._lines.keys()

    def lines(self, head: bytes, secure: bool) -> bytes:
        """Return the lines that ``head`` (a status line and field lines) lacks."""
        if self._names is None:
            return b""
        there = {name.lower() for name in self._names.findall(head)}
        if not there:
            return self._secure if secure else self._plain
        if not secure:
            there.add(b"strict-transport-security")
        return b"".join(line for name, line in self._lines.items() if name not in there)
