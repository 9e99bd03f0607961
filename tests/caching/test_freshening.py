"""RFC 9111 §3.2 and §4.3.4: a 304 updates the stored fields, and nothing about the body."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.entry import Entry
from passerelle.caching.policy import HIT, Merge, Outcome, Refetch, RelayOnly, Stale, lookup, on_response
from passerelle.caching.serving import serve
from passerelle.caching.settings import CacheSettings
from tests.caching.kit import DEFAULT, NOW, date, request, response, stored

BODY = gzip.compress(b"hello", mtime=0)
LATER = NOW + 2


@pytest.fixture
def entry() -> Entry:
    return stored(
        "Cache-Control: max-age=1",
        "Content-Encoding: gzip",
        f"Content-Length: {len(BODY)}",
        'ETag: "a"',
        "X-Old: 1",
        body=BODY,
        key=b"gw /r",
    )


def validate(entry: Entry, *lines: str, dated: bool = True, settings: CacheSettings = DEFAULT) -> Outcome:
    came = response(*lines, status=304, at=LATER, dated=dated)
    return on_response(request(), came, entry, settings, validated=True)


def merged(entry: Entry, *lines: str, dated: bool = True, settings: CacheSettings = DEFAULT) -> Merge:
    outcome = validate(entry, *lines, dated=dated, settings=settings)
    assert isinstance(outcome, Merge)
    return outcome


def test_the_entry_is_as_in_the_fault_s_input(entry: Entry) -> None:
    decision = lookup(request(), entry, LATER, DEFAULT)
    assert isinstance(decision, Stale) and decision.fields == [(b"if-none-match", b'"a"')]
    outcome = merged(entry, "Content-Length: 0", "Cache-Control: max-age=60", "X-New: 1", 'ETag: "a"')
    new = outcome.entry
    assert outcome.keep and new.key == entry.key
    assert new.body is entry.body
    names = [name for name, _ in new.fields]
    assert names.count(b"content-length") == 1 and new.get(b"content-length") == b"%d" % len(BODY)
    assert new.get(b"content-encoding") == b"gzip"
    assert new.get(b"x-new") == b"1" and new.get(b"x-old") == b"1"
    assert names.count(b"cache-control") == 1 and names.count(b"date") == 1
    assert new.age(LATER + 5) == 5, "the age starts from zero"
    for later in (0, 30, 59):
        assert lookup(request(), new, LATER + later, DEFAULT) is HIT


def test_without_a_new_lifetime_the_stored_one_starts_again(entry: Entry) -> None:
    new = merged(entry).entry
    assert new.fresh_until == LATER + 1
    assert new.get(b"date") == date(2)


def test_without_a_date_it_came_when_it_came(entry: Entry) -> None:
    new = merged(entry, dated=False).entry
    assert new.get(b"date") == date(2) and new.fresh_until == LATER + 1


def test_a_304_with_an_age_is_as_old_as_that(entry: Entry) -> None:
    new = merged(entry, "Cache-Control: max-age=60", "Age: 50").entry
    assert new.fresh_until == LATER + 10 and new.age(LATER) == 50


def test_a_stored_expires_in_the_past_stays_so() -> None:
    old = stored(f"Expires: {date(1).decode()}", 'ETag: "a"')
    assert merged(old).entry.fresh_until < LATER


@pytest.mark.parametrize(
    ("stored_lines", "lines", "updates"),
    [
        (['ETag: "a"'], ['ETag: "a"'], True),
        (['ETag: "a"'], ['ETag: W/"a"'], True),
        (['ETag: "a"'], [], True),
        (['ETag: "a"'], ['ETag: "b"'], False),
        (['ETag: "a"'], ['ETag: W/"b"'], False),
        (['ETag: W/"a"'], ['ETag: W/"a"'], True),
        (['ETag: W/"a"'], ['ETag: "a"'], False),
        ([f"Last-Modified: {date(-99).decode()}"], ['ETag: "b"'], False),
        ([f"Last-Modified: {date(-99).decode()}"], [f"Last-Modified: {date(-99).decode()}"], True),
        ([f"Last-Modified: {date(-99).decode()}"], [f"Last-Modified: {date(-98).decode()}"], False),
        ([f"Last-Modified: {date(-99).decode()}"], ["Last-Modified: x"], False),
        (["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"], ["Last-Modified: Sun Nov  6 08:49:37 1994"], True),
        (["Last-Modified: x"], ["Last-Modified: y"], False),
        (['ETag: "a"'], [f"Last-Modified: {date(-98).decode()}"], True),
        (['ETag: "a"'], ["ETag: broken"], True),
    ],
)
def test_a_304_about_another_response_updates_nothing(stored_lines: list[str], lines: list[str], updates: bool) -> None:
    entry = stored("Cache-Control: max-age=1", *stored_lines)
    outcome = validate(entry, *lines)
    assert isinstance(outcome, Merge) if updates else outcome == Refetch()


def test_a_304_to_the_client_s_own_condition_updates_nothing(entry: Entry) -> None:
    came = response('ETag: "a"', status=304, at=LATER)
    assert on_response(request('If-None-Match: "z"'), came, None, DEFAULT) == RelayOnly("conditional")
    assert on_response(request('If-None-Match: "z"'), came, entry, DEFAULT) == RelayOnly("conditional")


def test_the_client_s_condition_is_answered_from_the_updated_entry(entry: Entry) -> None:
    new = merged(entry, "X-New: 1").entry
    found = serve(request('If-None-Match: "a"'), new, LATER)
    assert found.status == 304 and b"X-New: 1\r\n" in found.head
    assert serve(request('If-None-Match: "z"'), new, LATER).body == BODY


def test_a_cookie_in_a_304_is_the_one_client_s(entry: Entry) -> None:
    outcome = merged(entry, "Set-Cookie: sid=1", "Set-Cookie: b=2")
    assert outcome.entry.get(b"set-cookie") is None
    assert outcome.own == (b"Set-Cookie: sid=1", b"Set-Cookie: b=2")
    kept = merged(entry, "Set-Cookie: sid=1", settings=CacheSettings(store_set_cookie=True))
    assert kept.entry.get(b"set-cookie") == b"sid=1" and kept.own == ()


@pytest.mark.parametrize("line", ["Cache-Control: no-store", "Cache-Control: private", "Vary: *"])
def test_a_304_may_take_the_permission_back(entry: Entry, line: str) -> None:
    outcome = merged(entry, line)
    assert not outcome.keep and outcome.entry.body == BODY


def test_a_304_may_change_what_chooses_the_response(entry: Entry) -> None:
    assert merged(entry).names == ()
    assert merged(entry, "Vary: Foo").names == (b"foo",)


def test_tags_are_kept_and_added_to(entry: Entry) -> None:
    entry.tags = (b"user:1",)
    assert merged(entry, "Cache-Tag: b").entry.tags == (b"user:1", b"b")


_LINES = st.lists(
    st.sampled_from(
        [
            "Content-Length: 0",
            "Content-Length: 999",
            "Content-Encoding: br",
            "Content-Range: bytes 0-1/2",
            "Content-Type: text/html",
            "Transfer-Encoding: chunked",
            "Connection: close, x-a",
            "X-A: 1",
            "Set-Cookie: a=b",
            "Cache-Control: max-age=5",
            "Cache-Control: no-store",
            "Age: 9",
            'ETag: "a"',
            'ETag: W/"a"',
            "Expires: 0",
            "Vary: Foo",
        ]
    ),
    max_size=7,
)


@given(_LINES, st.binary(max_size=40))
def test_a_merge_keeps_length_coding_and_body(lines: list[str], body: bytes) -> None:
    old = stored("Cache-Control: max-age=1", "Content-Encoding: gzip", 'ETag: "a"', body=body)
    outcome = merged(old, *lines)
    new = outcome.entry
    assert new.body is old.body and new.status == old.status
    names = [name for name, _ in new.fields]
    assert new.get(b"content-length") == b"%d" % len(body) and names.count(b"content-length") == 1
    assert new.get(b"content-encoding") == b"gzip" and names.count(b"content-encoding") == 1
    assert names.count(b"date") == 1
    assert not {b"content-range", b"transfer-encoding", b"connection", b"set-cookie", b"age"} & set(names)
    assert b"\r\n\r\n" not in new.head
    # Another merge changes nothing: fields do not accumulate.
    again = merged(new, *lines).entry
    assert sorted(again.fields) == sorted(new.fields)
