"""Requests, responses and entries for tests of the cache, each in one line."""

from __future__ import annotations

from passerelle.caching.dates import format_date
from passerelle.caching.entry import Entry
from passerelle.caching.policy import Store, on_response
from passerelle.caching.request import RequestView
from passerelle.caching.response import OriginResponse
from passerelle.caching.settings import CacheSettings
from passerelle.http.messages import Fields

# A whole second, so that dates represent it exactly.
NOW = 1_800_000_000.0
DEFAULT = CacheSettings()


def date(offset: float = 0.0) -> bytes:
    """Return an HTTP date ``offset`` seconds from NOW."""
    return format_date(NOW + offset)


def fields(*lines: str | bytes) -> Fields:
    """Parse ``"Name: value"`` lines into a Fields list."""
    found: Fields = []
    for line in lines:
        name, _, value = (line if isinstance(line, bytes) else line.encode("latin-1")).partition(b":")
        found.append((name.lower(), value.strip()))
    return found


def request(*lines: str | bytes, method: bytes = b"GET", consumer: bytes = b"") -> RequestView:
    """Return the view of a request with these field lines."""
    return RequestView(method, fields(*lines), consumer=consumer)


def response(
    *lines: str | bytes, status: int = 200, at: float = NOW, took: float = 0.0, dated: bool = True
) -> OriginResponse:
    """Return a response that arrived ``at`` after ``took`` seconds, with that Date unless the lines have one."""
    all_fields = fields(*lines)
    if dated and not any(name == b"date" for name, _ in all_fields):
        all_fields.append((b"date", format_date(at)))
    return OriginResponse(status, all_fields, request_time=at - took, response_time=at)


def stored(
    *lines: str | bytes,
    body: bytes = b"0123456789",
    status: int = 200,
    at: float = NOW,
    asked: RequestView | None = None,
    settings: CacheSettings = DEFAULT,
    key: bytes = b"gw /",
) -> Entry:
    """Return the entry of a response with these field lines; fail if it must not be stored."""
    outcome = on_response(asked or request(), response(*lines, status=status, at=at), None, settings)
    assert isinstance(outcome, Store), outcome
    entry = outcome.draft.complete(body)
    assert entry is not None
    entry.key = key
    return entry


def reason(
    *lines: str | bytes, status: int = 200, asked: RequestView | None = None, settings: CacheSettings = DEFAULT
) -> str | None:
    """Return why a response with these field lines is not stored, or None."""
    outcome = on_response(asked or request(), response(*lines, status=status), None, settings)
    return None if isinstance(outcome, Store) else getattr(outcome, "reason", repr(outcome))
