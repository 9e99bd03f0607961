"""Comparison of entity tags (RFC 9110 §8.8.3), and the conditions that a cache evaluates (§13)."""

from __future__ import annotations

import re
from typing import Final

from passerelle.caching.dates import parse_date

_ETAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
# RFC 9110 §8.8.2.2: a Last-Modified is a strong validator only if it is clearly older than the response's Date.
_STRONG_AGE: Final = 1.0


def entity_tag(value: bytes | None) -> bytes | None:
    """Return ``value`` if it is a well-formed entity tag, else None: a malformed tag validates nothing."""
    return value if value is not None and _ETAG.fullmatch(value) else None


def opaque(tag: bytes) -> bytes:
    """Return the tag without its weakness flag."""
    return tag[2:] if tag.startswith(b"W/") else tag


def weakly_equal(a: bytes, b: bytes) -> bool:
    """Compare weakly (RFC 9110 §8.8.3.2)."""
    return opaque(a) == opaque(b)


def strongly_equal(a: bytes, b: bytes) -> bool:
    """Compare strongly (RFC 9110 §8.8.3.2): the tags are equal and neither is weak."""
    return a == b and not a.startswith(b"W/")


def not_modified(
    if_none_match: bytes | None,
    if_modified_since: bytes | None,
    etag: bytes | None,
    modified: float,
    now: float,
) -> bool:
    """Return whether a GET or HEAD with these conditions gets a 304 (RFC 9110 §13.2.2, RFC 9111 §4.3.2).

    ``modified`` is the stored response's Last-Modified in seconds, or its Date if it has none (RFC 9111 §4.3.2).
    If-Modified-Since is ignored if If-None-Match is present or if its value is not a valid date (RFC 9110 §13.1.3).
    """
    if if_none_match is not None:
        if if_none_match.strip(b" \t") == b"*":
            return True
        return etag is not None and any(weakly_equal(tag, etag) for tag in _ETAG.findall(if_none_match))
    if if_modified_since is None:
        return False
    since = parse_date(if_modified_since, now)
    return since is not None and modified <= since


def range_applies(if_range: bytes, etag: bytes | None, last_modified: bytes | None, date: float, now: float) -> bool:
    """Return whether Range applies given If-Range: its validator is strong and equals the stored one (RFC 9110
    §13.1.5)."""
    if _ETAG.fullmatch(if_range):
        return etag is not None and strongly_equal(if_range, etag)
    if last_modified is None or if_range != last_modified:
        return False
    modified = parse_date(last_modified, now)
    return modified is not None and date - modified >= _STRONG_AGE
