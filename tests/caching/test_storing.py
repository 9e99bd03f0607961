"""RFC 9111 §3: which responses may be stored, and in what form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.entry import NEVER
from passerelle.caching.policy import Invalidate, Store, on_response
from passerelle.caching.response import OriginResponse
from passerelle.caching.settings import CacheSettings
from passerelle.http.messages import Fields
from tests.caching.kit import DEFAULT, NOW, date, fields, reason, request, response, stored

FRESH = "Cache-Control: max-age=60"


# §3: status codes


@pytest.mark.parametrize("status", [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 503, 599])
def test_any_final_status_is_stored_with_explicit_freshness(status: int) -> None:
    assert reason(FRESH, status=status) is None


@pytest.mark.parametrize(("status", "why"), [(206, "partial"), (416, "partial"), (304, "conditional")])
def test_parts_and_304_are_not_stored(status: int, why: str) -> None:
    assert reason(FRESH, status=status) == why


@pytest.mark.parametrize("status", [406, 408, 411, 412, 413, 415, 417, 421, 422, 425, 426, 428, 429, 431])
def test_errors_about_one_request_are_not_stored_for_others(status: int) -> None:
    """Otherwise any client could replace a URI's response by an error with one malformed request."""
    assert reason("Cache-Control: public, max-age=60", status=status) == "status"


def test_statuses_that_are_not_cacheable_by_default_need_public() -> None:
    modified = f"Last-Modified: {date(-1000).decode()}"
    assert reason(modified, status=404) is None
    assert reason(modified, status=403) == "status"
    assert reason(modified, "Cache-Control: public", status=403) is None


def test_neither_lifetime_nor_validator_is_not_worth_storing() -> None:
    assert reason() == "no-lifetime"
    assert reason("Cache-Control: max-age=0") == "no-lifetime"
    assert reason("Cache-Control: max-age=0", 'ETag: "a"') is None
    assert reason("Cache-Control: max-age=0", "ETag: a") == "no-lifetime", "a malformed tag validates nothing"
    assert reason("Cache-Control: max-age=0", f"Last-Modified: {date(-9).decode()}") is None
    assert reason("Cache-Control: max-age=0, stale-if-error=60") is None
    assert reason("Cache-Control: max-age=0, stale-if-error=60, must-revalidate") == "no-lifetime"


# §5.2.1.5, §5.2.2.3, §5.2.2.5, §5.2.2.7


def test_no_store_of_either_side() -> None:
    assert reason("Cache-Control: no-store, max-age=60") == "no-store"
    assert reason(FRESH, asked=request("Cache-Control: no-store")) == "request-no-store"
    settings = CacheSettings(obey_client_directives=False)
    assert reason(FRESH, asked=request("Cache-Control: no-store"), settings=settings) is None


def test_must_understand_overrides_no_store_for_known_statuses_only() -> None:
    assert reason("Cache-Control: max-age=60, no-store, must-understand") is None
    assert reason("Cache-Control: max-age=60, no-store, must-understand", status=599) == "not-understood"
    assert reason("Cache-Control: max-age=60, must-understand", status=299) == "not-understood"


def test_private_and_vary_star() -> None:
    assert reason("Cache-Control: private, max-age=60") == "private"
    for value in ("*", "*, *", ", *", "Foo, *", "*, Foo"):
        assert reason(FRESH, f"Vary: {value}") == "vary"
    assert reason(FRESH, "Vary: ", "Vary: *") == "vary"
    assert reason(FRESH, "Vary: " + ",".join(f"x-{n}" for n in range(17))) == "vary", "more fields than are looked at"


def test_a_cookie_for_one_is_not_stored_for_all() -> None:
    assert reason(FRESH, "Set-Cookie: a=b") == "set-cookie"
    assert reason("Cache-Control: public, max-age=60", "Set-Cookie:") == "set-cookie"
    assert reason(FRESH, "Set-Cookie2: a=b") is None, "which no client knows any more"
    assert reason(FRESH, "Set-Cookie: a=b", settings=CacheSettings(store_set_cookie=True)) is None
    assert reason('Cache-Control: max-age=60, no-cache="Set-Cookie"', "Set-Cookie: a=b") is None


def test_events_are_made_only_with_a_listener() -> None:
    assert reason(FRESH, "Content-Type: text/event-stream") == "stream"
    assert (
        reason(FRESH, "Content-Type: Text/Event-Stream ; charset=utf-8", settings=CacheSettings(ttl=60.0)) == "stream"
    )
    assert reason(FRESH, "Content-Type: text/event-streams") is None


# §3.1: what is stored


def test_hop_by_hop_fields_are_not_stored() -> None:
    entry = stored(
        FRESH,
        "Connection: a, Keep-Alive",
        "A: 1",
        "B: 2",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: x",
        "Proxy-Authentication-Info: x",
        "TE: x",
        "Upgrade: x",
        "Age: 3",
    )
    assert [name for name, _ in entry.fields] == [b"cache-control", b"b", b"date", b"content-length"]


