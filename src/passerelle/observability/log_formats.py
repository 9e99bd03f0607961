"""Formats of the access log: each is made from a line of JSON, so that secrets are redacted and lines cut in one place.

No value that comes from a client can begin a line, or end a field that is written in quotes: control characters,
quotes, backslashes and everything beyond ASCII become ``\\xHH``, outside of quotes blanks as well.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson

from passerelle.observability.access_log import LINE_BYTES
from passerelle.observability.readable_log import ReadableLog

Convert = Callable[[bytes], bytes]
"""Makes a line, without its newline, of a line of JSON."""

_COMBINED = '{client} - {consumer} [{time_clf}] "{method} {target} HTTP/1.1" {status} {bytes_out} "-" "{user_agent}"'
_TEXT_COLUMNS = 120
_MOST = LINE_BYTES - 1  # only a template with many long fields needs more
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_IN_QUOTES = {c: f"\\x{c:02x}" for c in range(256) if not 0x20 <= c < 0x7F or c in b'"\\'}
_BARE = _IN_QUOTES | {0x20: "\\x20"}


def converter(name: str) -> Convert | None:
    """Return what makes the lines of the format ``name``: ``json`` (None), ``combined``, ``text``, or a template."""
    if name == "json":
        return None
    if name == "text":
        return ReadableLog(_TEXT_COLUMNS, colour=False).convert
    return Template(_COMBINED if name == "combined" else name).convert


class Template:
    """A line with the values of fields in braces. A field without a value is ``-``."""

    def __init__(self, text: str) -> None:
        self._pieces: list[tuple[str, str | None, dict[int, str]]] = []
        quoted = False
        for literal, name, _, _ in string.Formatter().parse(text):
            quoted ^= literal.count('"') % 2 == 1
            # No client writes a part of the time, which stands in brackets in the Common Log Format.
            self._pieces.append((literal, name, _IN_QUOTES if quoted or name == "time_clf" else _BARE))

    def convert(self, line: bytes) -> bytes:
        """Return the line for a line of JSON."""
        entry = orjson.loads(line)
        parts: list[str] = []
        for literal, name, escapes in self._pieces:
            parts.append(literal)
            if name is not None:
                parts.append(_value(entry, name).translate(escapes) or "-")
        return "".join(parts).encode("utf-8")[:_MOST]


def _value(entry: dict[str, Any], name: str) -> str:
    if name == "time_clf":
        return clf_time(entry["time"])
    if name == "duration_ms":
        return f"{entry['duration_us'] / 1000:.3f}"
    found = entry.get(name)
    if isinstance(found, str):
        return found if found.isascii() else _ascii(found)
    return "" if found is None else str(found)


def _ascii(text: str) -> str:
    """Replace what neither table escapes: characters of names in the configuration, and of the mark of a cut."""
    return "".join(c if ord(c) < 256 else "..." if c == "\u2026" else "?" for c in text)


def clf_time(time: str) -> str:
    """Write a time of the log (RFC 3339, UTC) as the Common Log Format does: ``30/Nov/2026:12:00:00 +0000``."""
    at = datetime.fromisoformat(time)
    return f"{at.day:02d}/{_MONTHS[at.month - 1]}/{at.year}:{at:%H:%M:%S} +0000"


def converting(put: Callable[[list[bytes], int], None], convert: Convert) -> Callable[[list[bytes], int], None]:
    """Return what converts the lines of a batch, and passes them to ``put``."""

    def put_converted(lines: list[bytes], size: int) -> None:
        made = [convert(line[:-1]) + b"\n" for line in lines]
        put(made, sum(map(len, made)))

    return put_converted
