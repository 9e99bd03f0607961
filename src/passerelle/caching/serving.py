"""Build the response to a client from a stored response (RFC 9111 §4, §4.3.2; RFC 9110 §13, §14)."""

from __future__ import annotations

from typing import Final, NamedTuple

from passerelle.caching.dates import parse_date
from passerelle.caching.entry import Entry, build_head, head_lines
from passerelle.caching.ranges import UNSATISFIABLE, resolve_range
from passerelle.caching.request import RequestView
from passerelle.caching.validators import not_modified, range_applies

# RFC 9211: the member that this cache adds. It has no ttl: the client has Age, and so the tails can be built once per
# age.
HIT: Final = b"Cache-Status: passerelle; hit\r\n"
STALE_HIT: Final = b"Cache-Status: passerelle; hit; detail=stale\r\n"

# The tail of a hit's head for each age up to an hour: 3,600 values of 60 bytes save 0.15 us per hit.
_ENDINGS: Final = [b"Age: %d\r\n%b\r\n" % (age, HIT) for age in range(3600)]

# RFC 9110 §15.4.5: a 304 has the fields that update a stored response or control caches, but not those that describe
# the body, which a 304 lacks.
_NOT_IN_304: Final = frozenset(
    {
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-md5",
        b"content-range",
        b"content-type",
    }
)
_NOT_IN_416: Final = _NOT_IN_304 | {b"etag", b"last-modified", b"content-location", b"content-disposition"}


class ServedResponse(NamedTuple):
    """Response to send: ``head`` is the status line and field lines, each with CRLF, without the final empty line."""

    status: int
    head: bytes
    body: bytes | memoryview


def fresh_hit_tail(entry: Entry, now: float) -> bytes:
    """Return what follows the stored head of a fresh hit: Age, Cache-Status and the empty line."""
    age = int(now - entry.born)
    if 0 <= age < 3600:
        return _ENDINGS[age]
    return b"Age: %d\r\n%b\r\n" % (max(age, 0), HIT)


def fresh_hit_bytes(entry: Entry, now: float) -> bytes:
    """Return the complete response to a fresh hit on the fast path (a plain GET on a persistent connection)."""
    age = int(now - entry.born)
    if 0 <= age < 3600:
        return entry.head + _ENDINGS[age] + entry.body
    return entry.head + fresh_hit_tail(entry, now) + entry.body


def serve(
    view: RequestView, entry: Entry, now: float, *, status_line: bytes = HIT, added_lines: tuple[bytes, ...] = ()
) -> ServedResponse:
    """Build the response to a GET or HEAD from ``entry``: complete, a range, or 304 if a condition requires it.

    ``status_line`` is the Cache-Status field line, with CRLF (empty for none). ``added_lines`` are further field lines
    (without CRLF) for this client alone.
    """
    extra = b"".join(line + b"\r\n" for line in added_lines) + b"Age: %d\r\n" % entry.age(now) + status_line
    if entry.status == 200 and (view.if_none_match is not None or view.if_modified_since is not None):
        modified = _date(entry, b"last-modified", now)
        if modified is None:
            modified = _date(entry, b"date", now)
        if modified is None:
            modified = entry.born
        if not_modified(view.if_none_match, view.if_modified_since, entry.etag, modified, now):
            return ServedResponse(304, _head(entry, b"304 Not Modified", _NOT_IN_304) + extra, b"")
    if view.method == b"HEAD":
        return ServedResponse(entry.status, entry.head + extra, b"")
    if view.range is not None and entry.status == 200 and _range_wanted(view, entry, now):
        found = resolve_range(view.range, len(entry.body))
        if found is UNSATISFIABLE:
            head = _head(entry, b"416 Range Not Satisfiable", _NOT_IN_416)
            lines = b"Content-Range: bytes */%d\r\nContent-Length: 0\r\n" % len(entry.body)
            return ServedResponse(416, head + lines + extra, b"")
        if found is not None:
            first, end = found
            head = _head(entry, b"206 Partial Content", frozenset({b"content-length", b"content-range"}))
            lines = b"Content-Range: bytes %d-%d/%d\r\n" % (first, end - 1, len(entry.body))
            lines += b"Content-Length: %d\r\n" % (end - first)
            # no copy of a long body
            return ServedResponse(206, head + lines + extra, memoryview(entry.body)[first:end])
    return ServedResponse(entry.status, entry.head + extra, entry.body)


def _date(entry: Entry, name: bytes, now: float) -> float | None:
    value = entry.get(name)
    return parse_date(value, now) if value is not None else None


def _range_wanted(view: RequestView, entry: Entry, now: float) -> bool:
    if view.if_range is None:
        return True
    date = _date(entry, b"date", now)
    modified = entry.get(b"last-modified")
    return range_applies(view.if_range, entry.etag, modified, entry.born if date is None else date, now)


def _head(entry: Entry, status: bytes, without: frozenset[bytes]) -> bytes:
    return build_head(b"HTTP/1.1 " + status, [line for name, _, line in head_lines(entry.head) if name not in without])


def cache_status(reason: bytes, status: int = 0, *, stored: bool = False, collapsed: bool = False) -> bytes:
    """Return the Cache-Status line, with CRLF, of a response from upstream (RFC 9211 §2.2 to §2.5).

    ``reason`` is one of bypass, method, uri-miss, vary-miss, miss, request, stale, partial; ``status`` is the upstream
    status if the client gets a different one.
    """
    line = b"Cache-Status: passerelle; fwd=" + reason
    if status:
        line += b"; fwd-status=%d" % status
    if stored:
        line += b"; stored"
    if collapsed:
        line += b"; collapsed"
    return line + b"\r\n"
