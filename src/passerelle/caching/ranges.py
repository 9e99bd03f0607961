"""Byte ranges of a complete stored response (RFC 9110 §14)."""

from __future__ import annotations

import re
from typing import Final

_SINGLE = re.compile(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)

UNSATISFIABLE: Final = (-1, -1)


def resolve_range(value: bytes, length: int) -> tuple[int, int] | None:
    """``(first, end)`` of the one range asked for, ``end`` exclusive; UNSATISFIABLE; None when Range is ignored.

    A request for several ranges, another unit or bad grammar gets the whole response, which is always allowed
    (RFC 9110 §14.2): several ranges cost a multipart answer that clients hardly ever ask for and attackers do.
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
