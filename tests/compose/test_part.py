"""The metadata of stored parts: read once, and remembered only where that takes no memory of the entry."""

from __future__ import annotations

import pytest

from passerelle.caching.entry import Entry
from passerelle.caching.request import RequestView
from passerelle.compose import part
from passerelle.compose.composition import Composition, CompositionPart, Gather
from passerelle.compose.part import PartMetadata, PartRequest


@pytest.fixture(autouse=True)
def no_shared_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "_shared_metadata", {})


def entry(*fields: bytes) -> Entry:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(field + b"\r\n" for field in fields)
    return Entry(b"key", 200, head, b"{}", born=0.0, fresh_until=10.0)


def serve(stored: Entry, *added: bytes) -> PartRequest:
    """Return a part after the cache has served ``stored``."""
    request = PartRequest.__new__(PartRequest)
    request._gather, request._index = Gather(Composition([CompositionPart("part")]), lambda _: None), 0
    request.on_stored(RequestView(b"GET", []), stored, b"", added)
    return request


def test_entries_with_equal_metadata_share_it():
    one, two = (entry(b"Content-Type: application/json", b"ETag: %d" % number) for number in range(2))
    assert one.owner is None
    serve(one)
    serve(two)
    assert one.owner is two.owner
    assert one.owner == PartMetadata(b"application/json", b"", ())
    assert serve(one).cookies == ()


@pytest.mark.parametrize("field", [b"Set-Cookie: a=1", b"Content-Type: application/json; x=" + b"y" * 200])
def test_metadata_of_one_entry_alone_is_not_remembered(field):
    stored = entry(field)
    serve(stored)
    assert stored.owner is None and not part._shared_metadata


def test_cookies_of_the_entry_and_of_this_client_are_both_sent():
    stored = entry(b"Set-Cookie: a=1", b"Set-Cookie: b=2")
    for _ in range(2):
        assert serve(stored, b"Set-Cookie: c=3").cookies == (b"a=1", b"b=2", b"c=3")
    assert serve(stored).cookies == (b"a=1", b"b=2")


def test_the_number_of_remembered_kinds_is_bounded(monkeypatch):
    monkeypatch.setattr(part, "_MOST_METADATA", 2)
    stored = [entry(b"Content-Type: application/json; v=%d" % number) for number in range(3)]
    for each in stored:
        serve(each)
    assert [each.owner is not None for each in stored] == [True, True, False]
    assert len(part._shared_metadata) == 2
