"""RFC 9111 §4, §5.2.1: decisions about requests, given a stored response. RFC 5861 for stale use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.policy import (
    HIT,
    Bypass,
    Fresh,
    Merge,
    Miss,
    Refuse,
    RelayOnly,
    Stale,
    Store,
    UseStale,
    lookup,
    on_response,
    usable_on_failure,
)
from passerelle.caching.settings import CacheSettings
from tests.caching.kit import DEFAULT, NOW, date, request, response, stored

FRESH = "Cache-Control: max-age=60"


def test_a_plain_get_of_a_fresh_entry_goes_the_short_way() -> None:
    entry = stored(FRESH)
    assert lookup(request("Accept: */*", "Cookie: a=b"), entry, NOW + 59.9, DEFAULT) is HIT
    assert lookup(request("Cache-Control: no-transform, foo", "Pragma: no-cache"), entry, NOW, DEFAULT) is HIT


def test_a_stale_entry_is_validated_with_all_its_validators() -> None:
    modified = date(-100)
    entry = stored(FRESH, 'ETag: "a"', f"Last-Modified: {modified.decode()}")
    decision = lookup(request('If-None-Match: "z"', "Range: bytes=0-1"), entry, NOW + 60, DEFAULT)
    assert isinstance(decision, Stale)
    assert decision.fields == [(b"if-none-match", b'"a"'), (b"if-modified-since", modified)]
    assert decision.drop == {b"if-none-match", b"if-modified-since", b"range", b"if-range"}
    assert decision.reason == b"stale"


def test_an_entry_without_validators_is_kept_for_when_upstream_fails() -> None:
    decision = lookup(request(), stored(FRESH), NOW + 60, DEFAULT)
    assert isinstance(decision, Stale) and decision.fields == []


def test_no_cache_is_validated_each_time() -> None:
    entry = stored("Cache-Control: max-age=60, no-cache", 'ETag: "a"')
    assert isinstance(lookup(request(), entry, NOW, DEFAULT), Stale)
    assert isinstance(lookup(request("Cache-Control: max-stale"), entry, NOW, DEFAULT), Stale)
    assert not usable_on_failure(request(), entry, NOW, DEFAULT)


def test_a_miss_requests_the_whole_body_so_that_it_can_be_shared() -> None:
    decision = lookup(request('If-None-Match: "a"', f"If-Modified-Since: {date().decode()}"), None, NOW, DEFAULT)
    assert decision == Miss(b"uri-miss", frozenset({b"if-none-match", b"if-modified-since"}), True)


def test_a_miss_of_a_range_or_of_a_head_is_its_own() -> None:
    for asked in (request("Range: bytes=0-1"), request(method=b"HEAD")):
        assert lookup(asked, None, NOW, DEFAULT) == Miss(b"uri-miss", frozenset(), False)


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"M-SEARCH"])
def test_other_methods_pass(method: bytes) -> None:
    assert lookup(request(method=method), stored(FRESH), NOW, DEFAULT) == Bypass(b"method")


@pytest.mark.parametrize("line", ['If-Match: "a"', "If-Unmodified-Since: Fri, 15 Jan 2027 08:00:00 GMT"])
def test_conditions_for_origins_are_not_evaluated_here(line: str) -> None:
    assert lookup(request(line), stored(FRESH, 'ETag: "a"'), NOW, DEFAULT) == Bypass(b"request")


# §5.2.1


@pytest.mark.parametrize(
    ("directives", "age", "answered"),
    [
        ("max-age=0", 0.5, False),
        ("max-age=5", 5.0, True),
        ("max-age=5", 5.5, False),
        ("max-age=x", 1.0, False),
        ("min-fresh=50", 9.0, True),
        ("min-fresh=50", 11.0, False),
        ("min-fresh=x", 0.0, False),
        ("no-cache", 0.0, False),
        ("max-stale", 600.0, True),
        ("max-stale=10", 69.0, True),
        ("max-stale=10", 71.0, False),
        ("max-stale=x", 61.0, False),
        ("max-stale=10, max-age=30", 61.0, False),
        ("max-stale=10, no-cache", 61.0, False),
        ("MAX-STALE=10", 69.0, True),
    ],
)
def test_request_directives(directives: str, age: float, answered: bool) -> None:
    asked = request(f"Cache-Control: {directives}")
    decision = lookup(asked, stored(FRESH, 'ETag: "a"'), NOW + age, DEFAULT)
    assert isinstance(decision, Fresh) is answered, decision
    if answered:
        assert decision == Fresh(stale=age >= 60)
    else:
        assert isinstance(decision, Stale)


def test_request_directives_can_be_ignored() -> None:
    settings = CacheSettings(obey_client_directives=False)
    for directives in ("no-cache", "no-store", "max-age=0", "min-fresh=999", "only-if-cached"):
        asked = request(f"Cache-Control: {directives}")
        assert isinstance(lookup(asked, stored(FRESH), NOW, settings), Fresh)
    assert isinstance(lookup(request("Cache-Control: only-if-cached"), None, NOW, settings), Miss)
    assert isinstance(lookup(request("Cache-Control: max-stale"), stored(FRESH), NOW + 61, settings), Stale)


@pytest.mark.parametrize("directive", ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"])
def test_max_stale_gives_way_to_the_origin(directive: str) -> None:
    entry = stored(f"Cache-Control: max-age=60, {directive}", 'ETag: "a"')
    assert isinstance(lookup(request("Cache-Control: max-stale"), entry, NOW + 61, DEFAULT), Stale)


def test_no_store_neither_reads_nor_writes() -> None:
    assert lookup(request("Cache-Control: no-store"), stored(FRESH), NOW, DEFAULT) == Bypass(b"request")


def test_only_if_cached() -> None:
    asked = request("Cache-Control: only-if-cached")
    assert lookup(asked, None, NOW, DEFAULT) == Refuse()
    assert lookup(asked, stored(FRESH), NOW, DEFAULT) == Fresh()
    assert lookup(asked, stored(FRESH), NOW + 61, DEFAULT) == Refuse()


def test_a_client_that_wants_no_cache_does_not_wait_for_an_older_answer() -> None:
    decision = lookup(request("Cache-Control: no-cache"), None, NOW, DEFAULT)
    assert isinstance(decision, Miss) and not decision.share


# RFC 5861, RFC 9111 §4.2.4


def test_stale_while_revalidate() -> None:
    entry = stored("Cache-Control: max-age=60, stale-while-revalidate=30", 'ETag: "a"')
    assert lookup(request(), entry, NOW + 89, DEFAULT) == Fresh(stale=True, refresh=True)
    assert isinstance(lookup(request(), entry, NOW + 90, DEFAULT), Stale)
    assert isinstance(lookup(request("Cache-Control: max-age=10"), entry, NOW + 61, DEFAULT), Stale)
    assert isinstance(lookup(request("Cache-Control: min-fresh=1"), entry, NOW + 61, DEFAULT), Stale)


def test_stale_if_error() -> None:
    entry = stored("Cache-Control: max-age=60, stale-if-error=30")
    for status in (500, 502, 503, 504):
        assert on_response(request(), response(status=status, at=NOW + 89), entry, DEFAULT) == UseStale()
        assert isinstance(on_response(request(), response(status=status, at=NOW + 90), entry, DEFAULT), RelayOnly)
    for status in (404, 501, 429):
        assert not isinstance(on_response(request(), response(status=status, at=NOW + 61), entry, DEFAULT), UseStale)
    plain = stored(FRESH)
    assert not isinstance(on_response(request(), response(status=503, at=NOW + 61), plain, DEFAULT), UseStale)


def test_without_any_answer_the_cache_is_disconnected() -> None:
    settings = CacheSettings(stale_if_disconnected=100)
    entry = stored(FRESH)
    assert usable_on_failure(request(), entry, NOW + 159, settings)
    assert not usable_on_failure(request(), entry, NOW + 160, settings)
    assert not usable_on_failure(request(), None, NOW, settings)
    assert not usable_on_failure(request("Cache-Control: no-cache"), entry, NOW, settings)
    for directive in ("must-revalidate", "proxy-revalidate", "s-maxage=60"):
        strict = stored(f"Cache-Control: max-age=60, {directive}")
        assert not usable_on_failure(request(), strict, NOW + 61, settings)
    named = stored("Cache-Control: s-maxage=60, stale-if-error=30")
    assert usable_on_failure(request(), named, NOW + 89, settings)
    assert not usable_on_failure(request(), named, NOW + 90, settings)


def test_an_answer_that_may_not_be_stored_supersedes_what_is() -> None:
    entry = stored(FRESH)
    assert on_response(request(), response("Cache-Control: no-store", at=NOW + 61), entry, DEFAULT) == RelayOnly(
        "no-store", forget=True
    )
    assert on_response(request(), response(status=500, at=NOW + 61), entry, DEFAULT) == RelayOnly("status")
    assert isinstance(on_response(request(), response(FRESH, at=NOW + 61), entry, DEFAULT), Store)


@pytest.mark.parametrize("status", [206, 400, 401, 406, 407, 408, 412, 413, 415, 416, 421, 422, 426, 429, 431])
@pytest.mark.parametrize("lines", [[], ["Cache-Control: no-store"], ["Cache-Control: public, max-age=60"]])
def test_an_error_about_one_request_keeps_the_stored_response(status: int, lines: list[str]) -> None:
    answer = response(*lines, status=status, at=NOW + 1)
    assert on_response(request(), answer, stored(FRESH), DEFAULT) == RelayOnly("status")


@pytest.mark.parametrize("status", [403, 404, 410, 451])
def test_an_answer_about_the_uri_supersedes_what_is_stored(status: int) -> None:
    outcome = on_response(request(), response(status=status, at=NOW + 61), stored(FRESH), DEFAULT)
    assert isinstance(outcome, RelayOnly) and outcome.forget


# HEAD


def test_head_is_answered_from_a_get_and_else_goes_through() -> None:
    entry = stored(FRESH)
    assert lookup(request(method=b"HEAD"), entry, NOW, DEFAULT) == Fresh()
    assert lookup(request(method=b"HEAD"), entry, NOW + 61, DEFAULT) == Miss(b"stale", frozenset(), False)


def test_head_freshens_or_removes() -> None:
    entry = stored(FRESH, 'ETag: "a"', "X-A: 1")
    head = request(method=b"HEAD")
    outcome = on_response(head, response("Cache-Control: max-age=9", 'ETag: "a"', at=NOW + 61), entry, DEFAULT)
    assert isinstance(outcome, Merge) and outcome.keep
    assert outcome.entry.fresh_until == NOW + 70 and outcome.entry.get(b"x-a") == b"1"
    for line in ('ETag: "b"', "Content-Length: 11", f"Last-Modified: {date(-9).decode()}"):
        assert on_response(head, response(line, at=NOW + 61), entry, DEFAULT) == RelayOnly("method", forget=True)
    unnamed = stored(FRESH)
    assert on_response(head, response('ETag: "a"', at=NOW + 61), unnamed, DEFAULT) == RelayOnly("method", forget=True)
    assert isinstance(on_response(head, response("Content-Length: 10", at=NOW + 61), unnamed, DEFAULT), Merge)
    missing = stored(FRESH, status=404)
    assert on_response(head, response(), missing, DEFAULT) == RelayOnly("method", forget=True), "it is there now"
    assert on_response(head, response(status=410), entry, DEFAULT) == RelayOnly("method")
    assert on_response(head, response(FRESH), None, DEFAULT) == RelayOnly("method"), "a HEAD stores nothing"


# properties

_REQUESTS = st.lists(
    st.sampled_from(
        [
            "Cache-Control: no-transform",
            "Cache-Control: max-age=100000",
            "Cache-Control: min-fresh=1",
            "Cookie: a=b",
            "Authorization: Bearer x",
            'If-None-Match: "a"',
            "Range: bytes=0-1",
        ]
    ),
    max_size=4,
)
_STORED = st.sampled_from(
    [
        "max-age=60",
        "max-age=60, public",
        "s-maxage=60",
        "max-age=60, must-revalidate",
        "max-age=60, proxy-revalidate",
        "no-cache, max-age=60",
    ]
)


@given(_REQUESTS, _STORED, st.floats(min_value=0, max_value=1e6), st.sampled_from([b"GET", b"HEAD"]))
def test_nothing_is_fresh_after_fresh_until(lines: list[str], control: str, later: float, method: bytes) -> None:
    """Without a stale window of the response or the client, an entry serves nothing after its lifetime."""
    entry = stored(f"Cache-Control: {control}", 'ETag: "a"')
    now = max(entry.fresh_until, NOW) + later
    assert not isinstance(lookup(request(*lines, method=method), entry, now, DEFAULT), Fresh)


@given(_REQUESTS, _STORED, st.floats(min_value=0, max_value=59))
def test_a_request_with_credentials_gets_only_what_is_meant_for_all(lines: list[str], control: str, age: float) -> None:
    entry = stored(f"Cache-Control: {control}", 'ETag: "a"')
    decision = lookup(request(*lines, "Authorization: Basic x"), entry, NOW + age, DEFAULT)
    if not any(word in control for word in ("public", "s-maxage", "must-revalidate")):
        assert decision == Bypass(b"bypass")