def test_connection_cannot_take_away_what_frames_the_message() -> None:
    entry = stored(FRESH, "Connection: content-length, content-type", "Content-Length: 10", "Content-Type: text/plain")
    assert entry.get(b"content-length") == b"10" and entry.get(b"content-type") == b"text/plain"


def test_repeated_fields_keep_their_number_order_and_spelling() -> None:
    relay = b"HTTP/1.1 200 Fine\r\nCache-Control: max-age=60\r\nLINK: a\r\nlink: b\r\nX-Odd :c\r\n"
    all_fields: Fields = fields("Cache-Control: max-age=60", "Link: a", "Link: b")
    came = OriginResponse(200, all_fields, request_time=NOW, response_time=NOW, relay=relay)
    outcome = on_response(request(), came, None, DEFAULT)
    assert isinstance(outcome, Store)
    entry = outcome.draft.complete(b"xyz")
    assert entry is not None
    assert entry.head.startswith(b"HTTP/1.1 200 Fine\r\nCache-Control: max-age=60\r\nLINK: a\r\nlink: b\r\n")
    assert entry.head.endswith(b"Date: " + date() + b"\r\nContent-Length: 3\r\n"), "an origin without a clock"


def test_tags_come_from_the_route_and_the_response_and_are_not_shown() -> None:
    outcome = on_response(
        request(), response(FRESH, "Cache-Tag: a, b,,a", "Surrogate-Key: c  d"), None, DEFAULT, tags=(b"user:1", b"b")
    )
    assert isinstance(outcome, Store)
    entry = outcome.draft.complete(b"")
    assert entry is not None
    assert entry.tags == (b"user:1", b"b", b"a", b"c", b"d")
    assert entry.get(b"cache-tag") is None and entry.get(b"surrogate-key") is None


# §3.3: incomplete responses


def test_b06_a_truncated_body_is_never_stored() -> None:
    outcome = on_response(request(), response(FRESH, "Content-Length: 10"), None, DEFAULT)
    assert isinstance(outcome, Store)
    assert outcome.draft.length == 10
    assert outcome.draft.complete(b"01234") is None
    assert outcome.draft.complete(b"0123456789") is not None


def test_a_body_without_a_length_gets_one() -> None:
    assert stored(FRESH, body=b"hello").get(b"content-length") == b"5"
    assert stored(FRESH, body=b"").get(b"content-length") == b"0"
    assert stored(FRESH, body=b"", status=204).get(b"content-length") is None


def test_a_body_that_is_too_large_is_known_by_its_head() -> None:
    assert reason(FRESH, "Content-Length: 1001", settings=CacheSettings(max_body=1000)) == "too-large"
    assert reason(FRESH, "Content-Length: 1000", settings=CacheSettings(max_body=1000)) is None


# the route's lifetimes


def test_a_route_sets_the_lifetime_for_its_statuses() -> None:
    settings = CacheSettings(ttl=30.0)
    assert stored(settings=settings).fresh_until == NOW + 30
    assert stored("Cache-Control: max-age=5", "Age: 20", settings=settings).fresh_until == NOW + 30
    assert reason(settings=settings, status=404) == "no-lifetime"
    assert stored(settings=CacheSettings(ttl=30.0, statuses=frozenset({404})), status=404).fresh_until == NOW + 30
    assert reason(status=500, settings=settings) == "status"


def test_a_route_sets_lifetimes_for_single_statuses() -> None:
    settings = CacheSettings(ttl=30.0, ttl_by_status={404: 5.0, 200: 60.0, 503: 1.0})
    assert [stored(settings=settings, status=status).fresh_until - NOW for status in (200, 203, 404, 503)] == [
        *(60, 30, 5, 1),
    ]
    assert reason(status=500, settings=settings) == "status"
    assert reason("Cache-Control: no-store", status=404, settings=settings) == "no-store"
    alone = CacheSettings(ttl_by_status={404: 5.0})
    assert stored("Cache-Control: max-age=9", status=404, settings=alone).fresh_until == NOW + 5
    assert stored("Cache-Control: max-age=9", settings=alone).fresh_until == NOW + 9


def test_a_route_does_not_override_prohibitions() -> None:
    settings = CacheSettings(ttl=30.0)
    assert reason("Cache-Control: no-store", settings=settings) == "no-store"
    assert reason("Cache-Control: private", settings=settings) == "private"
    assert reason("Set-Cookie: a=b", settings=settings) == "set-cookie"
    assert reason("Vary: *", settings=settings) == "vary"
    assert stored("Cache-Control: no-cache", 'ETag: "a"', settings=settings).fresh_until == NEVER


