"""A reload swaps the plans and keeps connections, streams, tunnels, counters and health."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from passerelle.config.problems import ConfigError
from tests.support.client import head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import wait_until

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
UPGRADE = head("GET", "/ws", ("Upgrade", "x"), ("Connection", "Upgrade"))
ROUTE: dict[str, Any] = {"path": "/{rest*}", "service": "u"}


def service(*upstreams: Upstream, **settings: Any) -> dict[str, Any]:
    return {"targets": [u.url for u in upstreams], **settings}


def open_work(gateway: Running) -> int:
    return int(gateway.snapshot()["services"]["u"]["in_flight"])


def test_a_persistent_connection_uses_the_new_table_from_its_next_request(rig: Rig) -> None:
    one, two = rig.upstream(answering(ok(b"1"))), rig.upstream(answering(ok(b"2")))
    gateway = rig.forward(one)
    client = rig.connect(gateway)
    assert client.request().body == b"1"
    gateway.reload({"u": service(two)}, [ROUTE])
    assert client.request().body == b"2"
    gateway.reload({"other": service(one)}, [{"path": "/a", "service": "other"}])
    assert client.request().status == 404
    assert client.request("GET", "/a").body == b"1"


def test_connections_to_instances_that_stay_are_used_on(rig: Rig) -> None:
    one = rig.upstream(answering(ok()))
    gateway = rig.forward(one)
    client = rig.connect(gateway)
    for number in range(20):
        assert client.request().status == 200
        gateway.reload({"u": service(one, balance="ewma" if number % 2 else "round_robin")}, [ROUTE])
    assert len(one.connections) == 1


def test_a_response_in_flight_is_finished_by_the_plan_that_it_began_with(rig: Rig) -> None:
    release = threading.Event()

    def slow(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        conn.wait(release)
        conn.send(b"cd")

    def slower(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok(b"late"))

    one, two = rig.upstream(slow), rig.upstream(slower)
    gateway = rig.gateway(
        {"u": service(one), "v": service(two)}, [{"path": "/u", "service": "u"}, {"path": "/v", "service": "v"}]
    )
    streaming, waiting = rig.connect(gateway), rig.connect(gateway)
    streaming.send(head("GET", "/u"))
    waiting.send(head("GET", "/v"))
    one.wait_requests(1)
    two.wait_requests(1)
    other = rig.upstream(answering(ok(b"other")))
    gateway.reload({"w": service(other)}, [{"path": "/{rest*}", "service": "w", "timeout": "1s"}])
    release.set()
    assert streaming.read_response().body == b"abcd"
    assert waiting.read_response().body == b"late"
    assert streaming.request("GET", "/u").body == b"other"
    one.wait_all_closed()  # idle connections to a removed service are closed
    two.wait_all_closed()


def test_requests_in_flight_keep_their_deadline(rig: Rig) -> None:
    silent = rig.upstream(lambda conn: None)
    gateway = rig.forward(silent, route={"timeout": "700ms"})
    client = rig.connect(gateway)
    client.send(head())
    wait_until(lambda: open_work(gateway) == 1, "the request is in flight")
    gateway.reload({"u": service(silent)}, [{**ROUTE, "timeout": "20s"}])
    assert client.read_response(within=5).status == 504


def test_tunnels_survive_and_are_counted_truly(rig: Rig) -> None:
    def tunnels(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH)
        while data := conn.sock.recv(100):
            conn.send(data)

    one, two, three = (rig.upstream(tunnels) for _ in range(3))
    settings = {"balance": "least_inflight", "slow_start": "off"}
    gateway = rig.forward(one, two, service=settings)
    clients = []
    for _ in range(10):
        client = rig.connect(gateway)
        client.send(UPGRADE)
        assert client.read_response().status == 101
        clients.append(client)
    for _ in range(20):
        gateway.reload({"u": service(one, two, three, **settings)}, [ROUTE])
        gateway.reload({"u": service(two, **settings)}, [ROUTE])
    assert open_work(gateway) == 10
    for client in clients:
        client.send(b"ping")
        assert client.sock.recv(4) == b"ping"
    gateway.reload({"u": service(one, two, three, **settings)}, [ROUTE])
    for _ in range(5):
        client = rig.connect(gateway)
        client.send(UPGRADE)
        assert client.read_response().status == 101
        clients.append(client)
    assert (len(one.heads), len(two.heads), len(three.heads)) == (5, 5, 5)
    for client in clients:
        client.reset()
    wait_until(lambda: open_work(gateway) == 0, "nothing is open")


def test_an_ejected_instance_stays_ejected(rig: Rig) -> None:
    bad, good = rig.upstream(answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")), rig.upstream(answering(ok()))
    gateway = rig.forward(bad, good, service={"balance": "round_robin"})
    client = rig.connect(gateway)
    assert [client.request().status for _ in range(20)].count(500) == 5
    gateway.reload({"u": service(bad, good, balance="p2c")}, [ROUTE])
    assert [client.request().status for _ in range(20)] == [200] * 20
    gateway.reload({"u": service(bad, good, eject={"failures": 2})}, [ROUTE])
    assert [client.request().status for _ in range(20)] == [200] * 20


def test_a_service_that_comes_back_while_it_leaves_is_the_same(rig: Rig) -> None:
    release = threading.Event()

    def slow(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok(b"slow"))
        while True:
            conn.read_request()
            conn.send(ok(b"again"))

    one, two = rig.upstream(slow), rig.upstream(answering(ok(b"2")))
    gateway = rig.forward(one)
    client = rig.connect(gateway)
    client.send(head())
    one.wait_requests(1)
    gateway.reload({"v": service(two)}, [{**ROUTE, "service": "v"}])
    gateway.reload({"u": service(one, balance="round_robin")}, [ROUTE])
    assert open_work(gateway) == 1
    release.set()
    assert client.read_response().body == b"slow"
    assert client.request().body == b"again"
    assert len(one.connections) == 1 and open_work(gateway) == 0


def test_what_is_wrong_changes_nothing(rig: Rig) -> None:
    one = rig.upstream(answering(ok(b"1")))
    gateway = rig.forward(one)
    client = rig.connect(gateway)
    with pytest.raises(ConfigError):
        gateway.reload({"u": service(one)}, [{**ROUTE, "service": "missing"}])
    assert client.request().body == b"1"


def test_limits_and_trust_are_the_new_ones_on_open_connections(rig: Rig) -> None:
    one = rig.upstream(answering(ok()))
    gateway = rig.forward(one)
    client = rig.connect(gateway)
    forged = ("X-Forwarded-For", "10.0.0.1")
    client.request("GET", "/", forged)
    gateway.reload({"u": service(one)}, [ROUTE], trusted_proxies=["127.0.0.0/8"], limits={"body": "1B"})
    client.request("GET", "/", forged)
    assert [r.all("x-forwarded-for") for r in one.requests] == [[b"127.0.0.1"], [b"10.0.0.1, 127.0.0.1"]]
    assert client.request("POST", "/", body=b"xx").status == 413


def test_stored_responses_are_selected_by_the_new_trust_on_open_connections(rig: Rig) -> None:
    one = rig.upstream(answering(ok(b"x", b"Cache-Control: max-age=600")))
    cached = {**ROUTE, "cache": {}}
    gateway = rig.gateway({"u": service(one)}, [cached])
    client = rig.connect(gateway)
    stated = ("X-Forwarded-Host", "shop.example")
    for trusted, requests in (([], 1), (["127.0.0.0/8"], 2), ([], 2)):
        gateway.reload({"u": service(one)}, [cached], trusted_proxies=trusted)
        for _ in range(2):
            assert client.request("GET", "/", stated).status == 200
        assert len(one.requests) == requests


@pytest.mark.parametrize("limits", [{"headers": 10}, {"head": "256B"}])
def test_lower_limits_of_heads_hold_for_heads_that_are_known(rig: Rig, limits: dict[str, Any]) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    fields = [(f"X-Field-{number}", "1") for number in range(20)]
    for _ in range(2):
        assert client.request("GET", "/", *fields).status == 200
    gateway.reload({"u": service(upstream)}, [ROUTE], limits=limits)
    assert client.request("GET", "/", *fields).status == 431
    client.assert_closed()
    assert len(upstream.requests) == 2


def test_a_cache_that_no_route_has_any_more_is_gone(rig: Rig) -> None:
    """Also what a response in flight has stored in it afterwards."""
    release = threading.Event()

    def slow(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 4\r\n\r\nab")
            if b" /slow " in request.start:
                conn.wait(release)
            conn.send(b"cd")

    upstream = rig.upstream(slow)
    gateway = rig.gateway({"u": service(upstream)}, [{**ROUTE, "cache": {}}])
    client, late = rig.connect(gateway), rig.connect(gateway)
    assert client.request("GET", "/a").status == 200
    cache = gateway.gateway.context.cache
    assert cache is not None and gateway.snapshot()["cache"]["entries"] == 1
    late.send(head("GET", "/slow"))
    wait_until(lambda: open_work(gateway) == 1)
    gateway.reload({"u": service(upstream)}, [ROUTE])
    assert gateway.snapshot()["cache"] == {"bytes": 0, "capacity_bytes": 0, "entries": 0, "evictions": 0}
    release.set()
    assert late.read_response().body == b"abcd"
    assert len(cache.store) == 0
    gateway.reload({"u": service(upstream)}, [{**ROUTE, "cache": {}}])
    assert b"fwd=uri-miss" in (client.request("GET", "/a").get("cache-status") or b"")
    assert gateway.snapshot()["cache"]["entries"] == 1
