"""Parts of error messages: what was found, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def describe(found: object) -> str:
    """Describe a value for an error message."""
    if found is None:
        return "nothing"
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, int | float):
        return str(found)
    if isinstance(found, str):
        return repr(found if len(found) <= 60 else found[:57] + "...")
    if isinstance(found, dict):
        return "a mapping"
    if isinstance(found, list | tuple):
        return "a list"
    return f"a {type(found).__name__}"


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name that is closest to ``word``, or None if none is close."""
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def hint(word: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean X?``, or an empty text."""
    name = nearest(word, allowed)
    return f"; did you mean {name}?" if name else ""
