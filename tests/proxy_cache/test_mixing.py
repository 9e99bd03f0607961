"""The cache never serves a response that was meant for another client or another route."""

from __future__ import annotations

import json
import threading
from functools import partial
from hashlib import blake2b
from time import time
from urllib.parse import parse_qs

import pytest

from passerelle.caching.dates import format_date
from tests.support.client import Client
from tests.support.gateways import Rig, Running, in_flight
from tests.support.upstream import Connection, Script, Upstream, ok
from tests.support.wire import Response, wait_until

LONG = 20.0
FRESH = b"Cache-Control: max-age=60"


def get(client: Client, target: str = "/x", *lines: str, host: str = "gw") -> Response:
    client.send("\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1"))
    return client.read_response(within=LONG)


def is_hit(response: Response) -> bool:
    return (response.get("cache-status") or b"").startswith(b"passerelle; hit")


# ---- parts of compositions, on one connection that repeats its head


def telling(rig: Rig) -> Upstream:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            said = {name: (request.get(name) or b"").decode() for name in ("authorization", "x-tenant")}
            conn.send(ok(json.dumps(said).encode(), b"Content-Type: application/json", FRESH, b"Vary: X-Tenant"))

    return rig.upstream(script)


def test_variants_of_a_part_depend_on_the_headers_of_its_own_route(rig: Rig) -> None:
    upstream = telling(rig)
    part = {"me": {"service": "u", "path": "/me", "cache": {}}}
    routes = [
        {"path": "/anonymous", "compose": part, "request_headers": {"remove": ["Authorization"]}},
        {"path": "/mine", "compose": part},
    ]
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, routes)
    client = rig.connect(gateway)
    assert json.loads(get(client, "/anonymous", "Authorization: a").body)["me"]["authorization"] == ""
    assert json.loads(get(client, "/mine", "Authorization: a").body)["me"]["authorization"] == "a"
    assert json.loads(get(rig.connect(gateway), "/mine").body)["me"]["authorization"] == ""


def test_a_part_is_chosen_by_what_its_route_has_set(rig: Rig) -> None:
    upstream = telling(rig)
    route = {
        "path": "/t/{tenant}",
        "compose": {"me": {"service": "u", "path": "/me", "cache": {}}},
        "request_headers": {"set": {"X-Tenant": "{tenant}"}},
    }
    client = rig.connect(rig.gateway({"u": {"targets": [upstream.url]}}, [route]))
    asked = ["a", "b", "a", "b"]
    assert [json.loads(get(client, f"/t/{tenant}").body)["me"]["x-tenant"] for tenant in asked] == asked
    assert len(upstream.requests) == 2


# ---- one request upstream for many


def accounts(control: bytes, go: threading.Event) -> Script:
    """Respond with the page of an account, which depends on the cookie without a Vary field."""

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.wait(go)
            who = request.get("cookie") or b"anonymous"
            tag = b'"%b"' % who
            if request.get("if-none-match") == tag:
                conn.send(b"HTTP/1.1 304 Not Modified\r\nETag: %b\r\n\r\n" % tag)
            else:
                conn.send(ok(who, b"Cache-Control: " + control, b"ETag: " + tag))

    return script


def together(rig: Rig, gateway: Running, upstream: Upstream, names: list[str], go: threading.Event) -> list[Response]:
    """Return the responses to requests that all wait for the response to the first."""
    go.clear()
    before = len(upstream.requests)
    clients = [rig.connect(gateway) for _ in names]
    for number, (client, name) in enumerate(zip(clients, names, strict=True), 1):
        client.send(f"GET /x HTTP/1.1\r\nHost: gw\r\nCookie: {name}\r\n\r\n".encode())
        wait_until(partial(lambda n: in_flight(gateway) == n, number), "it waits", LONG)
        upstream.wait_requests(before + 1, LONG)
    go.set()
    return [client.read_response(within=LONG) for client in clients]


