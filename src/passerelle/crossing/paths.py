"""Paths of values in JSON documents, and patterns of them.

A path is a JSON Pointer (RFC 6901) in which ``*`` stands for the indexes of arrays. A member name that looks like data,
such as an id or an e-mail address, is ``*`` too: paths are counted and reported, so their number must stay small, and
they must not contain what clients send.

In a pattern, ``*`` matches one segment and ``**`` any number of segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

ANY: Final = "*"
_ANY_DEPTH: Final = "**"
_NAME = re.compile(r"[A-Za-z_$][A-Za-z_$\-]{0,39}[0-9]{0,3}")

Path = tuple[str, ...]
Positions = frozenset[tuple[int, int]]
"""The state of a match: which patterns have matched up to which of their segments."""


def fold(name: str) -> str:
    """Return the segment for a member ``name``: the name, or ``*`` if it looks like data."""
    return name if _NAME.fullmatch(name) else ANY


def pointer(path: Path) -> str:
    """Write ``path`` as a JSON Pointer; the whole document is the empty string."""
    return "".join("/" + segment.replace("~", "~0").replace("/", "~1") for segment in path)


def parse_pattern(text: str) -> Path:
    """Split a pattern such as ``/items/*/price`` into segments.

    :raises ValueError: if ``text`` is neither empty nor begins with a slash, or has a wrong escape (RFC 6901 §3).
    """
    if not text:
        return ()
    if not text.startswith("/"):
        raise ValueError(f"found {text!r}; a path begins with a slash, such as /items/*/price")
    if re.search(r"~(?![01])", text):
        raise ValueError(f"found {text!r}; in a path, ~ is written ~0 and a slash in a name ~1")
    return tuple(segment.replace("~1", "/").replace("~0", "~") for segment in text[1:].split("/"))


class Patterns:
    """Patterns that are matched together, segment by segment, while a document is walked."""

    __slots__ = ("_patterns", "start")

    def __init__(self, patterns: Iterable[Path]) -> None:
        self._patterns = tuple(patterns)
        self.start: Positions = self._closed((number, 0) for number in range(len(self._patterns)))

    def _closed(self, positions: Iterable[tuple[int, int]]) -> Positions:
        """Add the positions that follow without a segment: ``**`` matches none, too."""
        found: set[tuple[int, int]] = set()
        for number, at in positions:
            pattern = self._patterns[number]
            found.add((number, at))
            while at < len(pattern) and pattern[at] == _ANY_DEPTH:
                at += 1
                found.add((number, at))
        return frozenset(found)

    def step(self, positions: Positions, segment: str) -> Positions:
        """Return the positions after ``segment``: a member name, or the index of an array in digits."""
        if not positions:
            return positions
        after = []
        for number, at in positions:
            pattern = self._patterns[number]
            if at == len(pattern):
                continue
            if pattern[at] == _ANY_DEPTH:
                after.append((number, at))
            elif pattern[at] in (ANY, segment):
                after.append((number, at + 1))
        return self._closed(after)

    def matches(self, positions: Positions) -> int | None:
        """Return the number of the first pattern that matches as a whole, or None."""
        whole = [number for number, at in positions if at == len(self._patterns[number])]
        return min(whole) if whole else None
