"""One client cannot take all places of an instance, whatever it holds them with, and clients take turns in the queue.

X-Forwarded-For names the clients: the tests are a trusted proxy.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.client import Client, head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import wait_until

LONG = 20.0
PLACES = 8
FAST_SWEEP = {"head_timeout": "400ms"}
"""Connections are checked at a quarter of the shortest time limit."""
SWITCH = (("Connection", "Upgrade"), ("Upgrade", "websocket"))
ATTACKER, OTHER = "203.0.113.1", "203.0.113.2"
BIG = 8 << 20


def serve(conn: Connection) -> None:
    """Respond at once; ``/ws`` switches, ``/events`` never ends, ``/big`` is large, ``/refuse`` responds early."""
    while True:
        request = conn.read_head()
        if request.target == b"/ws":
            conn.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            return
        if request.target == b"/events":
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            conn.send(b"2\r\nhi\r\n")
            conn.rest(60)
            return
        elif request.target == b"/big":
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
            conn.stream(bytes(1 << 16), BIG >> 16)
        elif request.target == b"/refuse":
            conn.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
            conn.exactly(int(request.get("content-length") or b"0"), 60)
        else:
            conn.exactly(int(request.get("content-length") or b"0"), 60)
            conn.send(ok())


def crowded(rig: Rig, *upstreams: Upstream, **service: Any) -> Running:
    return rig.forward(
        *(upstreams or (rig.upstream(serve),)),
        service={"max_connections": PLACES, "max_waiting": PLACES, **service},
        limits=FAST_SWEEP,
        trusted_proxies=["127.0.0.0/8"],
    )


def of(address: str) -> tuple[str, str]:
    return ("X-Forwarded-For", address)


def pools(gateway: Running) -> list[Any]:
    return [i.endpoint for i in gateway.gateway._members["u"].instances]


def in_flight(gateway: Running) -> int:
    return int(gateway.snapshot()["services"]["u"]["in_flight"])


def idle(gateway: Running) -> bool:
    """Whether no place, no part of the reserve and no connection set aside is held."""
    return all(
        pool.open == len(pool.idle) and not (pool.set_aside or pool.waiting or pool._reserve.taken)
        for pool in pools(gateway)
    )


def events(client: Client, address: str) -> None:
    client.send(head("GET", "/events", of(address)))


def upload(client: Client, address: str) -> None:
    client.send(head("POST", "/", of(address), length=1000) + b"x")


def refused_upload(client: Client, address: str) -> None:
    client.send(head("POST", "/refuse", of(address), length=1000) + b"x")


def reader(client: Client, address: str) -> None:
    client.send(head("GET", "/big", of(address)))


def switch(client: Client, address: str) -> None:
    client.send(head("GET", "/ws", *SWITCH, of(address)))


@pytest.mark.parametrize("attack", [events, upload, refused_upload, reader, switch], ids=lambda each: each.__name__)
def test_one_client_does_not_hold_the_places_of_all(rig: Rig, attack: Any) -> None:
    gateway = crowded(rig)
    slow = [rig.connect(gateway, receive_buffer=4096) for _ in range(5 * PLACES)]
    for client in slow:
        attack(client, ATTACKER)
    other = rig.connect(gateway)
    for _ in range(10):
        assert other.request("GET", "/", of(OTHER), within=LONG).status == 200
    wait_until(lambda: all(pool.set_aside or attack is switch for pool in pools(gateway)), "some are set aside", LONG)
    for _ in range(10):
        assert other.request("GET", "/", of(OTHER), within=LONG).status == 200
    for client in slow:
        client.reset()
    settle(gateway, LONG)
    wait_until(lambda: rig.loop.call(lambda: idle(gateway)), "nothing is held", LONG)
    assert other.request("GET", "/", of(OTHER), within=LONG).status == 200


def test_an_honest_client_may_have_all_places_and_streams(rig: Rig) -> None:
    gateway = crowded(rig, max_streams=2)
    clients = [rig.connect(gateway) for _ in range(4)]
    for client in clients:
        events(client, OTHER)
        client.until(b"hi", LONG)
    wait_until(lambda: pools(gateway)[0].set_aside == 1, "its share is set aside", LONG)
    assert pools(gateway)[0].open == 3
    second = rig.connect(gateway)
    events(second, ATTACKER)
    second.until(b"hi", LONG)
    wait_until(lambda: pools(gateway)[0].set_aside == 2, "another client has a share, too", LONG)


def test_an_upload_set_aside_has_a_place_again_when_it_is_complete(rig: Rig) -> None:
    release = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.wait(release)
            conn.send(ok())

    gateway = crowded(rig, rig.upstream(script))
    client = rig.connect(gateway)
    client.send(head("POST", "/", of(OTHER), length=2) + b"x")
    wait_until(lambda: pools(gateway)[0].set_aside == 1, "the upload is set aside", LONG)
    assert pools(gateway)[0].open == 0
    client.send(b"x")
    wait_until(lambda: pools(gateway)[0].open == 1, "the request waits for the instance", LONG)
    assert pools(gateway)[0].set_aside == 0
    release.set()
    assert client.read_response("POST", LONG).status == 200
    wait_until(lambda: rig.loop.call(lambda: idle(gateway)), "nothing is held", LONG)


def test_tunnels_have_a_bound_of_their_own(rig: Rig) -> None:
    gateway = crowded(rig, max_tunnels=2)
    first, second = rig.connect(gateway), rig.connect(gateway)
    for client, address in ((first, ATTACKER), (second, OTHER)):
        switch(client, address)
        assert client.until(b"\r\n\r\n", LONG).startswith(b"HTTP/1.1 101 ")
    third = rig.connect(gateway)
    switch(third, "203.0.113.3")
    refused = third.read_response(within=LONG)
    problem(refused, 503)
    assert b"too many tunnels of the service" in refused.body
    assert gateway.snapshot()["services"]["u"]["tunnels"] == {"open": 2, "refused": 1}
    first.reset()
    wait_until(lambda: gateway.snapshot()["services"]["u"]["tunnels"]["open"] == 1, "the tunnel has ended", LONG)
    fourth = rig.connect(gateway)
    switch(fourth, "203.0.113.3")
    assert fourth.until(b"\r\n\r\n", LONG).startswith(b"HTTP/1.1 101 ")


def test_one_client_has_a_share_of_the_tunnels(rig: Rig) -> None:
    gateway = crowded(rig, max_tunnels=4)
    clients = [rig.connect(gateway) for _ in range(3)]
    for client in clients[:2]:
        switch(client, ATTACKER)
        assert client.until(b"\r\n\r\n", LONG).startswith(b"HTTP/1.1 101 ")
    switch(clients[2], ATTACKER)
    refused = clients[2].read_response(within=LONG)
    problem(refused, 503)
    assert b"too many tunnels of one client" in refused.body
    other = rig.connect(gateway)
    switch(other, OTHER)
    assert other.until(b"\r\n\r\n", LONG).startswith(b"HTTP/1.1 101 ")


def test_tunnels_that_open_at_the_same_time_stay_within_the_bound(rig: Rig) -> None:
    """All of them pass the check before the instance accepts the first."""
    release = threading.Event()

    def script(conn: Connection) -> None:
        request = conn.read_head()
        if request.target == b"/ws":
            conn.wait(release)
            conn.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        else:
            conn.send(ok())

    upstream = rig.upstream(script)
    gateway = crowded(rig, upstream, max_tunnels=2, client_share="100%", eject={"failures": 1})
    clients = [rig.connect(gateway) for _ in range(5)]
    for client in clients:
        switch(client, ATTACKER)
    upstream.wait_heads(5, LONG)
    release.set()
    found = sorted(client.until(b"\r\n\r\n", LONG)[9:12] for client in clients)
    assert found == [b"101", b"101", b"503", b"503", b"503"]
    assert rig.connect(gateway).request("GET", "/", of(OTHER), within=LONG).status == 200


def queued(rig: Rig, **service: Any) -> tuple[Running, Upstream, threading.Event, Client]:
    """Return a gateway whose one place is taken until the event is set."""
    release = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.target == b"/held":
                conn.wait(release)
            conn.send(ok(request.target))

    upstream = rig.upstream(script)
    gateway = crowded(rig, upstream, **{"max_connections": 1, **service})
    holder = rig.connect(gateway)
    holder.send(head("GET", "/held", of(ATTACKER)))
    upstream.wait_heads(1, LONG)
    return gateway, upstream, release, holder


ONE_PLACE = [{}, {"max_connections": 100, "concurrency": {"min": 1, "max": 2, "initial": 1}}]


@pytest.mark.parametrize("service", ONE_PLACE, ids=["connections", "concurrency"])
def test_clients_take_turns_in_the_queue(rig: Rig, service: dict[str, Any]) -> None:
    gateway, upstream, release, holder = queued(rig, **service)
    clients = []
    for number, (target, address) in enumerate(
        [("/a1", ATTACKER), ("/a2", ATTACKER), ("/a3", ATTACKER), ("/b1", OTHER), ("/b2", OTHER)], 2
    ):
        client = rig.connect(gateway)
        client.send(head("GET", target, of(address)))
        clients.append(client)
        wait_until(lambda n=number: running(gateway) == n, "the request waits", LONG)  # type: ignore[misc]
    release.set()
    for client in clients:
        assert client.read_response(within=LONG).status == 200
    assert [r.target for r in upstream.requests] == [b"/held", b"/a1", b"/b1", b"/a2", b"/b2", b"/a3"]
    assert holder.read_response(within=LONG).status == 200


def running(gateway: Running) -> int:
    return sum(route["in_flight"] for route in gateway.snapshot()["routes"].values())


@pytest.mark.parametrize("service", ONE_PLACE, ids=["connections", "concurrency"])
def test_a_client_that_fills_the_queue_makes_room_for_another(rig: Rig, service: dict[str, Any]) -> None:
    gateway, upstream, release, holder = queued(rig, max_waiting=2, **service)
    first, second, third, other = (rig.connect(gateway) for _ in range(4))
    for number, (client, target) in enumerate([(first, "/a1"), (second, "/a2")], 2):
        client.send(head("GET", target, of(ATTACKER)))
        wait_until(lambda n=number: running(gateway) == n, "the request waits", LONG)  # type: ignore[misc]
    problem(third.request("GET", "/a3", of(ATTACKER), within=LONG), 503)  # the queue is full
    other.send(head("GET", "/b1", of(OTHER)))
    problem(second.read_response(within=LONG), 503)
    release.set()
    for client in (holder, first, other):
        assert client.read_response(within=LONG).status == 200
    assert [r.target for r in upstream.requests] == [b"/held", b"/a1", b"/b1"]


def test_a_client_with_one_request_in_the_queue_keeps_it(rig: Rig) -> None:
    gateway, _, release, holder = queued(rig, max_waiting=1, eject={"failures": 1})
    first, other = rig.connect(gateway), rig.connect(gateway)
    first.send(head("GET", "/a1", of(ATTACKER)))
    wait_until(lambda: running(gateway) == 2, "the request waits", LONG)
    problem(other.request("GET", "/b1", of(OTHER), within=LONG), 503)  # one place: neither client has more
    release.set()
    assert holder.read_response(within=LONG).status == 200
    assert first.read_response(within=LONG).status == 200


def test_a_lower_limit_applies_while_places_are_taken(rig: Rig) -> None:
    gateway, upstream, release, holder = queued(rig, max_connections=PLACES)
    clients = [rig.connect(gateway) for _ in range(PLACES - 1)]
    for client in clients:
        client.send(head("GET", "/held", of(OTHER)))
    wait_until(lambda: pools(gateway)[0].open >= PLACES - 2, "the places are taken", LONG)
    gateway.reload(
        {"u": {"targets": [upstream.url], "max_connections": 1, "max_waiting": PLACES}},
        [{"path": "/{rest*}", "service": "u"}],
    )
    release.set()
    for client in [holder, *clients]:
        assert client.read_response(within=LONG).status == 200
    settle(gateway, LONG)
    wait_until(lambda: pools(gateway)[0].open <= 1, "the connections above the limit are closed", LONG)
    assert rig.connect(gateway).request("GET", "/", of(OTHER), within=LONG).status == 200


def test_a_request_that_waits_too_long_for_a_place_is_no_failure_of_the_instance(rig: Rig) -> None:
    """Slow uploads hold the places, and the requests behind them get no connection in time."""
    gateway = rig.forward(
        *(rig.upstream(serve) for _ in range(2)),
        service={"max_connections": 1, "max_streams": 0, "eject": {"failures": 1}, "breaker": {"minimum": 1}},
        route={"timeout": "300ms", "attempts": 1},
    )
    for _ in range(2):
        upload(rig.connect(gateway), OTHER)
    wait_until(lambda: in_flight(gateway) == 2, "the places are taken", LONG)
    for _ in range(4):
        problem(rig.connect(gateway).request(within=LONG), 504)
    assert {i["status"] for i in rig.loop.call(gateway.gateway.status)["u"]} == {"up"}
    assert gateway.snapshot()["services"]["u"]["breaker"] == {"closed": 1}


def test_requests_that_wait_for_a_connection_take_no_place_under_the_concurrency_limit(rig: Rig) -> None:
    upstreams = rig.upstream(serve), rig.upstream(serve)
    gateway = crowded(rig, *upstreams, max_streams=0, concurrency={"min": 1, "max": 2, "initial": 1})
    # One after the other: of a burst, the queue for the limit would refuse more than it holds.
    for number in range(1, 2 * PLACES + 1):
        upload(rig.connect(gateway), ATTACKER)
        wait_until(lambda number=number: in_flight(gateway) == number, f"upload {number} is in flight", LONG)
    assert any(pool.waiting for pool in pools(gateway))
    assert rig.connect(gateway).request("GET", "/", of(OTHER), within=LONG).status == 200
    assert gateway.snapshot()["services"]["u"]["concurrency"]["running"] == 0
