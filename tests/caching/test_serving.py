"""RFC 9111 §4.3.2, RFC 9110 §13 and §14: conditions, ranges and HEAD served from a stored response."""

from __future__ import annotations

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.entry import Entry
from passerelle.caching.ranges import UNSATISFIABLE, resolve_range
from passerelle.caching.serving import HIT, STALE_HIT, cache_status, fresh_hit_bytes, serve
from passerelle.http.messages import Fields
from tests.caching.kit import NOW, date, fields, request, stored

FRESH = "Cache-Control: max-age=6000"
TAGGED = (FRESH, 'ETag: "a"', f"Last-Modified: {date(-3000).decode()}", "Content-Type: text/plain", "Vary: X")


def head_fields(head: bytes) -> Fields:
    return fields(*head.split(b"\r\n")[1:-1])


def test_a_hit_is_the_stored_head_with_age_and_status_and_the_body() -> None:
    entry = stored(FRESH, "X-A: 1")
    head, _, body = fresh_hit_bytes(entry, NOW + 17.9).partition(b"\r\n\r\n")
    assert body == b"0123456789"
    assert head == entry.head + b"Age: 17\r\nCache-Status: passerelle; hit"
    for age in (0, 3599, 3600, 5000):
        assert b"\r\nAge: %d\r\n" % age in fresh_hit_bytes(entry, NOW + age)
    assert b"\r\nAge: 0\r\n" in fresh_hit_bytes(entry, NOW - 5), "a clock that went back"
    assert fresh_hit_bytes(entry, NOW + 17.9) == b"\r\n".join([serve(request(), entry, NOW + 17.9).head, body])


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('If-None-Match: "a"', 304),
        ('If-None-Match: W/"a"', 304),
        ('If-None-Match: "1", "a", "2"', 304),
        ('If-None-Match: "1,a", "a"', 304),
        ("If-None-Match: *", 304),
        ('If-None-Match: "b"', 200),
        ("If-None-Match: a", 200),
        ("If-None-Match:", 200),
        (f"If-Modified-Since: {date(-3000).decode()}", 304),
        (f"If-Modified-Since: {date(-2000).decode()}", 304),
        ("If-Modified-Since: Friday, 15-Jan-27 07:10:00 GMT", 304),
        (f"If-Modified-Since: {date(-4000).decode()}", 200),
        ("If-Modified-Since: yesterday", 200),
        (f'If-Modified-Since: {date(-4000).decode()}\r\nIf-None-Match: "a"', 304),
        (f'If-Modified-Since: {date().decode()}\r\nIf-None-Match: "b"', 200),
    ],
)
def test_conditions(condition: str, status: int) -> None:
    given_ = serve(request(*condition.split("\r\n")), stored(*TAGGED), NOW + 1)
    assert given_.status == status
    assert given_.body == (b"" if status == 304 else b"0123456789")


def test_a_304_carries_what_updates_a_cache_and_nothing_about_a_body() -> None:
    found = serve(request('If-None-Match: "a"'), stored(*TAGGED, "Content-Language: de", "X-A: 1"), NOW + 3)
    assert found.head.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    names = [name for name, _ in head_fields(found.head)]
    for name in (b"cache-control", b"etag", b"last-modified", b"vary", b"date", b"age", b"x-a"):
        assert names.count(name) == 1, name
    assert not {b"content-type", b"content-length", b"content-language"} & set(names)


def test_a_weak_tag_answers_a_weak_condition() -> None:
    assert serve(request('If-None-Match: "a"'), stored(FRESH, 'ETag: W/"a"'), NOW).status == 304
    assert serve(request('If-None-Match: W/"a"'), stored(FRESH, 'ETag: W/"a"'), NOW).status == 304
    assert serve(request("If-None-Match: w/a"), stored(FRESH, "ETag: w/a"), NOW).status == 200


def test_without_last_modified_the_date_takes_its_place() -> None:
    entry = stored(FRESH)
    assert serve(request(f"If-Modified-Since: {date().decode()}"), entry, NOW).status == 304
    assert serve(request(f"If-Modified-Since: {date(-1).decode()}"), entry, NOW).status == 200


def test_conditions_count_for_200_only() -> None:
    entry = stored(FRESH, 'ETag: "a"', status=404)
    assert serve(request('If-None-Match: "a"'), entry, NOW).status == 404
    assert serve(request("Range: bytes=0-1"), entry, NOW).status == 404


