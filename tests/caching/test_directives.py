"""Cache directives: malformed and contradictory ones, and the structured fields of RFC 9213."""

from __future__ import annotations

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.directives import MAX_SECONDS, parse_cache_control, parse_targeted
from passerelle.caching.policy import on_response
from passerelle.caching.settings import CacheSettings
from tests.caching.kit import NOW, reason, request, response, stored
from tests.support.cpu import cpu_timer


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"max-age=60", 60),
        (b"MAX-AGE=60", 60),
        (b'max-age="60"', 60),
        (b"max-age=0060", 60),
        (b",,max-age=60,", 60),
        (b" \t max-age=60 \t ", 60),
        (b"public, max-age=60", 60),
        (b"max-age=99999999999999999999", MAX_SECONDS),
        (b"max-age=" + b"9" * 5000, MAX_SECONDS),
        (b"max-age=2147483649", MAX_SECONDS),
        (b"max-age=60, max-age=60", 60),
        # Malformed or contradictory: stale (RFC 9111 §4.2.1).
        (b"max-age=60, max-age=0", 0),
        (b"max-age=0, max-age=60", 0),
        (b"max-age = 60", 0),
        (b"max-age =60", 0),
        (b"max-age= 60", 0),
        (b"max-age=-1", 0),
        (b"max-age=+1", 0),
        (b"max-age=1_0", 0),
        (b"max-age=1.5", 0),
        (b"max-age='60'", 0),
        (b"max-age=60a", 0),
        (b"max-age=", 0),
        (b"max-age", 0),
        (b"max-age=\xd9\xa3", 0),
        # Not a max-age at all.
        (b"", None),
        (b'ext="max-age=60"', None),
        (b'ext="max-age=60', None),
        (b'ext="a\\", max-age=60"', None),
        (b"public; max-age=60", None),
        (b"x-max-age=60", None),
    ],
)
def test_b23_seconds(value: bytes, seconds: int | None) -> None:
    assert parse_cache_control([value]).seconds(b"max-age") == seconds


def test_b23_two_lines_are_one_list() -> None:
    both = parse_cache_control([b"max-age=60", b"no-store, max-age=0"])
    assert both.seconds(b"max-age") == 0
    assert b"no-store" in both
    assert parse_cache_control([b'ext="open', b"max-age=60"]).seconds(b"max-age") == 60, "a quote ends with its line"


def test_b23_a_qualified_directive_lists_fields() -> None:
    private = parse_cache_control([b'private="X-A, X-B", max-age=60'])
    assert private.fields(b"private") == {b"x-a", b"x-b"}
    assert not private.unqualified(b"private")
    for value in (b"private", b'private=""', b'private=","', b"private = x", b'private="X-A", private'):
        assert parse_cache_control([value]).unqualified(b"private"), value
    assert parse_cache_control([b"no-cache=set-cookie"]).fields(b"no-cache") == {b"set-cookie"}


def test_b23_quoted_text_is_no_directive() -> None:
    found = parse_cache_control([b'ext="no-store, private", max-age=60'])
    assert b"no-store" not in found and b"private" not in found
    assert found.seconds(b"max-age") == 60


def test_b23_kilobytes_of_commas_take_no_time() -> None:
    with cpu_timer() as spent:
        for value in (b"," * 8192, b'"' * 8191, b'"\\' * 4096, b"a=" * 4096, b" " * 8192, b'a="' + b"\\" * 8000):
            parse_cache_control([value])
            parse_targeted([value])
        assert spent() < 0.5


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('max-age=60, public, no-cache="Set-Cookie"', None),
        ('private="X-A, X-B", max-age=60', None),
        ("public; max-age=30", "no-lifetime"),
        ('max-age="60"', None),
        ("MAX-AGE=60", None),
        ("max-age = 60", "no-lifetime"),
        ("max-age=-1", "no-lifetime"),
        ("max-age=1.5", "no-lifetime"),
        ("max-age=60, max-age=0", "no-lifetime"),
        ("max-age=99999999999999999999", None),
        ('ext="no-store", max-age=60', None),
        (",,max-age=60,", None),
        ("," * 8192, "no-lifetime"),
    ],
)
def test_b23_what_each_input_does_to_a_response(value: str, why: str | None) -> None:
    assert reason(f"Cache-Control: {value}") == why


def test_b23_listed_fields_are_left_out_of_what_is_stored() -> None:
    entry = stored('Cache-Control: max-age=60, no-cache="Set-Cookie, X-A"', "Set-Cookie: a=1", "X-A: 1", "X-B: 2")
    names = [name for name, _ in entry.fields]
    assert b"set-cookie" not in names and b"x-a" not in names and b"x-b" in names
    entry = stored('Cache-Control: max-age=60, private="X-A"', "X-A: 1", "X-B: 2")
    assert entry.get(b"x-a") is None and entry.get(b"x-b") == b"2"


