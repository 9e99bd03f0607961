"""Readable lines of the access log, for a terminal: each is made from a line of JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

_FIXED = 8 + 1 + 3 + 1 + 6 + 1 + 1 + 9 + 1 + 12  # columns beside the target
_NARROWEST, _WIDEST = 20, 60  # columns of the target; a longer target moves what follows it


class ReadableLog:
    """Converts lines of JSON, for lines of about ``width`` columns, with ANSI colours if ``colour``."""

    def __init__(self, width: int, *, colour: bool) -> None:
        self._target = min(max(width - _FIXED, _NARROWEST), _WIDEST)
        self._colour = colour

    def convert(self, line: bytes) -> bytes:
        """Return the readable form of ``line``, without a newline: time of day, status, method, target, duration,
        instance, cache, failure. What is not a line of the access log is returned unchanged.

        Characters that a terminal would interpret are escaped: the target comes from a client.
        """
        try:
            entry = orjson.loads(line)
            return self._text(entry).encode()
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError):
            return line

    def _text(self, entry: dict[str, Any]) -> str:
        status = int(entry["status"])
        time = datetime.fromisoformat(entry["time"]).astimezone().strftime("%H:%M:%S")
        method, target = _printable(entry["method"] or "-"), _printable(entry["target"] or "-")
        duration = duration_text(entry["duration_us"])
        where = entry["instance"] or entry["service"] or "-"
        text = f"{self._paint(time, 2)} {self._paint(str(status), _colour_of(status))} {method:<6} "
        text += f"{target:<{self._target}} {duration:>9} {where:<12}"
        if entry["cache"]:
            text += f" {entry['cache']}"
        if "failure" in entry:
            text += " " + self._paint(_printable(f"{entry['failure']}: {entry['why']}"), 31)
        return text.rstrip()

    def _paint(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _colour_of(status: int) -> int:
    """Return the SGR colour of a status: green, cyan for 3xx, yellow for 4xx, red for 5xx."""
    return 31 if status >= 500 else 33 if status >= 400 else 36 if status >= 300 else 32


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def duration_text(microseconds: int) -> str:
    """Format a duration in nine columns at most: ``0.32 ms``, ``12.3 ms``, ``1.24 s``."""
    if microseconds < 10_000:
        return f"{microseconds / 1000:.2f} ms"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds / 1_000_000:.2f} s"
