"""The cache in a running gateway: hits, misses, and invalidation."""

from __future__ import annotations

import json
import threading
import time
from functools import partial

import pytest

from passerelle.config import load_text
from tests.support.gateways import Rig, settle
from tests.support.upstream import Connection, Script, answering, ok, once
from tests.support.wire import Closed, Message, Response, wait_until

FRESH = b"Cache-Control: max-age=60"


def said(message: Message, name: str) -> str | None:
    """Return the value of a field as text."""
    value = message.get(name)
    return None if value is None else value.decode("latin-1")


def status(response: Response) -> str:
    """Return the Cache-Status of a response."""
    return said(response, "cache-status") or ""


def numbered(*fields: bytes) -> Script:
    """Respond with the number of the request on its connection, by which a stored response is recognized."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(b"%d" % len(conn.upstream.requests), *fields))

    return script


@pytest.mark.parametrize("route", [{}, {"query": ["page"]}, {"per_host": False}])
def test_a_fresh_answer_comes_from_the_store(rig: Rig, route: dict[str, object]) -> None:
    upstream = rig.upstream(numbered(FRESH, b'ETag: "a"'))
    client = rig.connect(rig.forward(upstream, route={"cache": route}))
    first = client.request("GET", "/x")
    second = client.request("GET", "/x")
    assert status(first) == "passerelle; fwd=uri-miss; fwd-status=200; stored"
    assert (second.body, status(second), said(second, "age")) == (b"1", "passerelle; hit", "0")
    assert said(client.request("HEAD", "/x"), "content-length") == "1"
    assert client.request("GET", "/x", ("If-None-Match", '"a"')).status == 304
    assert client.request("GET", "/x", ("Range", "bytes=0-0")).status == 206
    assert client.request("GET", "/./x").body == b"1"
    assert client.request("GET", "/x?page=2").body == b"2"
    assert len(upstream.requests) == 2


def test_a_hit_is_the_same_for_a_client_that_closes_or_speaks_1_0(rig: Rig) -> None:
    upstream = rig.upstream(numbered(FRESH))
    gateway = rig.forward(upstream, route={"cache": {}})
    rig.connect(gateway).request("GET", "/x")
    closing = rig.connect(gateway).request("GET", "/x", ("Connection", "close"))
    assert (closing.body, said(closing, "connection"), status(closing)) == (b"1", "close", "passerelle; hit")
    old = rig.connect(gateway)
    old.send(b"GET /x HTTP/1.0\r\nHost: gw\r\n\r\n")
    assert old.read_response().body == b"1"


def test_only_if_cached_is_504_without_going_upstream(rig: Rig) -> None:
    upstream = rig.upstream(numbered(FRESH))
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    answer = client.request("GET", "/x", ("Cache-Control", "only-if-cached"))
    assert (answer.status, status(answer)) == (504, "passerelle; detail=only-if-cached")
    assert upstream.requests == []


def test_client_directives_can_be_passed_over(rig: Rig) -> None:
    upstream = rig.upstream(numbered(FRESH))
    client = rig.connect(rig.forward(upstream, route={"cache": {"ignore_client_directives": True}}))
    reload = ("Cache-Control", "no-cache")
    assert [client.request("GET", "/x", reload).body for _ in range(3)] == [b"1"] * 3


def test_a_stale_answer_is_validated_and_written_back(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(ok(b"old", b"Cache-Control: max-age=0", b'ETag: "v"'))
        request = conn.read_request()
        assert said(request, "if-none-match") == '"v"'
        conn.send(b'HTTP/1.1 304 Not Modified\r\nETag: "v"\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\r\n')

    upstream = rig.upstream(script)
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    client.request("GET", "/x")
    answers = [client.request("GET", "/x") for _ in range(2)]
    assert [(a.body, said(a, "x-new")) for a in answers] == [(b"old", "1")] * 2
    assert status(answers[0]).startswith("passerelle; fwd=stale; fwd-status=304")
    assert status(answers[1]) == "passerelle; hit"


def test_stale_while_revalidate_answers_at_once_and_refreshes_behind_it(rig: Rig) -> None:
    upstream = rig.upstream(numbered(b"Cache-Control: max-age=0, stale-while-revalidate=60"))
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    client.request("GET", "/x")
    stale = client.request("GET", "/x")
    assert (stale.body, status(stale)) == (b"1", "passerelle; hit; detail=stale")
    upstream.wait_requests(2)
    wait_until(lambda: client.request("GET", "/x").body != b"1", "the refreshed answer")


def test_revalidations_in_the_background_are_bounded(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if len(conn.upstream.requests) > 2:
                conn.wait(go)
            conn.send(ok(request.target, b"Cache-Control: max-age=0, stale-while-revalidate=60"))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}}, cache={"refreshes": 1})
    client = rig.connect(gateway)
    for path in ("/a", "/b"):
        client.request("GET", path)
    for path in ("/a", "/b", "/a", "/b"):
        stale = client.request("GET", path)
        assert (stale.body, status(stale)) == (path.encode(), "passerelle; hit; detail=stale")
    upstream.wait_requests(3)
    assert gateway.snapshot()["services"]["u"]["in_flight"] == 1
    go.set()
    wait_until(lambda: client.request("GET", "/b") and upstream.requests[-1].target == b"/b", "the turn of the other")


def test_stale_answers_stand_in_for_an_upstream_that_is_gone(rig: Rig) -> None:
    upstream = rig.upstream(once(ok(b"old", b"Cache-Control: max-age=0", b'ETag: "v"'), "close"))
    client = rig.connect(rig.forward(upstream, route={"cache": {}, "attempts": 1}))
    client.request("GET", "/x")
    upstream.refuse()
    stale = client.request("GET", "/x")
    assert (stale.status, stale.body, status(stale)) == (200, b"old", "passerelle; hit; detail=stale")


@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nhalf"])
def test_b06_a_cut_answer_is_never_stored(rig: Rig, raw: bytes) -> None:
    upstream = rig.upstream([once(raw, "close"), answering(ok(b"whole", FRESH))])
    gateway = rig.forward(upstream, route={"cache": {}, "attempts": 1})
    with pytest.raises(Closed):
        rig.connect(gateway).request("GET", "/x")
    assert rig.connect(gateway).request("GET", "/x").body == b"whole"


@pytest.mark.parametrize(
    ("field", "shared"),
    [(b"Cache-Control: max-age=60", False), (b"Cache-Control: max-age=60, public", True)],
)
def test_b19_a_response_that_depends_on_a_credential_reaches_no_other_client(
    rig: Rig, field: bytes, shared: bool
) -> None:
    upstream = rig.upstream(numbered(field))
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    assert client.request("GET", "/me", ("Authorization", "Bearer a")).body == b"1"
    other = client.request("GET", "/me", ("Authorization", "Bearer b"))
    assert other.body == (b"1" if shared else b"2")
    assert client.request("GET", "/me").body == (b"1" if shared else b"3")


def test_b19_set_cookie_is_not_stored(rig: Rig) -> None:
    upstream = rig.upstream(numbered(FRESH, b"Set-Cookie: session=1"))
    client = rig.connect(rig.forward(upstream, route={"cache": {"ttl": "1m"}}))
    assert [client.request("GET", "/x").body for _ in range(2)] == [b"1", b"2"]


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "UNHEARD"])
@pytest.mark.parametrize("code", [200, 404])
def test_b22_an_update_evicts_its_uri(rig: Rig, method: str, code: int) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.start.startswith(b"GET"):
                conn.send(ok(b"%d" % len(conn.upstream.requests), FRESH, b"Vary: Accept"))
            else:
                conn.send(b"HTTP/1.1 %d Done\r\nContent-Length: 0\r\nLocation: /y\r\n\r\n" % code)

    upstream = rig.upstream(script)
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    first = [client.request("GET", path).body for path in ("/x", "/y", "/z")]
    client.request(method, "/x", body=b"new")
    after = [client.request("GET", path).body for path in ("/x", "/y", "/z")]
    assert [a == b for a, b in zip(first, after, strict=True)] == ([False, False, True] if code == 200 else [True] * 3)


def test_b22_an_update_purges_its_tags_on_every_route_and_in_every_part(rig: Rig) -> None:
    name = [b'"old"']

    def users(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.start.startswith(b"PUT"):
                name[0] = request.body
            conn.send(ok(name[0], b"Content-Type: application/json"))

    user = rig.upstream(users)
    product = rig.upstream(answering(ok(b'"p"', b"Content-Type: application/json")))
    cache = {"ttl": "1m", "tags": ["user:{id}"]}
    gateway = rig.gateway(
        {"user": {"targets": [user.url]}, "product": {"targets": [product.url]}},
        [
            {"path": "/user/{id}", "service": "user", "cache": cache, "methods": ["GET"]},
            {"path": "/user/{id}", "service": "user", "methods": ["PUT"]},
            {
                "path": "/api/{id}/{other}",
                "compose": {
                    "user": {"service": "user", "path": "/user/{id}", "cache": cache},
                    "product": {"service": "product", "path": "/product/{other}", "cache": {"ttl": "1m"}},
                },
            },
        ],
    )
    client = rig.connect(gateway)
    for _ in range(3):
        assert client.request("GET", "/user/42").body == b'"old"'
        assert client.request("GET", "/api/42/1").body == b'{"user":"old","product":"p"}'
    assert (len(user.requests), len(product.requests)) == (2, 1)
    assert client.request("PUT", "/user/42", body=b'"new"').status == 200
    assert client.request("GET", "/user/42").body == b'"new"'
    assert client.request("GET", "/api/42/1").body == b'{"user":"new","product":"p"}'
    assert len(product.requests) == 1


def test_b22_a_response_in_flight_when_its_uri_changes_is_neither_stored_nor_joined(rig: Rig) -> None:
    go = threading.Event()

    def slow(conn: Connection) -> None:
        conn.read_request()
        conn.wait(go)
        conn.send(ok(b"before", FRESH))

    upstream = rig.upstream([slow, numbered(FRESH)])
    gateway = rig.forward(upstream, route={"cache": {}})
    early, writer, late = (rig.connect(gateway) for _ in range(3))
    early.send(b"GET /x HTTP/1.1\r\nHost: gw\r\n\r\n")
    upstream.wait_requests(1)
    writer.request("PUT", "/x", body=b"new")
    after = late.request("GET", "/x").body
    assert after != b"before"
    go.set()
    assert early.read_response().body == b"before"
    assert late.request("GET", "/x").body == after


def test_tags_of_responses_stay_in_the_cache_and_a_purge_evicts_by_them(rig: Rig) -> None:
    upstream = rig.upstream(numbered(FRESH, b"Cache-Tag: a, b"))
    gateway = rig.forward(upstream, route={"cache": {}})
    client = rig.connect(gateway)
    answers = [client.request("GET", "/x") for _ in range(2)]
    assert [said(a, "cache-tag") for a in answers] == [None, None]
    purge = gateway.gateway.purge
    for what, value in (("tag", "b"), ("path", "/x"), ("path", "/*"), ("all", "")):
        before = client.request("GET", "/x").body
        assert rig.loop.call(partial(purge, what, value)) == 1
        assert client.request("GET", "/x").body != before


@pytest.mark.parametrize(
    ("asked", "purged"),
    [
        ("/a~b", "/a%7eb"),
        ("/a%7Eb", "/a~b"),
        ("/caf%c3%a9", "/café"),
        ("/caf%C3%A9/x", "/caf%c3%a9/*"),
        ("/b", "/a/../b"),
        ("/a%20b", "/a b"),
    ],
)
def test_a_path_is_purged_in_any_spelling(rig: Rig, asked: str, purged: str) -> None:
    gateway = rig.forward(rig.upstream(numbered(FRESH)), route={"cache": {}})
    client = rig.connect(gateway)
    before = [client.request("GET", path).body for path in (asked, "/other")]
    assert rig.loop.call(partial(gateway.gateway.purge, "path", purged)) == 1
    after = [client.request("GET", path).body for path in (asked, "/other")]
    assert after[0] != before[0] and after[1] == before[1]


def test_counts_of_a_cached_route(rig: Rig) -> None:
    upstream = rig.upstream(numbered(FRESH))
    gateway = rig.forward(upstream, route={"cache": {}})
    client = rig.connect(gateway)
    for _ in range(3):
        client.request("GET", "/x")
    client.request("POST", "/y", body=b"")
    client.request("GET", "/z", ("Cache-Control", "only-if-cached"))
    settle(gateway)
    counts = gateway.snapshot()["routes"]["/{rest*}"]["cache"]
    assert {key: n for key, n in counts.items() if n} == {"hit": 2, "miss": 1, "bypass": 1, "refused": 1}
    assert gateway.snapshot()["cache"]["entries"] == 1


def test_guards_run_before_every_hit(rig: Rig) -> None:
    upstream = rig.upstream(numbered(b"Cache-Control: max-age=60, public"))
    route = {"cache": {}, "rate_limit": {"rate": "1/h", "burst": 2}}
    client = rig.connect(rig.forward(upstream, route=route))
    assert [client.request("GET", "/x").status for _ in range(3)] == [200, 200, 429]
    assert len(upstream.requests) == 1


def test_after_a_reload_the_new_guards_run(rig: Rig) -> None:
    upstream = rig.upstream(numbered(FRESH))
    gateway = rig.forward(upstream, route={"cache": {}})
    client = rig.connect(gateway)
    for _ in range(2):
        assert client.request("GET", "/x").body == b"1"
    closed = {
        "access_log": "off",
        "services": {"u": {"targets": [upstream.url]}},
        "routes": [{"path": "/{rest*}", "service": "u", "cache": {}, "clients": {"deny": ["127.0.0.0/8"]}}],
    }
    rig.loop.call(lambda: gateway.gateway.reload(load_text(json.dumps(closed))))
    assert client.request("GET", "/x").status == 403
    closed["routes"] = [{"path": "/{rest*}", "service": "u", "cache": {}}]
    rig.loop.call(lambda: gateway.gateway.reload(load_text(json.dumps(closed))))
    assert [client.request("GET", "/x").body for _ in range(2)] == [b"1", b"1"]


@pytest.mark.parametrize("path", ["/x", "/./x"])
def test_a_clock_that_is_set_back_does_not_keep_answers_fresh(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Both for fast hits and for lookups after routing."""
    gateway = rig.forward(rig.upstream(numbered()), route={"cache": {"ttl": "60s"}})
    client = rig.connect(gateway)
    assert [client.request("GET", path).body for _ in range(2)] == [b"1", b"1"]
    real = time.time
    for hours, answer in ((0.0, b"1"), (-1.0, b"2"), (-1.0, b"2")):
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + hours * 3600.0)
        offset = gateway.gateway.clock.offset
        wait_until(lambda offset=offset: gateway.gateway.clock.offset != offset, "it looks at the clock", 20.0)
        assert client.request("GET", path).body == answer
    warned = [record.getMessage() for record in rig.log.records if "clock" in record.getMessage()]
    assert warned == ["the clock was set back by 3600 s: the cache is emptied"]