@pytest.mark.parametrize(
    "control", [b"no-cache", b"max-age=0, must-revalidate", b"max-age=0", b"max-age=0, s-maxage=0"]
)
def test_an_answer_to_be_validated_at_each_use_is_not_the_answer_to_another_request(rig: Rig, control: bytes) -> None:
    go = threading.Event()
    upstream = rig.upstream(accounts(control, go))
    gateway = rig.forward(upstream, route={"cache": {}})
    names = ["a", "b", "a"]
    assert [r.body for r in together(rig, gateway, upstream, names, go)] == [b"a", b"b", b"a"]
    assert all(b"collapsed" not in (r.get("cache-status") or b"") for r in together(rig, gateway, upstream, names, go))


def test_an_answer_that_one_request_has_validated_is_not_valid_for_another(rig: Rig) -> None:
    go = threading.Event()
    go.set()
    upstream = rig.upstream(accounts(b"no-cache", go))
    gateway = rig.forward(upstream, route={"cache": {}})
    get(rig.connect(gateway), "/x", "Cookie: a")
    first, second = together(rig, gateway, upstream, ["a", "b"], go)
    assert (first.body, first.get("cache-status")) == (b"a", b"passerelle; fwd=stale; fwd-status=304; stored")
    assert second.body == b"b"


@pytest.mark.parametrize("control", [b"max-age=60", b"max-age=0, stale-while-revalidate=60"])
def test_a_response_that_needs_no_validation_is_for_all_waiters(rig: Rig, control: bytes) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.wait(go)
            conn.send(ok(b"one", b"Cache-Control: " + control))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}})
    assert [r.body for r in together(rig, gateway, upstream, ["a", "b", "c"], go)] == [b"one"] * 3
    assert len(upstream.requests) == 1


def test_a_stale_response_in_place_of_an_error_is_for_all_waiters(rig: Rig) -> None:
    go = threading.Event()
    go.set()
    first = ok(b"one", b"Cache-Control: max-age=1, stale-if-error=60")
    failed = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.wait(go)
            conn.send(first if len(conn.upstream.requests) == 1 else failed)

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}})
    client = rig.connect(gateway)
    get(client)
    wait_until(lambda: get(client, "/x", "Cache-Control: only-if-cached").status == 504, "it is stale", LONG)
    assert [r.body for r in together(rig, gateway, upstream, ["a", "b", "c"], go)] == [b"one"] * 3
    assert len(upstream.requests) == 2


def test_a_no_cache_request_does_not_join_an_earlier_request(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            number = len(conn.upstream.requests)
            if number == 2:
                conn.wait(go)
            conn.send(ok(b"%d" % number, b"Cache-Control: max-age=%d" % (1 if number == 1 else 60)))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}})
    first, second = rig.connect(gateway), rig.connect(gateway)
    get(second)
    wait_until(lambda: get(second, "/x", "Cache-Control: only-if-cached").status == 504, "it is stale", LONG)
    first.send(b"GET /x HTTP/1.1\r\nHost: gw\r\n\r\n")
    upstream.wait_requests(2, LONG)
    assert get(second, "/x", "Cache-Control: no-cache").body == b"3"
    go.set()
    assert first.read_response(within=LONG).body == b"2"


def test_a_whole_of_which_a_part_is_to_be_validated_is_one_request_s_alone(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.wait(go)
            fields = (b"Content-Type: application/json", b"Cache-Control: max-age=0")
            conn.send(ok(b'"%b"' % (request.get("cookie") or b""), *fields))

    upstream = rig.upstream(script)
    route = {"path": "/x", "cache": {}, "compose": {"me": {"service": "u", "path": "/me"}}}
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [route])
    answers = together(rig, gateway, upstream, ["a", "b"], go)
    assert [json.loads(r.body) for r in answers] == [{"me": "a"}, {"me": "b"}]


# ---- keys