def test_the_route_s_stale_windows_take_the_place_of_the_origin_s() -> None:
    settings = CacheSettings(stale_while_revalidate=7, stale_if_error=0)
    entry = stored("Cache-Control: max-age=1, stale-while-revalidate=100, stale-if-error=100", settings=settings)
    assert (entry.stale_while_revalidate, entry.stale_if_error) == (7, 0)
    entry = stored("Cache-Control: max-age=1, stale-while-revalidate=100, stale-if-error=90")
    assert (entry.stale_while_revalidate, entry.stale_if_error) == (100, 90)
    for directive in ("must-revalidate", "proxy-revalidate", "no-cache"):
        entry = stored(
            f"Cache-Control: max-age=1, stale-while-revalidate=9, {directive}", 'ETag: "a"', settings=settings
        )
        assert (entry.stale_while_revalidate, entry.stale_if_error, entry.strict) == (0, 0, True)
    entry = stored("Cache-Control: s-maxage=1, stale-while-revalidate=9")
    assert (entry.stale_while_revalidate, entry.strict) == (9, True)


@pytest.mark.parametrize("own", [None, 9], ids=["window of the response", "window of the route"])
@pytest.mark.parametrize(
    ("directive", "window"),
    [
        ("must-revalidate", 0),
        ("proxy-revalidate", 0),
        ("no-cache", 0),
        ('no-cache="etag"', 0),
        ("s-maxage=1", 9),
        ("s-maxage=1, must-revalidate", 0),
        ("public", 9),
    ],
)
def test_a_prohibition_of_stale_use_is_the_same_for_both_windows(directive: str, window: int, own: int | None) -> None:
    settings = CacheSettings(stale_while_revalidate=own, stale_if_error=own)
    windows = "" if own else ", stale-while-revalidate=9, stale-if-error=9"
    entry = stored(f"Cache-Control: max-age=1, {directive}{windows}", 'ETag: "a"', settings=settings)
    assert (entry.stale_while_revalidate, entry.stale_if_error) == (window, window)
    assert entry.strict is (directive != "public")


# POST (RFC 9110 §9.3.3)


def test_a_post_s_answer_about_its_own_uri_may_answer_a_get() -> None:
    from passerelle.caching.keys import TargetUri

    target = TargetUri(b"/r", None)
    asked = request(method=b"POST")

    def draft(*lines: str, status: int = 200) -> bool:
        outcome = on_response(asked, response(*lines, status=status), None, DEFAULT, authority=b"gw", target=target)
        assert isinstance(outcome, Invalidate)
        return outcome.draft is not None

    assert draft(FRESH, "Content-Location: /r")
    assert draft(FRESH, "Content-Location: http://gw/r")
    assert not draft(FRESH, "Content-Location: /s")
    assert not draft(FRESH, "Content-Location: http://other/r")
    assert not draft(f"Last-Modified: {date(-1000).decode()}", "Content-Location: /r")
    assert not draft("Cache-Control: no-store, max-age=60", "Content-Location: /r")
    assert not draft(FRESH, "Content-Location: /r", status=201)
    assert not draft(FRESH)


# properties

_LINES = st.lists(
    st.sampled_from(
        [
            "Cache-Control: max-age=60",
            "Cache-Control: public",
            "Cache-Control: s-maxage=5",
            "Cache-Control: must-revalidate",
            "Cache-Control: no-cache",
            'Cache-Control: no-cache="Set-Cookie"',
            "Cache-Control: stale-while-revalidate=30",
            "CDN-Cache-Control: max-age=3",
            "Expires: 0",
            f"Expires: {date(500).decode()}",
            f"Last-Modified: {date(-5000).decode()}",
            "Age: 30",
            'ETag: "a"',
            "ETag: broken",
            "Vary: Accept-Encoding",
            "Set-Cookie: a=b",
            "Content-Type: text/plain",
        ]
    ),
    max_size=8,
)


@given(_LINES, st.sampled_from([200, 204, 302, 404, 500, 599]))
def test_no_store_and_private_are_never_stored(lines: list[str], status: int) -> None:
    targeted = any(line.startswith("CDN-") for line in lines)
    for word in ("no-store", "private"):
        field = "CDN-Cache-Control" if targeted else "Cache-Control"
        outcome = on_response(request(), response(*lines, f"{field}: {word}", status=status), None, DEFAULT)
        assert not isinstance(outcome, Store)


@given(_LINES, st.binary(max_size=50))
def test_a_stored_head_has_its_length_once_and_no_cookie(lines: list[str], body: bytes) -> None:
    outcome = on_response(request(), response(*lines), None, DEFAULT)
    if not isinstance(outcome, Store):
        return
    entry = outcome.draft.complete(body)
    assert entry is not None
    names = [name for name, _ in entry.fields]
    assert names.count(b"content-length") == 1 and entry.get(b"content-length") == b"%d" % len(body)
    assert b"set-cookie" not in names and b"age" not in names
    assert names.count(b"date") == 1
    assert entry.head.endswith(b"\r\n") and b"\r\n\r\n" not in entry.head
