"""Compositions stored as a whole: when, for how long, for which clients, and what invalidates them."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.gateways import Rig, Running, in_flight
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Message, Request, Response, wait_until

JSON = b"Content-Type: application/json"
HIT = "passerelle; hit"


def said(message: Message, name: str) -> str | None:
    """Return the value of a field as text."""
    value = message.get(name)
    return None if value is None else value.decode("latin-1")


class Service:
    """A service that returns what was last PUT (at first ``first``), with ``fields``, and counts the GETs."""

    def __init__(self, rig: Rig, first: bytes, *fields: bytes) -> None:
        self.value = first
        self.fields = fields
        self.gets: list[Request] = []
        self.raw: bytes | None = None
        self.held: threading.Event | None = None
        self.upstream: Upstream = rig.upstream(self._serve)

    def _serve(self, conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.method == b"GET":
                answer = self.raw or ok(self.value, JSON, *self.fields)
                self.gets.append(request)
                if self.held is not None:
                    conn.wait(self.held)
                conn.send(answer)
            else:
                self.value = request.body
                conn.send(ok(b"", b"Location: /user/1"))


class Shop:
    """A gateway with a user service, a product service, and a composition of both, by default stored as a whole."""

    def __init__(
        self,
        rig: Rig,
        user: tuple[bytes, ...] = (),
        product: tuple[bytes, ...] = (),
        cache: dict[str, Any] | None = None,
        parts: dict[str, dict[str, Any]] | None = None,
        route: dict[str, Any] | None = None,
        user_route: dict[str, Any] | None = None,
        stored: bool = True,
    ) -> None:
        self.user = Service(rig, b'"old"', *user)
        self.product = Service(rig, b'"p"', *product)
        parts = parts or {}
        self.services = {
            "user": {"targets": [self.user.upstream.url]},
            "product": {"targets": [self.product.upstream.url]},
        }
        compose = {
            "user": {"service": "user", "path": "/user/{id}", **parts.get("user", {})},
            "product": {"service": "product", "path": "/product/{other}", **parts.get("product", {})},
        }
        self.routes: list[dict[str, Any]] = [
            {"path": "/user/{id}", "service": "user", **(user_route or {})},
            {"path": "/users", "service": "user"},
            {"path": "/product/{id}", "service": "product"},
            {"path": "/api/{id}/{other}", "compose": compose, "cache": {} if cache is None else cache, **(route or {})},
        ]
        if not stored:
            del self.routes[-1]["cache"]
        self.gateway: Running = rig.gateway(self.services, self.routes)
        self.client: Client = rig.connect(self.gateway)

    def get(self, *fields: tuple[str, str], path: str = "/api/42/1", method: str = "GET") -> Response:
        return self.client.request(method, path, *fields)

    @property
    def asked(self) -> tuple[int, int]:
        """The number of requests to each service."""
        return len(self.user.gets), len(self.product.gets)

    @property
    def asked_now(self) -> int:
        """The number of requests in flight to both services."""
        return sum(service["in_flight"] for service in self.gateway.snapshot()["services"].values())


def age(seconds: int, *more: str) -> bytes:
    """Return a Cache-Control line with this lifetime."""
    return b"Cache-Control: " + ", ".join([f"max-age={seconds}", *more]).encode()


OLD = b'{"user":"old","product":"p"}'
NEW = b'{"user":"new","product":"p"}'


def test_the_whole_is_stored_with_one_tag_and_the_least_lifetime(rig: Rig) -> None:
    shop = Shop(rig, (age(60), b'ETag: "u"'), (age(30), b'ETag: W/"p"'))
    first = shop.get()
    assert (first.body, said(first, "cache-control")) == (OLD, "max-age=30")
    assert said(first, "cache-status") == "passerelle; fwd=uri-miss; fwd-status=200; stored"
    second = shop.get()
    assert (second.body, said(second, "cache-status"), said(second, "age")) == (OLD, HIT, "0")
    tag = said(second, "etag")
    assert tag == said(first, "etag") and tag is not None and tag.startswith('"')
    assert said(second, "passerelle-cache-control") is None
    assert shop.get(("If-None-Match", tag)).status == 304
    assert shop.get(("Range", "bytes=0-3")).body == OLD[:4]
    assert said(shop.get(method="HEAD"), "content-length") == str(len(OLD))
    assert shop.get(path="/api/42/2").body == OLD
    assert shop.asked == (2, 2)
    wait_until(lambda: shop.gateway.snapshot()["cache"]["entries"] == 2, "two wholes")


def test_the_tag_is_another_one_when_a_part_is(rig: Rig) -> None:
    shop = Shop(rig, (age(60),), (age(60),))
    before = said(shop.get(), "etag")
    shop.client.request("PUT", "/user/42", body=b'"new"')
    assert said(shop.get(), "etag") != before


@pytest.mark.parametrize(
    ("user", "product"),
    [
        ((age(60, "private"),), (age(60),)),
        ((b"Cache-Control: no-store",), (age(60),)),
        ((age(60),), (b'Cache-Control: max-age=60, private="X-A"',)),
        ((age(60), b"Set-Cookie: a=1"), (age(60),)),
        ((age(60),), (age(60), b"Vary: *")),
    ],
)
def test_the_least_cacheable_part_decides(rig: Rig, user: tuple[bytes, ...], product: tuple[bytes, ...]) -> None:
    shop = Shop(rig, user, product, {"ttl": "1m"})
    for count in (1, 2):
        answer = shop.get()
        assert answer.body == OLD and shop.asked == (count, count)
        assert "max-age" not in (said(answer, "cache-control") or "") or answer.get("set-cookie") or answer.get("vary")
    assert shop.gateway.snapshot()["cache"]["entries"] == 0


@pytest.mark.parametrize(
    ("user", "product", "cache", "fresh"),
    [
        ((age(60),), (), {}, False),
        ((age(60),), (age(0),), {}, False),
        ((age(60),), (age(0),), {"ttl": "1m"}, False),
        ((age(60),), (b"Cache-Control: no-cache",), {"ttl": "1m"}, False),
        ((age(60), b"Age: 59"), (age(60), b"Age: 60"), {}, False),
        ((age(60),), (), {"ttl": "1m"}, True),
        ((), (), {"ttl": "1m"}, True),
        ((b"Cache-Control: max-age=0, s-maxage=60",), (age(60),), {}, True),
    ],
)
def test_a_lifetime_is_that_of_the_shortest_part(
    rig: Rig, user: tuple[bytes, ...], product: tuple[bytes, ...], cache: dict[str, Any], fresh: bool
) -> None:
    shop = Shop(rig, user, product, cache)
    answers = [shop.get() for _ in range(2)]
    assert [answer.body for answer in answers] == [OLD, OLD]
    assert shop.asked == ((1, 1) if fresh else (2, 2))
    assert (said(answers[1], "cache-status") == HIT) == fresh


def test_max_age_of_the_parts_is_sent_and_s_maxage_is_not(rig: Rig) -> None:
    shop = Shop(rig, (b"Cache-Control: max-age=5, s-maxage=60",), (age(20, "must-revalidate"),), {"ttl": "1m"})
    assert said(shop.get(), "cache-control") == "max-age=5, must-revalidate"
    silent = Shop(rig, (age(60),), (), {"ttl": "1m"})
    assert said(silent.get(), "cache-control") is None


@pytest.mark.parametrize("route", [{}, {"compress": {"min_size": "1B"}}])
def test_a_partial_answer_is_never_stored(rig: Rig, route: dict[str, Any]) -> None:
    shop = Shop(rig, (age(60),), (age(60),), {"ttl": "1m"}, {"product": {"on_error": None}}, route)
    shop.product.raw = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nCache-Control: max-age=60\r\n\r\n"
    for _ in range(2):
        answer = shop.get()
        assert (answer.body, said(answer, "cache-control")) == (b'{"user":"old","product":null}', "no-store")
        assert said(answer, "passerelle-partial") == "product" and answer.get("etag") is None
    shop.product.raw = None
    assert [shop.get().body for _ in range(2)] == [OLD, OLD]
    assert shop.asked == (3, 3)


def test_a_failure_and_a_passed_status_are_not_stored(rig: Rig) -> None:
    shop = Shop(rig, (age(60),), (age(60),), {"ttl": "1m"}, {"product": {"pass_status": [404]}})
    shop.product.raw = b"HTTP/1.1 404 No\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nno"
    assert [(a.status, a.body) for a in (shop.get(), shop.get())] == [(404, b"no")] * 2
    shop.product.raw = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    assert [shop.get().status for _ in range(2)] == [502, 502]
    shop.product.raw = None
    assert shop.get().body == OLD and said(shop.get(), "cache-status") == HIT


@pytest.mark.parametrize("parts", [{}, {"user": {"cache": {"ttl": "1m"}}, "product": {"cache": {"ttl": "1m"}}}])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_an_update_of_a_part_shows_in_the_next_whole(rig: Rig, parts: dict[str, Any], method: str) -> None:
    shop = Shop(rig, (age(60),), (age(60),), {"ttl": "1m"}, parts)
    for _ in range(3):
        assert shop.get().body == OLD
        assert shop.get(path="/api/43/1").body == OLD
    assert shop.client.request(method, "/user/42", body=b'"new"').status == 200
    for _ in range(3):
        assert shop.get().body == NEW
    assert shop.get(path="/api/43/1").body == OLD


def test_a_failed_update_evicts_nothing(rig: Rig) -> None:
    def refusing(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n")

    shop = Shop(rig, (age(60),), (age(60),))
    other = rig.upstream(refusing)
    shop.get()
    shop.gateway.reload(
        {**shop.services, "writer": {"targets": [other.url]}},
        [*shop.routes[1:], {"path": "/user/{id}", "service": "writer", "methods": ["PUT"]}],
    )
    assert shop.client.request("PUT", "/user/42", body=b"{}").status == 409
    assert said(shop.get(), "cache-status") == HIT


def test_an_update_by_another_path_of_the_service_is_seen(rig: Rig) -> None:
    shop = Shop(
        rig, (age(60),), (age(60),), user_route={"path": "/v2/people/{id}", "rewrite": "/user/{id}", "methods": ["PUT"]}
    )
    shop.get()
    shop.client.request("PUT", "/v2/people/42?now=1", body=b'"new"')
    assert shop.get().body == NEW


def test_the_uri_in_location_is_evicted_as_well(rig: Rig) -> None:
    shop = Shop(rig, (age(60),), (age(60),))
    assert shop.get(path="/api/1/1").body == OLD
    shop.client.request("POST", "/users", body=b'"new"')
    assert shop.get(path="/api/1/1").body == NEW


@pytest.mark.parametrize("what", [("path", "/user/42"), ("path", "/user/*"), ("path", "/api/42/1"), ("all", "")])
def test_purging_reaches_the_whole(rig: Rig, what: tuple[str, str]) -> None:
    shop = Shop(rig, (age(60),), (age(60),))
    shop.get()
    shop.user.value = b'"new"'
    assert shop.get().body == OLD
    assert rig.loop.call(partial(shop.gateway.gateway.purge, *what)) == 1
    assert shop.get().body == NEW


@pytest.mark.parametrize("tag", ["whole:42", "u:42", "of-user", "also,product"])
def test_it_has_the_tags_of_the_route_the_parts_and_their_answers(rig: Rig, tag: str) -> None:
    parts = {"user": {"cache": {"tags": ["u:{id}"]}}}
    keys = b"Surrogate-Key: also,product"
    shop = Shop(rig, (age(60), b"Cache-Tag: of-user"), (age(60), keys), {"tags": ["whole:{id}"]}, parts)
    answers = [shop.get() for _ in range(2)]
    assert [(a.get("cache-tag"), a.get("surrogate-key")) for a in answers] == [(None, None)] * 2
    shop.user.value = b'"new"'
    assert rig.loop.call(partial(shop.gateway.gateway.purge, "tag", tag)) >= 1
    assert shop.get().body == (NEW if tag in ("u:42", "of-user") else OLD)
    assert said(shop.get(), "cache-status") == HIT


def test_a_whole_in_flight_when_a_part_changes_is_neither_stored_nor_joined(rig: Rig) -> None:
    shop = Shop(rig, (age(60),), (age(60),))
    shop.product.held = threading.Event()
    early, late = rig.connect(shop.gateway), rig.connect(shop.gateway)
    early.send(b"GET /api/42/1 HTTP/1.1\r\nHost: gw\r\n\r\n")
    wait_until(lambda: shop.asked == (1, 1), "the first request")
    settled = shop.product.held
    shop.product.held = None
    assert shop.client.request("PUT", "/user/42", body=b'"new"').status == 200
    assert late.request("GET", "/api/42/1").body == NEW
    settled.set()
    assert early.read_response().body == OLD
    assert shop.get().body == NEW


def test_simultaneous_misses_share_one_whole(rig: Rig) -> None:
    shop = Shop(rig, (age(60),), (age(60),))
    shop.product.held = threading.Event()
    clients = [rig.connect(shop.gateway) for _ in range(5)]
    for client in clients:
        client.send(b"GET /api/42/1 HTTP/1.1\r\nHost: gw\r\n\r\n")
    wait_until(lambda: in_flight(shop.gateway) == 5, "five requests")
    clients[0].reset()
    wait_until(lambda: in_flight(shop.gateway) == 4, "four requests")
    shop.product.held.set()
    assert [client.read_response().body for client in clients[1:]] == [OLD] * 4
    assert shop.asked == (1, 1)


def test_b19_one_user_s_parts_reach_no_other(rig: Rig) -> None:
    shop = Shop(rig, (age(60),), (age(60, "public"),))
    for number, who in enumerate(("a", "b", "a"), 1):
        assert shop.get(("Authorization", f"Bearer {who}")).body == OLD
        assert shop.asked == (number, number)
    shared = Shop(rig, (age(60, "public"),), (age(60, "public"),))
    for who in ("a", "b"):
        assert shared.get(("Authorization", f"Bearer {who}")).body == OLD
    assert shared.asked == (1, 1)


def test_b19_a_part_without_a_lifetime_of_its_own_is_not_shared_where_cookies_are(rig: Rig) -> None:
    shop = Shop(rig, (), (age(60),), {"ttl": "1m"})
    for cookie in ("a=1", "a=2", "a=1"):
        shop.get(("Cookie", cookie))
    shop.get()
    assert shop.asked == (3, 3)


def test_it_varies_as_its_parts_do(rig: Rig) -> None:
    shop = Shop(rig, (age(60), b"Vary: Accept-Language, Accept"), (age(60), b"Vary: X-Own, Accept-Encoding"))
    for language, own in (("de", "1"), ("fr", "1"), ("de", "2"), ("de", "1"), ("fr", "1")):
        answer = shop.get(("Accept-Language", language), ("X-Own", own))
        assert said(answer, "vary") == "Accept-Language, X-Own"
    assert shop.asked == (3, 3)


def test_guards_come_first_and_debug_forwards_to_the_instances(rig: Rig) -> None:
    limit = {"rate_limit": {"rate": "1/h", "burst": 3}}
    shop = Shop(rig, (age(60),), (age(60),), route=limit)
    assert [shop.get().status for _ in range(2)] == [200, 200]
    debug = shop.get(("Passerelle-Debug", "1"))
    assert said(debug, "passerelle-instance") == "user-1, product-1"
    assert shop.get().status == 429
    assert shop.asked == (2, 2)


def test_stale_wholes_stand_in_as_far_as_the_route_allows(rig: Rig) -> None:
    shop = Shop(rig, (age(0),), (age(60),), {"stale_if_error": "1m"})
    none = Shop(rig, (age(0),), (age(60),))
    for each in (shop, none):
        each.get()
        each.user.raw = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    stale = shop.get()
    assert (stale.body, said(stale, "cache-status")) == (OLD, "passerelle; hit; detail=stale")
    assert none.get().status == 502


def test_stale_while_revalidate_renews_the_whole_behind_the_answer(rig: Rig) -> None:
    shop = Shop(rig, (age(0),), (age(60),), {"stale_while_revalidate": "1m"})
    shop.get()
    shop.user.value = b'"new"'
    assert said(shop.get(), "cache-status") == "passerelle; hit; detail=stale"
    wait_until(lambda: shop.get().body == NEW, "the renewed whole")


def test_a_whole_is_not_renewed_with_a_stale_part(rig: Rig) -> None:
    window = {"stale_while_revalidate": "1m"}
    shop = Shop(rig, (age(0),), (age(60),), window, parts={"user": {"cache": window}})
    shop.get()
    shop.user.value = b'"new"'
    assert shop.get().body == OLD
    wait_until(lambda: shop.asked[0] == 2 and shop.asked_now == 0, "the renewed part")
    assert shop.get().body == NEW


def test_only_if_cached_and_the_counts_of_the_route(rig: Rig) -> None:
    shop = Shop(rig, (age(60),), (age(60),))
    assert shop.get(("Cache-Control", "only-if-cached")).status == 504
    for _ in range(3):
        shop.get()
    counts = shop.gateway.snapshot()["routes"]["/api/{id}/{other}"]["cache"]
    assert {key: n for key, n in counts.items() if n} == {"refused": 1, "miss": 1, "hit": 2}
    assert json.loads(shop.get().body) == {"user": "old", "product": "p"}


VARIES = b"Vary: Authorization, Accept-Encoding"


@pytest.mark.parametrize(
    ("user", "product", "control", "vary"),
    [
        ((), (), None, None),
        ((b"Cache-Control: private, no-store", VARIES), (), "no-store, private", "Authorization"),
        ((b"Cache-Control: private",), (age(60), b"Vary: X-Own"), "private, max-age=0", "X-Own"),
        ((VARIES,), (b"Vary: Accept-Language, authorization",), None, "Accept-Language, Authorization"),
        ((b"Vary: *",), (VARIES,), None, "*"),
        ((age(60),), (age(10),), "max-age=10", None),
        ((age(60), b"Age: 55"), (age(10),), "max-age=5", None),
        ((age(60), b"Age: 90"), (age(10),), "max-age=0", None),
        ((age(60),), (), "max-age=0", None),
        ((age(60, "s-maxage=5"),), (age(10, "public"),), "max-age=5, proxy-revalidate", None),
        ((age(60, "must-revalidate"),), (age(10),), "max-age=10, proxy-revalidate", None),
        ((age(60, "must-revalidate"),), (age(10, "public"),), "max-age=10, must-revalidate", None),
        ((b'Cache-Control: no-cache="x", no-transform',), (age(9),), "no-cache, no-transform, max-age=0", None),
        ((age(60), b"CDN-Cache-Control: no-store"), (age(9),), "no-store", None),
        ((age(60), b"CDN-Cache-Control: max-age=3"), (age(9),), "max-age=3", None),
        ((b"Expires: 0",), (age(9),), "max-age=0", None),
        ((b"Cache-Control: max-age=x",), (age(9),), "max-age=0", None),
    ],
)
def test_a_whole_that_is_not_stored_has_the_strictest_terms_of_its_parts(
    rig: Rig, user: tuple[bytes, ...], product: tuple[bytes, ...], control: str | None, vary: str | None
) -> None:
    shop = Shop(rig, user, product, stored=False)
    for method in ("GET", "HEAD", "GET"):
        answer = shop.get(method=method)
        assert (answer.status, said(answer, "cache-control"), said(answer, "vary")) == (200, control, vary)


def test_a_stored_part_counts_with_its_age(rig: Rig) -> None:
    parts = {"user": {"cache": {}}}
    shop = Shop(rig, (age(60), b"Age: 50", VARIES), (age(60),), parts=parts, stored=False)
    for _ in range(2):
        answer = shop.get()
        assert said(answer, "vary") == "Authorization"
        assert said(answer, "cache-control") in ("max-age=10", "max-age=9")
    assert shop.asked == (1, 2)


def test_a_partial_whole_is_no_store_whatever_the_other_parts_declare(rig: Rig) -> None:
    shop = Shop(rig, (age(60), VARIES), (), parts={"product": {"on_error": None}}, stored=False)
    shop.product.raw = b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"
    assert shop.get().all("cache-control") == [b"no-store"]


@pytest.mark.parametrize("stored", [True, False])
def test_must_revalidate_of_one_part_does_not_open_the_others_to_shared_caches(rig: Rig, stored: bool) -> None:
    """RFC 9111 §3.5: with must-revalidate a shared cache may store a response to a request with Authorization."""
    shop = Shop(rig, (age(60, "must-revalidate"),), (age(60),), stored=stored)
    assert said(shop.get(("Authorization", "Basic x")), "cache-control") == "max-age=60, proxy-revalidate"