def test_no_host_can_stand_for_what_a_trusted_proxy_says(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.send(ok(request.get("x-forwarded-proto") or b"", FRESH))

    gateway = rig.forward(rig.upstream(script), route={"cache": {}}, trusted_proxies=["127.0.0.0/8"])
    client = rig.connect(gateway)
    place = blake2b(b"shop.example\0shop.example\0https", digest_size=16).hexdigest()
    assert get(client, "/x", "X-Forwarded-Proto: http", host=place).body == b"http"
    secure = "X-Forwarded-Proto: https"
    first, second = (get(rig.connect(gateway), "/x", secure, host="shop.example") for _ in range(2))
    assert (first.body, is_hit(first)) == (b"https", False)
    assert (second.body, is_hit(second)) == (b"https", True)
    refused = get(client, "/x", host="/" + place)
    assert refused.status == 400


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("/list?%70age=6", "/list"),
        ("/list?page=2&%70age=6", "/list?page=2"),
        ("/list?page=1&page=2", "/list?page=2&page=1"),
        ("/list?page=2&page=1", "/list?page=1&page=2"),
    ],
)
def test_a_parameter_under_another_spelling_is_not_left_out_of_the_key(rig: Rig, first: str, then: str) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            pages = parse_qs(request.target.partition(b"?")[2].decode()).get("page", ["1"])
            conn.send(ok(pages[-1].encode(), FRESH))

    client = rig.connect(rig.forward(rig.upstream(script), route={"cache": {"query": ["page"]}}))
    one, two = get(client, first), get(client, then)
    assert one.body != two.body and not is_hit(two)
    assert is_hit(get(client, first)) and is_hit(get(client, then))


