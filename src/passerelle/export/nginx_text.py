"""Values, names and units as an nginx configuration writes them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import unquote

from passerelle.routing.paths import LITERAL, REST, Pattern, Template

MOST_GROUPS = 9
"""Most groups of a regular expression of nginx."""

_PLAIN = re.compile(r"[A-Za-z0-9_./:,=*+@%~-]+").fullmatch
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def word(text: str) -> str:
    """Write ``text`` as one parameter, in quotes where it needs them. In some places nginx replaces variables in it."""
    if _PLAIN(text):
        return text
    # nginx resolves \\, \", \t, \r and \n in quotes, and keeps any other backslash.
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(text: str) -> str:
    """Write ``text`` as one parameter in which nginx replaces nothing; ``$`` becomes the variable ``$dollar``."""
    return word(text.replace("$", "${dollar}"))


def regex(text: str) -> str:
    """Write a regular expression as one parameter."""
    # nginx keeps a backslash, unless one of these characters follows it.
    kept = re.sub(r"\\(?=[\\\"'trn])", r"\\\\", text)
    return '"' + kept.replace('"', '\\"') + '"' if set(text) & set(" \t{};\"'") else kept


def unique(names: Iterable[str]) -> dict[str, str]:
    """Map names to names that nginx tells apart: it compares without case. A second one gets a part of its digest."""
    found: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        candidate = name
        if candidate.lower() in used:
            candidate = f"{name}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        used.add(candidate.lower())
        found[name] = candidate
    return found


def variable(prefix: str, name: str) -> str | None:
    """Return the variable of a header field (`http_`) or cookie (`cookie_`), or None if nginx has none for it."""
    plain = name.lower().replace("-", "_") if prefix == "http_" else name
    return f"${prefix}{plain}" if re.fullmatch("[A-Za-z0-9_]+", plain) else None


def duration(seconds: float) -> str:
    """Write a duration: whole seconds, or milliseconds; never 0, which nginx takes for "at once"."""
    return f"{seconds:.0f}s" if seconds >= 1 and seconds == int(seconds) else f"{max(round(seconds * 1000), 1)}ms"


def whole_seconds(found: float) -> str:
    """Write a duration where nginx has whole seconds only, rounded down."""
    return f"{int(found)}s"


def body_limit(limit: int | None) -> str:
    """Write the largest size of a body; None is unlimited. To nginx 0 is unlimited, so the smallest limit is 1."""
    return "0" if limit is None else size(max(limit, 1))


def size(octets: int) -> str:
    """Write a size with the largest unit that divides it."""
    for unit, factor in (("m", 1 << 20), ("k", 1 << 10)):
        if octets and octets % factor == 0:
            return f"{octets // factor}{unit}"
    return str(octets)


def path_regex(pattern: Pattern) -> str:
    """Return the regular expression of the paths that a pattern matches, with a group for each parameter.

    nginx matches it against the decoded path; the export refuses requests in which decoding would add a slash.
    """
    parts = []
    for segment in pattern.segments:
        if segment.kind == LITERAL:
            parts.append("/" + _escaped(_decoded(segment.text)))
        elif segment.kind == REST:
            parts.append("/(.*)")
        else:
            constraint = segment.pattern
            parts.append("/([^/]+)" if constraint is None else f"/({constraint.regex(without=b'/')})")
    return f"^{''.join(parts)}$"


def is_literal(pattern: Pattern) -> bool:
    """Whether a pattern matches one path only."""
    return all(segment.kind == LITERAL for segment in pattern.segments)


def literal_path(pattern: Pattern) -> str:
    """Return the one path of a literal pattern, decoded as nginx compares it."""
    return "".join("/" + _decoded(segment.text) for segment in pattern.segments)


def replacement(template: str, pattern: Pattern) -> str:
    """Return the replacement of ``rewrite`` for a template: parameters become the groups of :func:`path_regex`."""
    numbers = {name: number for number, name in enumerate(pattern.names, 1)}
    text = Template(template).text
    parts = []
    done = 0
    for match in _PLACEHOLDER.finditer(text):
        parts.append(_decoded(text[done : match.start()]).replace("$", "${dollar}"))
        parts.append(f"${numbers[match[1]]}")
        done = match.end()
    parts.append(_decoded(text[done:]).replace("$", "${dollar}"))
    return word("".join(parts))


def _decoded(text: str) -> str:
    return unquote(text)


def _escaped(text: str) -> str:
    """Escape what is special in a regular expression of PCRE."""
    return re.sub(r"([.^$*+?()\[\]{}|\\])", r"\\\1", text)
