"""Byte ranges of a complete stored response (RFC 9110 §14)."""

from __future__ import annotations

import re
from typing import Final

_SINGLE = re.compile(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)

UNSATISFIABLE: Final = (-1, -1)


def resolve_range(value: bytes, length: int) -> tuple[int, int] | None:
    """Return ``(first, end)`` of the single requested range, ``end`` exclusive; UNSATISFIABLE; or None to ignore Range.

    A request for several ranges, another unit or malformed syntax gets the whole response, which is always allowed (RFC
    9110 §14.2). Several ranges would need a multipart response, which clients rarely request but attackers do.
    """
    match = _SINGLE.fullmatch(value)
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        suffix = int(last)
        if suffix == 0 or length == 0:
            return UNSATISFIABLE
        return max(length - suffix, 0), length
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= length:
        return UNSATISFIABLE
    return start, min(int(last) + 1, length) if last else length