def counting(rig: Rig, name: bytes) -> Upstream:
    """A service that responds with its name and the number of its requests."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(b"%b %d" % (name, len(conn.upstream.requests)), FRESH))

    return rig.upstream(script)


def test_an_answer_for_all_hosts_of_a_route_is_not_another_route_s(rig: Rig) -> None:
    a, b, c = (counting(rig, name) for name in (b"a", b"b", b"c"))
    shared = {"path": "/x", "cache": {"per_host": False}}
    routes = [
        {**shared, "host": "a.example", "service": "a"},
        {**shared, "host": "*.b.example", "service": "b"},
        {"path": "/x", "service": "c", "cache": {}},
    ]
    services = {name: {"targets": [u.url]} for name, u in (("a", a), ("b", b), ("c", c))}
    client = rig.connect(rig.gateway(services, routes))
    asked = ["*", "a.example", "1.b.example", "2.b.example", "A.example:80", "*", "a.example"]
    answers = [b"c 1", b"a 1", b"b 1", b"b 1", b"a 1", b"c 1", b"a 1"]
    assert [get(client, host=host).body for host in asked] == answers
    get(client, host="*.b.example")
    assert len(b.requests) == 1


@pytest.mark.parametrize("host", [None, "*.example"])
def test_an_entry_that_all_hosts_share_is_evicted_by_any_of_them(rig: Rig, host: str | None) -> None:
    upstream = counting(rig, b"u")
    route = {"cache": {"per_host": False}, **({"host": host} if host is not None else {})}
    gateway = rig.forward(upstream, route=route)
    client = rig.connect(gateway)
    for number, change in enumerate(["PUT", "/x", "/*"], 1):
        assert get(client, host="a.example").body == get(client, host="b.example").body
        if change == "PUT":
            client.send(b"PUT /x HTTP/1.1\r\nHost: b.example\r\nContent-Length: 0\r\n\r\n")
            assert client.read_response(within=LONG).status == 200
        else:
            assert rig.loop.call(partial(gateway.gateway.purge, "path", change)) == 1, number
        assert not is_hit(get(client, host="a.example"))


def test_a_host_cannot_be_a_part_of_a_composition(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            body = json.dumps((request.get("host") or b"").decode()).encode()
            conn.send(ok(body, b"Content-Type: application/json", FRESH))

    part = {"service": "u", "path": "/part"}
    routes = [
        {"path": "/a", "compose": {"b": {**part, "cache": {}}}},
        {"path": "/a:b", "compose": {"c": {**part, "cache": {"per_host": False}}}},
    ]
    client = rig.connect(rig.gateway({"u": {"targets": [rig.upstream(script).url]}}, routes))
    assert json.loads(get(client, "/a", host="c").body) == {"b": "c"}
    assert json.loads(get(client, "/a:b").body) == {"c": "gw"}


# ---- responses about a single request


def odd(*fields: bytes) -> Script:
    """A service that responds with the status in X-Odd and ``fields``, and without X-Odd with 200."""

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            status = request.get("x-odd")
            if status is None:
                conn.send(ok(b"fine", FRESH))
            else:
                conn.send(b"\r\n".join([b"HTTP/1.1 %b Odd" % status, b"Content-Length: 0", *fields, b"", b""]))

    return script


@pytest.mark.parametrize("status", [400, 401, 417, 429, 431])
def test_an_error_for_a_malformed_request_keeps_the_stored_response(rig: Rig, status: int) -> None:
    client = rig.connect(rig.forward(rig.upstream(odd()), route={"cache": {}}))
    get(client)
    assert get(client, "/x", "Cache-Control: no-cache", f"X-Odd: {status}").status == status
    assert is_hit(get(client))


def test_too_many_requests_do_not_end_the_window_of_a_stale_answer(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            if len(conn.upstream.requests) == 1:
                conn.send(ok(b"fine", b"Cache-Control: max-age=0, stale-while-revalidate=600"))
            else:
                conn.send(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n")

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}})
    client = rig.connect(gateway)
    get(client)
    for count in (2, 3, 4):
        answer = get(client)
        assert (answer.body, answer.get("cache-status")) == (b"fine", b"passerelle; hit; detail=stale")
        upstream.wait_requests(count, LONG)
        wait_until(lambda: gateway.snapshot()["services"]["u"]["in_flight"] == 0, "the refresh has ended", LONG)


@pytest.mark.parametrize("status", [406, 415, 422, 426, 428, 431])
def test_an_answer_to_an_odd_request_is_not_stored_for_others(rig: Rig, status: int) -> None:
    client = rig.connect(rig.forward(rig.upstream(odd(b"Cache-Control: public, max-age=60")), route={"cache": {}}))
    assert get(client, "/x", f"X-Odd: {status}").status == status
    assert get(client).body == b"fine" and is_hit(get(client))


def test_a_400_does_not_replace_the_stored_response(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(odd(b"Cache-Control: public, max-age=60")), route={"cache": {}}))
    get(client)
    assert get(client, "/x", "Cache-Control: no-cache", "X-Odd: 400").status == 400
    assert is_hit(get(client))


def test_an_old_body_does_not_get_the_tag_of_a_new_one_from_a_head(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if len(conn.upstream.requests) == 1:
                conn.send(ok(b"old", b"Cache-Control: max-age=0, stale-if-error=60"))
            elif request.get("if-none-match") == b'"new"':
                conn.send(b'HTTP/1.1 304 Not Modified\r\nETag: "new"\r\nCache-Control: max-age=60\r\n\r\n')
            else:
                answer = ok(b"new", FRESH, b'ETag: "new"')
                conn.send(answer if request.method == b"GET" else answer[:-3])

    client = rig.connect(rig.forward(rig.upstream(script), route={"cache": {}}))
    assert get(client).body == b"old"
    assert client.request("HEAD", "/x", within=LONG).get("etag") == b'"new"'
    for _ in range(2):
        answer = get(client)
        assert (answer.body, answer.get("etag")) == (b"new", b'"new"')
    assert is_hit(answer)


@pytest.mark.parametrize("dated", [True, False])
def test_an_older_answer_that_comes_late_does_not_take_the_place_of_a_newer_one(rig: Rig, dated: bool) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            number = len(conn.upstream.requests)
            date = b"Date: %b\r\n" % format_date(time() - 100 + number) if dated else b""
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n%b\r\n" % date)
            if number == 1:
                conn.wait(go)
            conn.send(b"%d" % number)

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {"ttl": "60s"}})
    first, second = rig.connect(gateway), rig.connect(gateway)
    began = time()
    first.send(b"GET /x HTTP/1.1\r\nHost: gw\r\n\r\n")
    upstream.wait_requests(1, LONG)
    wait_until(lambda: time() > began + 0.05, "the moments differ", LONG)
    assert get(second, "/x", "Cache-Control: no-cache").body == b"2"
    go.set()
    late = first.read_response(within=LONG)
    assert (late.body, late.get("cache-status")) == (b"1", b"passerelle; fwd=uri-miss; fwd-status=200; stored")
    latest = get(second)
    assert (latest.body, is_hit(latest)) == (b"2", True)
