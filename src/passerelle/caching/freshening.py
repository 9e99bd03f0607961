"""Freshen a stored response with a 304 or with the response to a HEAD (RFC 9111 §3.2, §4.3.4, §4.3.5)."""

from __future__ import annotations

from typing import Final, NamedTuple

from passerelle.caching.dates import parse_date
from passerelle.caching.entry import Entry, head_lines, status_line
from passerelle.caching.request import RequestView
from passerelle.caching.response import OriginResponse
from passerelle.caching.settings import CacheSettings
from passerelle.caching.storing import SET_COOKIE, build_entry, prohibition, read_terms
from passerelle.caching.validators import entity_tag, strongly_equal, weakly_equal

# RFC 9111 §3.2: fields that describe the stored body keep their values. A 304 often has a length of 0 or no content
# coding, and neither describes the stored bytes.
_BODY_FIELDS: Final = frozenset({b"content-length", b"content-encoding", b"content-range"})


class UpdatedEntry(NamedTuple):
    """Updated entry, with its key unchanged. If ``keep`` is false, the update forbids storing: only this client gets
    the entry.

    ``names`` are the request fields that select the entry from now on (its Vary may have changed). ``own`` are field
    lines (without CRLF), such as cookies, that only the client whose request was validated may receive.
    """

    entry: Entry
    keep: bool
    own: tuple[bytes, ...]
    names: tuple[bytes, ...]


def matches(entry: Entry, response: OriginResponse) -> bool:
    """Return whether a 304 selects this entry (RFC 9111 §4.3.4).

    A strong validator must be equal to the entry's. A weak one, or Last-Modified, must correspond to the entry's. A 304
    without a validator can only refer to the one response that was validated.
    """
    tag = entity_tag(response.get(b"etag"))
    if tag is not None:
        if entry.etag is None:
            return False
        return weakly_equal(tag, entry.etag) if tag.startswith(b"W/") else strongly_equal(tag, entry.etag)
    modified = response.get(b"last-modified")
    stored = entry.get(b"last-modified")
    return modified is None or stored is None or _same_date(modified, stored, response.response_time)


def matches_head(entry: Entry, response: OriginResponse) -> bool:
    """Return whether the response to a HEAD describes this entry: same validators, same length (RFC 9111 §4.3.5).

    A validator that the entry lacks is a new one: updating would present the old body as the new representation.
    """
    if response.status != entry.status:
        return False
    if any(response.get(name) not in (None, entry.get(name)) for name in (b"etag", b"last-modified")):
        return False
    length = entry.get(b"content-length")
    return length is None or response.get(b"content-length") in (None, length)


def _same_date(a: bytes, b: bytes, now: float) -> bool:
    return a == b or ((when := parse_date(a, now)) is not None and when == parse_date(b, now))


def update_entry(entry: Entry, response: OriginResponse, view: RequestView, settings: CacheSettings) -> UpdatedEntry:
    """Replace the fields of ``entry`` by those of ``response``; both entries share one body object (RFC 9111 §3.2)."""
    own: tuple[bytes, ...] = ()
    updates = []
    for field in response.lines():
        if field[0] in _BODY_FIELDS:
            continue
        if field[0] == SET_COOKIE and not settings.store_set_cookie:
            own += (field[2],)
        else:
            updates.append(field)
    replaced = {name for name, _, _ in updates}
    # An update without a Date happened when it arrived (RFC 9110 §6.6.1): `build_entry` adds that date.
    replaced.add(b"date")
    lines = [field for field in head_lines(entry.head) if field[0] not in replaced] + updates
    fields = [(name, value) for name, value, _ in lines]
    age = response.get(b"age")
    if age is not None:
        fields.append((b"age", age))
    relay = b"\r\n".join([status_line(entry.head), *(line for _, _, line in lines), b""])
    merged = OriginResponse(
        entry.status,
        fields,
        request_time=response.request_time,
        response_time=response.response_time,
        relay=relay,
    )
    terms = read_terms(merged, settings)
    fresh = build_entry(view, merged, terms, settings, entry.tags, entry.body)
    fresh.key = entry.key
    return UpdatedEntry(fresh, prohibition(view, merged, terms, settings) is None, own, terms.names or ())