def test_a_clock_that_is_corrected_a_little_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = rig.forward(rig.upstream(numbered()), route={"cache": {"ttl": "60s"}})
    client = rig.connect(gateway)
    assert client.request("GET", "/x").body == b"1"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1.0)
    offset = gateway.gateway.clock.offset
    wait_until(lambda: gateway.gateway.clock.offset < offset - 0.9, "it looks at the clock", 20.0)
    assert client.request("GET", "/x").body == b"1"
    assert rig.log.records == []


@pytest.mark.parametrize(
    ("lines", "shown", "later"),
    [
        ([b"30"], [b"30"], 30),
        ([b"0030, 5"], [b"30"], 30),
        ([b"30", b"40"], [b"30"], 30),
        ([b"30", b"x"], [b"30"], 30),
        ([b"99999999999999999999"], [b"2147483648"], None),
        ([b"2147483649"], [b"2147483648"], None),
        ([b"-1"], [], 0),
        ([b"1.5"], [], 0),
        ([b"x, 30"], [], 0),
        ([b'"30"'], [], 0),
        ([b""], [], 0),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_malformed_age_is_neither_relayed_nor_counted(
    rig: Rig, lines: list[bytes], shown: list[bytes], later: int | None, method: str
) -> None:
    """RFC 9111 §5.1: the first member counts, and a field that is no number is ignored."""
    fields = [b"age: " + value for value in lines]
    upstream = rig.upstream(answering(ok(b"x", b"Cache-Control: max-age=1000", *fields)))
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    assert client.request(method, "/x", body=b"" if method == "POST" else None).all("age") == shown
    if method == "GET" and later is not None:
        assert int(client.request("GET", "/x").get("age") or b"") - later in (0, 1)
        assert len(upstream.requests) == 1
