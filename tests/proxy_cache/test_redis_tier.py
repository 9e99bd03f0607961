"""Gateways that share one Redis: they serve what another has stored, and invalidate what another invalidates."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from passerelle.caching.redis import store
from tests.caching.redis_server import RedisServer
from tests.proxy_cache.test_coalescing import FRESH, GET, gated
from tests.proxy_cache.test_mixing import accounts
from tests.requirements import needs
from tests.support.gateways import Rig, Running, in_flight, settle
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import wait_until

pytestmark = needs("redis-server")

PATIENCE = 30.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def connected(gateway: Running) -> bool:
    return bool(gateway.snapshot()["cache"]["redis"]["connected"])


def stored(gateway: Running) -> int:
    return int(gateway.snapshot()["cache"]["redis"]["stores"])


def gateways(rig: Rig, redis: RedisServer, upstream: Upstream, count: int = 2, **cache: object) -> list[Running]:
    """Start gateways with one configuration, all connected to Redis."""
    route = {"cache": {"tags": ["all"], **cache}}
    made = [rig.forward(upstream, route=route, redis=redis.url) for _ in range(count)]
    for gateway in made:
        wait_until(lambda gateway=gateway: connected(gateway), "connected to Redis", PATIENCE)
    return made


def get(rig: Rig, gateway: Running, *fields: tuple[str, str], target: str = "/x") -> tuple[bytes, bytes | None]:
    """Return body and Cache-Status of a GET."""
    with gateway.connect() as client:
        response = client.request("GET", target, *fields)
    assert response.status == 200
    return response.body, response.get("cache-status")


def counting(conn: Connection) -> None:
    """A service that responds with the number of GETs."""
    while True:
        request = conn.read_request()
        gets = sum(r.method == b"GET" for r in conn.upstream.requests)
        conn.send(ok(b"%d" % gets if request.method == b"GET" else b"done", FRESH))


def varying(conn: Connection) -> None:
    """A service that responds in the requested language."""
    while True:
        request = conn.read_request()
        conn.send(ok(request.get("accept-language") or b"-", FRESH, b"Vary: Accept-Language"))


def test_a_response_that_one_gateway_stores_is_served_by_another(rig: Rig, redis: RedisServer) -> None:
    upstream = rig.upstream(counting)
    one, two = gateways(rig, redis, upstream)
    assert get(rig, one)[0] == b"1"
    wait_until(lambda: stored(one), "shared", PATIENCE)
    assert get(rig, two) == (b"1", b"passerelle; hit")
    assert get(rig, two) == (b"1", b"passerelle; hit")
    assert len(upstream.requests) == 1
    assert two.snapshot()["cache"]["redis"]["hits"] == 1, "the second time it was in its own memory"


def test_variants_are_shared_by_their_note(rig: Rig, redis: RedisServer) -> None:
    upstream = rig.upstream(varying)
    one, two = gateways(rig, redis, upstream)
    for number, (gateway, language) in enumerate([(one, "fr"), (two, "de")], 1):
        assert get(rig, gateway, ("Accept-Language", language))[0] == language.encode()
        wait_until(lambda gateway=gateway: stored(gateway), "shared", PATIENCE)
        assert len(upstream.requests) == number
    for gateway in (one, two):
        for language in ("fr", "de"):
            answer = get(rig, gateway, ("Accept-Language", language))
            assert answer == (language.encode(), b"passerelle; hit")
    assert len(upstream.requests) == 2


def test_an_unsafe_method_through_one_invalidates_on_all(rig: Rig, redis: RedisServer) -> None:
    upstream = rig.upstream(counting)
    one, two = gateways(rig, redis, upstream)
    assert get(rig, one)[0] == b"1"
    wait_until(lambda: stored(one), "shared", PATIENCE)
    assert get(rig, two)[0] == b"1"
    with one.connect() as client:
        assert client.request("PUT", "/x", body=b"new").status == 200
    # The client that has changed it sees that at once, whatever Redis still has at that moment.
    assert get(rig, one)[0] != b"1"
    wait_until(lambda: get(rig, two)[0] != b"1", "the other gateway invalidates its memory", PATIENCE)


@pytest.mark.parametrize(("what", "value"), [("tag", "all"), ("path", "/x"), ("path", "/*"), ("all", "1")])
def test_a_purge_on_one_is_seen_on_the_other(rig: Rig, redis: RedisServer, what: str, value: str) -> None:
    upstream = rig.upstream(counting)
    one, two = gateways(rig, redis, upstream)
    assert get(rig, one)[0] == b"1"
    wait_until(lambda: stored(one), "shared", PATIENCE)
    assert get(rig, two)[0] == b"1"
    assert rig.loop.call(lambda: one.gateway.purge(what, value)) == 1
    wait_until(lambda: get(rig, two)[0] != b"1", "the purge arrives", PATIENCE)
    assert get(rig, one)[0] != b"1"


@pytest.mark.parametrize("control", [b"no-cache", b"max-age=0"])
def test_an_answer_to_be_validated_at_each_use_is_not_the_answer_to_another_gateway_s_request(
    rig: Rig, redis: RedisServer, control: bytes
) -> None:
    go = threading.Event()
    upstream = rig.upstream(accounts(control, go))
    one, two = gateways(rig, redis, upstream)
    clients = []
    for number, (gateway, who) in enumerate([(one, "a"), (one, "b"), (two, "c"), (two, "d")], 1):
        clients.append(rig.connect(gateway))
        clients[-1].send(f"GET /x HTTP/1.1\r\nHost: gw\r\nCookie: {who}\r\n\r\n".encode())
        wait_until(lambda n=number: in_flight(one) + in_flight(two) == n, "it waits", PATIENCE)
        upstream.wait_requests(1, PATIENCE)
    go.set()
    assert [client.read_response(within=PATIENCE).body for client in clients] == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_misses_on_two_gateways_are_one_request_upstream(
    rig: Rig, redis: RedisServer, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thousand concurrent requests delay the replies of Redis in both gateways, which share one thread here.
    monkeypatch.setattr(store, "TIMEOUT", PATIENCE)
    go = threading.Event()
    upstream = rig.upstream(gated(go, ok(b"one", FRESH)))
    made = gateways(rig, redis, upstream)
    clients = [rig.connect(made[n % 2]) for n in range(count)]
    for client in clients:
        client.send(GET)
    wait_until(lambda: sum(map(in_flight, made)) == count, "all of them wait", PATIENCE)
    upstream.wait_requests(1, PATIENCE)
    go.set()
    assert {client.read_response("GET", PATIENCE).body for client in clients} == {b"one"}
    assert len(upstream.requests) == 1
    for gateway in made:
        settle(gateway)


def test_a_response_that_may_not_be_shared_delays_no_other_gateway(rig: Rig, redis: RedisServer) -> None:
    go = threading.Event()
    upstream = rig.upstream(gated(go, ok(b"mine", b"Cache-Control: private")))
    one, two = gateways(rig, redis, upstream)
    first, second = rig.connect(one), rig.connect(two)
    first.send(GET)
    upstream.wait_requests(1, PATIENCE)
    second.send(GET)
    wait_until(lambda: in_flight(two) == 1, "it waits", PATIENCE)
    go.set()
    assert [client.read_response("GET", PATIENCE).body for client in (first, second)] == [b"mine", b"mine"]
    assert len(upstream.requests) == 2


def test_a_request_waits_for_another_gateway_no_longer_than_its_deadline(rig: Rig, redis: RedisServer) -> None:
    go = threading.Event()
    upstream = rig.upstream(gated(go, ok(b"late", FRESH)))
    (one,) = gateways(rig, redis, upstream, 1)
    two = rig.forward(upstream, route={"cache": {"tags": ["all"]}, "timeout": "300ms"}, redis=redis.url)
    wait_until(lambda: connected(two), "connected to Redis", PATIENCE)
    first, second = rig.connect(one), rig.connect(two)
    first.send(GET)
    upstream.wait_requests(1, PATIENCE)
    second.send(GET)
    assert second.read_response("GET", PATIENCE).status == 504
    settle(two)
    go.set()
    assert first.read_response("GET", PATIENCE).body == b"late"
    assert len(upstream.requests) == 1


@pytest.mark.long
def test_no_request_fails_while_redis_goes_and_comes_back(rig: Rig, redis: RedisServer) -> None:
    upstream = rig.upstream(answering(ok(b"ok", FRESH)))
    made = gateways(rig, redis, upstream)
    stop = threading.Event()
    statuses: list[int] = []
    faults: list[BaseException] = []

    def load(gateway: Running, worker: int) -> None:
        number = 0
        try:
            with gateway.connect() as client:
                while not stop.is_set():
                    number += 1
                    method = "PUT" if number % 50 == 0 else "GET"
                    target = f"/{worker}/{number % 97 + number // 200}"
                    statuses.append(client.request(method, target, within=PATIENCE).status)
        except BaseException as error:
            faults.append(error)

    def more(count: int) -> None:
        goal = len(statuses) + count
        wait_until(lambda: len(statuses) >= goal or faults, "the load goes on", PATIENCE)

    threads = [threading.Thread(target=load, args=(gateway, n)) for n in range(2) for gateway in made]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            more(200)
            redis.stop()
            wait_until(lambda: not any(map(connected, made)), "they notice", PATIENCE)
            more(200)
            redis.start()
            wait_until(lambda: all(map(connected, made)), "they come back by themselves", PATIENCE)
        more(200)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not faults
    assert set(statuses) == {200} and len(statuses) >= 1000


def test_an_absent_redis_is_logged_once_and_changes_nothing(rig: Rig, redis: RedisServer) -> None:
    redis.stop()
    upstream = rig.upstream(counting)
    gateway = rig.forward(upstream, route={"cache": {}}, redis=redis.url.replace("//", "//:secret@"))

    def said(word: str) -> list[str]:
        return [
            r.getMessage() for r in rig.log.records if r.getMessage().startswith("redis:") and word in r.getMessage()
        ]

    assert get(rig, gateway)[0] == b"1"
    assert get(rig, gateway) == (b"1", b"passerelle; hit")
    wait_until(lambda: said("cannot reach"), "it is said", PATIENCE)
    redis.start()
    gateway.reload(*settings(upstream), redis=redis.url)
    wait_until(lambda: connected(gateway), "the reload names it without the password", PATIENCE)
    assert len(said("cannot reach")) == 1
    assert not any("secret" in record.getMessage() for record in rig.log.records)


def test_a_reload_without_redis_goes_on_with_memory(rig: Rig, redis: RedisServer) -> None:
    upstream = rig.upstream(counting)
    gateway = rig.forward(upstream, route={"cache": {}})
    gateway.reload(*settings(upstream), redis=redis.url)
    wait_until(lambda: connected(gateway), "connected to Redis", PATIENCE)
    assert get(rig, gateway)[0] == b"1"
    gateway.reload(*settings(upstream))
    assert gateway.snapshot()["cache"]["redis"] == {}
    assert get(rig, gateway) == (b"1", b"passerelle; hit")


def settings(upstream: Upstream) -> tuple[dict[str, object], list[dict[str, object]]]:
    return {"u": {"targets": [upstream.url]}}, [{"path": "/{rest*}", "service": "u", "cache": {}}]