def test_head_has_the_length_and_no_body() -> None:
    found = serve(request(method=b"HEAD"), stored(FRESH), NOW)
    assert found.body == b"" and (b"content-length", b"10") in head_fields(found.head)
    assert serve(request('If-None-Match: "a"', method=b"HEAD"), stored(*TAGGED), NOW).status == 304
    assert serve(request("Range: bytes=0-1", method=b"HEAD"), stored(*TAGGED), NOW).status == 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-1", (206, b"01", b"bytes 0-1/10")),
        ("bytes=8-", (206, b"89", b"bytes 8-9/10")),
        ("bytes=-1", (206, b"9", b"bytes 9-9/10")),
        ("bytes=-99", (206, b"0123456789", b"bytes 0-9/10")),
        ("bytes=5-99999", (206, b"56789", b"bytes 5-9/10")),
        ("Bytes= 5-5 ", (206, b"5", b"bytes 5-5/10")),
        ("bytes=10-", (416, b"", b"bytes */10")),
        ("bytes=-0", (416, b"", b"bytes */10")),
        ("bytes=0-1,3-4", (200, b"0123456789", None)),
        ("bytes=4-2", (200, b"0123456789", None)),
        ("bytes=-", (200, b"0123456789", None)),
        ("bytes=a-b", (200, b"0123456789", None)),
        ("bytes=+1-2", (200, b"0123456789", None)),
        ("items=0-1", (200, b"0123456789", None)),
        ("bytes=" + "9" * 400 + "-", (200, b"0123456789", None)),
    ],
)
def test_ranges(value: str, expected: tuple[int, bytes, bytes | None]) -> None:
    found = serve(request(f"Range: {value}"), stored(*TAGGED), NOW)
    named = head_fields(found.head)
    ranges = [v for n, v in named if n == b"content-range"]
    assert (found.status, found.body, ranges[0] if ranges else None) == expected
    assert [v for n, v in named if n == b"content-length"] == [b"%d" % len(found.body)]
    if found.status == 206:
        assert (b"etag", b'"a"') in named and (b"content-type", b"text/plain") in named


@pytest.mark.parametrize(
    ("lines", "if_range", "status"),
    [
        (TAGGED, '"a"', 206),
        (TAGGED, '"b"', 200),
        (TAGGED, 'W/"a"', 200),
        ((FRESH, 'ETag: W/"a"'), 'W/"a"', 200),
        (TAGGED, date(-3000).decode(), 206),
        (TAGGED, date(-2000).decode(), 200),
        (TAGGED, "garbage", 200),
        ((FRESH, f"Last-Modified: {date().decode()}"), date().decode(), 200),
        ((FRESH,), date().decode(), 200),
    ],
)
def test_if_range_takes_a_strong_validator(lines: tuple[str, ...], if_range: str, status: int) -> None:
    assert serve(request("Range: bytes=0-1", f"If-Range: {if_range}"), stored(*lines), NOW).status == status


def test_without_a_date_the_arrival_decides_whether_a_last_modified_is_strong() -> None:
    entry = stored(*TAGGED)
    entry.head = entry.head.replace(b"Date: " + date() + b"\r\n", b"")
    asked = request("Range: bytes=0-1", f"If-Range: {date(-3000).decode()}")
    assert entry.get(b"date") is None and serve(asked, entry, NOW).status == 206


def test_a_condition_comes_before_a_range() -> None:
    assert serve(request("Range: bytes=0-1", 'If-None-Match: "a"'), stored(*TAGGED), NOW).status == 304


def test_added_lines_go_to_one_client_only() -> None:
    entry = stored(FRESH)
    found = serve(request(), entry, NOW, added_lines=(b"Set-Cookie: a=b",))
    assert (b"set-cookie", b"a=b") in head_fields(found.head)
    assert entry.get(b"set-cookie") is None


def test_cache_status_is_a_structured_list() -> None:
    lines = [HIT, STALE_HIT, cache_status(b"uri-miss", 200, stored=True, collapsed=True), cache_status(b"bypass")]
    for line in lines:
        name, _, value = line.partition(b": ")
        assert name == b"Cache-Status" and value.endswith(b"\r\n")
        members = http_sf.parse(value[:-2], tltype="list")
        assert str(members[0][0]) == "passerelle"
    assert http_sf.parse(lines[2][14:-2], tltype="list")[0][1] == {
        "fwd": http_sf.Token("uri-miss"),
        "fwd-status": 200,
        "stored": True,
        "collapsed": True,
    }


@given(st.binary(max_size=30), st.integers(min_value=0, max_value=50))
def test_a_range_is_within_the_body(value: bytes, length: int) -> None:
    found = resolve_range(b"bytes=" + value, length)
    if found is not None and found is not UNSATISFIABLE:
        first, end = found
        assert 0 <= first < end <= length


_LINES = st.lists(
    st.sampled_from(
        ['If-None-Match: "a"', 'If-None-Match: "b"', "Range: bytes=2-4", "Range: bytes=99-", 'If-Range: "a"', "X: y"]
    ),
    max_size=3,
)


@given(_LINES, st.binary(max_size=20), st.sampled_from([b"GET", b"HEAD"]))
def test_every_answer_is_framed(lines: list[str], body: bytes, method: bytes) -> None:
    entry: Entry = stored(*TAGGED, body=body)
    found = serve(request(*lines, method=method), entry, NOW)
    lengths = [value for name, value in head_fields(found.head) if name == b"content-length"]
    if found.status == 304:
        assert not lengths and not found.body
    elif method == b"HEAD":
        assert lengths == [b"%d" % len(body)] and not found.body
    else:
        assert lengths == [b"%d" % len(found.body)]
        assert found.body in body
