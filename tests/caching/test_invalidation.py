"""RFC 9111 §4.4: unsafe methods invalidate what they may have changed, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.keys import WHOLE_URI, KeyRule, TargetUri, key_path, parameters, same_origin_target
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.policy import Invalidate, Outcome, RelayOnly, on_response
from passerelle.errors import Failure, Kind
from passerelle.http1.field_values import parse_host
from tests.caching.kit import DEFAULT, request, response, stored

R = TargetUri(b"/r", None)


def unsafe(method: bytes, *lines: str, status: int = 200, target: TargetUri = R, authority: bytes = b"gw") -> Outcome:
    came = response(*lines, status=status)
    return on_response(request(method=method), came, None, DEFAULT, authority=authority, target=target)


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"M-SEARCH", b"X", b"post"])
@pytest.mark.parametrize("status", [200, 201, 204, 302, 303])
def test_a_success_of_an_unsafe_or_unknown_method_invalidates_its_uri(method: bytes, status: int) -> None:
    assert unsafe(method, status=status) == Invalidate((R,), None)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500, 503])
def test_an_error_invalidates_nothing(status: int) -> None:
    assert unsafe(b"POST", status=status) == RelayOnly("method")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE"])
def test_safe_methods_invalidate_nothing(method: bytes) -> None:
    assert not isinstance(unsafe(method), Invalidate)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("/t", TargetUri(b"/t", None)),
        ("t", TargetUri(b"/a/t", None)),
        ("../t?x=1", TargetUri(b"/t", b"x=1")),
        ("?y", TargetUri(b"/a/r", b"y")),
        ("http://gw/t", TargetUri(b"/t", None)),
        ("https://GW:443/t", TargetUri(b"/t", None)),
        ("//gw/t", TargetUri(b"/t", None)),
        ("http://gw", TargetUri(b"/", None)),
        ("http://other.test/x", None),
        ("//other.test/x", None),
        ("http://gw:8080/t", None),
        ("http://gw@other.test/t", None),
        ("mailto:a@gw", None),
        ("http://[::1/t", None),
    ],
)
def test_locations_of_the_same_origin_only(reference: str, expected: TargetUri | None) -> None:
    target = TargetUri(b"/a/r", None)
    for name in ("Location", "Content-Location"):
        outcome = unsafe(b"PUT", f"{name}: {reference}", target=target)
        assert isinstance(outcome, Invalidate)
        assert outcome.targets == ((target,) if expected is None else (target, expected))


@given(st.binary(max_size=40))
def test_a_reference_never_raises(reference: bytes) -> None:
    found = same_origin_target(reference, b"gw", b"/r", None)
    assert found is None or found.path.startswith(b"/")


def test_the_query_and_neighbours_are_other_uris() -> None:
    assert unsafe(b"POST") == Invalidate((R,), None)
    assert WHOLE_URI.key(b"gw", b"/r", None) != WHOLE_URI.key(b"gw", b"/r", b"x=1")
    assert WHOLE_URI.key(b"gw", b"/r", None) != WHOLE_URI.key(b"gw", b"/r", b"")
    assert WHOLE_URI.key(b"gw", b"/r", None) != WHOLE_URI.key(b"gx", b"/r", None)


def test_a_body_in_flight_is_not_stored_after_an_invalidation() -> None:
    store = MemoryStore(1_000_000)
    entry = stored("Cache-Control: max-age=60", key=b"gw /r")
    before = store.epoch
    store.delete(b"gw /r")
    assert not store.put_since(entry, before)
    assert store.put_since(stored("Cache-Control: max-age=60", key=b"gw /s"), before), "other URIs are not affected"
    assert store.put_since(entry, store.epoch)
    variant = stored("Cache-Control: max-age=60", key=b"gw /r\x00salt\x00gzip")
    assert not store.put_since(variant, before)


def test_a_purge_stops_every_response_in_flight() -> None:
    store = MemoryStore(1_000_000)
    for purge in (lambda: store.purge_tag(b"t"), lambda: store.purge_path(b"/other"), store.clear):
        before = store.epoch
        purge()
        assert not store.put_since(stored("Cache-Control: max-age=60", key=b"gw /r"), before)


def test_more_invalidations_than_are_remembered_stop_what_is_older() -> None:
    store = MemoryStore(1_000_000)
    before = store.epoch
    for number in range(5000):
        store.delete(b"gw /%d" % number)
    assert not store.put_since(stored("Cache-Control: max-age=60", key=b"gw /r"), before)
    assert store.put_since(stored("Cache-Control: max-age=60", key=b"gw /r"), store.epoch)


# keys


def test_a_rule_may_keep_named_parameters_only() -> None:
    rule = KeyRule(query=frozenset({b"page", b"q"}))
    key = rule.key(b"gw", b"/r", b"q=1&page=2")
    assert key == rule.key(b"gw", b"/r", b"utm_source=x&page=2&q=1&")
    assert key != rule.key(b"gw", b"/r", b"q=1&page=3")
    assert rule.key(b"gw", b"/r", b"utm_source=x") == rule.key(b"gw", b"/r", None)
    assert KeyRule(query=frozenset()).key(b"gw", b"/r", b"a=1") == KeyRule().key(b"gw", b"/r", None)


def test_a_rule_may_put_the_hosts_of_a_route_together() -> None:
    every, some = KeyRule(hosts=b""), KeyRule(hosts=b"*.example.com")
    assert every.key(b"a", b"/r", None) == every.key(b"b", b"/r", None)
    assert every.key(b"a", b"/r", None) != some.key(b"a", b"/r", None)
    for rule in (every, some):
        key = rule.key(b"a", b"/r", b"q")
        assert key_path(key) == b"/r"
        with pytest.raises(Failure):
            parse_host(key.partition(b" ")[0], Kind.BAD_REQUEST)


def test_parameters_are_named_by_whatever_a_service_could_read_as_their_names() -> None:
    rule = KeyRule(query=parameters(["page"]))
    plain = rule.key(b"gw", b"/r", None)
    for query in (b"page", b"%70age", b"pa%67e", b"Page", b"+page", b"%20page", b"page+", b"page[]", b"page%5B0%5D"):
        assert rule.key(b"gw", b"/r", query + b"=6") != plain, query
        assert rule.key(b"gw", b"/r", b"x=1;" + query + b"=6") != plain, query
    for query in (b"pages=6", b"x=page", b"x=1;y=page", b"%2570age=6"):
        assert rule.key(b"gw", b"/r", query) == plain, query
    for name, query in (("a+b", b"a+b=1"), ("a+b", b"a%2Bb=1"), ("a b", b"a+b=1"), ("x[y]", b"x[y]=1"), ("A", b"a=1")):
        assert KeyRule(query=parameters([name])).key(b"gw", b"/r", query) != plain, (name, query)
    assert KeyRule(query=parameters(["x[y]"])).key(b"gw", b"/r", b"x[z]=1") == plain


def test_parameters_of_one_name_keep_their_order() -> None:
    rule = KeyRule(query=parameters(["page", "q"]))

    def key(query: bytes) -> bytes:
        return rule.key(b"gw", b"/r", query)

    assert key(b"page=1&page=2") != key(b"page=2&page=1")
    assert key(b"%70age=1&page=2") != key(b"page=2&%70age=1")
    assert key(b"page=1&q=3&page=2") == key(b"q=3&page=1&page=2") == key(b"page=1&x=4&page=2&q=3")
    assert key(b"page=2&q=0;page=1") != key(b"q=0;page=1&page=2")
    assert key(b"page=1;x=2") != key(b"page=1")


def test_a_key_has_its_path() -> None:
    for query in (None, b"", b"a=/x?y"):
        assert key_path(WHOLE_URI.key(b"gw", b"/a/b", query)) == b"/a/b"
    assert key_path(b"gw /a\x00salt\x00x?y") == b"/a"