def test_a_list_with_a_field_that_the_cache_needs_counts_as_unqualified() -> None:
    assert reason('Cache-Control: max-age=60, private="ETag"') == "private"
    entry = stored('Cache-Control: max-age=60, no-cache="Vary, X-A"', 'ETag: "a"')
    assert entry.fresh_until < NOW
    # A response that must not be stored is not stored, whatever the other directive is.
    entry = stored('Cache-Control: max-age=60, no-cache="Vary", private="X-A"', 'ETag: "a"', "X-A: 1")
    assert entry.get(b"x-a") is None


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_nothing_raises(lines: list[bytes]) -> None:
    found = parse_cache_control(lines)
    for name in (b"max-age", b"no-cache", b"private", *found.members):
        number = found.seconds(name)
        assert number is None or 0 <= number <= MAX_SECONDS
        assert isinstance(found.fields(name), frozenset)
        found.unqualified(name)
    parse_targeted(lines)


_WORDS = st.sampled_from(
    ["max-age", "no-store", "private", "=", '"', "\\", ",", " ", "60", "-1", "; ", "public", "X-A"]
)


@given(st.lists(_WORDS, max_size=25).map("".join))
def test_near_legal_values_never_raise_and_never_free_a_prohibition(text: str) -> None:
    value = text.encode()
    found = parse_cache_control([value, b"no-store"])
    assert b"no-store" in found
    outcome = on_response(
        request(), response(b"Cache-Control: " + value, "Cache-Control: no-store"), None, CacheSettings()
    )
    assert getattr(outcome, "reason", None) == "no-store"


# ---- RFC 9213


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"max-age=60", 60),
        (b"max-age=60, foobar", 60),
        (b"max-age=60;param=1, x=(1 2);q", 60),
        (b"max-age=1, max-age=60", 60),
        (b"foo=?0, max-age=60", 60),
        (b"max-age=-5", 0),
    ],
)
def test_targeted_fields_are_structured(value: bytes, seconds: int) -> None:
    found = parse_targeted([value])
    assert found is not None and found.seconds(b"max-age") == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"max-age =60",
        b"max-age= 60",
        b"MAX-AGE=60",
        b"max-age=60,",
        b"max-age=60, &&&&&",
        b'max-age="60"',
        b"max-age=60.0",
        b"max-age=1.2345",
        b"max-age=9999999999999999",
        b"max-age",
        b"no-store=1",
        b'no-store="x"',
        b"no-cache=1",
        b"a=(1",
        b"a=(1 2",
        b'a="\xff"',
        b"a=?2",
        b"max-age=60 b",
    ],
)
def test_a_targeted_field_that_is_malformed_or_of_another_type_is_ignored(value: bytes) -> None:
    assert parse_targeted([value]) is None
    assert reason(b"CDN-Cache-Control: " + value, "Cache-Control: no-store") == "no-store"
    assert reason(b"CDN-Cache-Control: " + value, "Cache-Control: max-age=60") is None


def test_a_valid_targeted_field_replaces_cache_control_and_expires() -> None:
    entry = stored("CDN-Cache-Control: max-age=60", "Cache-Control: no-store, private")
    assert entry.fresh_until == NOW + 60
    assert reason("CDN-Cache-Control: no-store", "Cache-Control: max-age=60") == "no-store"
    assert reason("CDN-Cache-Control: private", "Cache-Control: max-age=60") == "private"
    assert reason("CDN-Cache-Control: foo", "Expires: Fri, 01 Jan 2038 01:01:01 GMT") == "no-lifetime"
    assert reason("CDN-Cache-Control: no-store=?0, max-age=60") is None
    assert reason('CDN-Cache-Control: max-age=60, private="X-A"') is None


def test_the_first_targeted_field_of_the_list_wins() -> None:
    settings = CacheSettings(targeted=(b"passerelle-cache-control", b"cdn-cache-control"))
    entry = stored("CDN-Cache-Control: max-age=60", "Passerelle-Cache-Control: max-age=5", settings=settings)
    assert entry.fresh_until == NOW + 5


_SF = st.text(alphabet='abz09-_.*="?;, ()\\:@%T', max_size=30)


@given(_SF)
def test_the_structured_parser_agrees_with_another_one(text: str) -> None:
    """http_sf implements RFC 9651 independently; both must accept the same texts as Dictionaries."""
    value = text.encode().strip(b" ")
    try:
        other = http_sf.parse(value, tltype="dictionary")
    except ValueError:
        assert parse_targeted([value]) is None
        return
    known = {"max-age", "s-maxage", "no-cache", "private"}
    if other and not known & set(other):
        assert parse_targeted([value]) is not None
