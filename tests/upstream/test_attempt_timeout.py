"""The time limit of one attempt, and the header with the time left."""

from __future__ import annotations

import threading

import pytest

from tests.support.client import Client, chunks, head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import wait_until

FIELD = "passerelle-timeout-ms"
JSON = b"Content-Type: application/json"


def frozen(rig: Rig) -> Upstream:
    """Return an instance that reads requests and never responds."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()

    return rig.upstream(script)


def bounded(rig: Rig, *ups: Upstream, **service: object) -> Running:
    return rig.forward(
        *ups, service={"balance": "round_robin", **service}, route={"attempt_timeout": "100ms", "timeout": "25s"}
    )


def test_the_request_moves_from_a_frozen_instance_to_the_other(rig: Rig) -> None:
    stuck, good = frozen(rig), rig.upstream(answering(ok(b"good")))
    gateway = bounded(rig, stuck, good)
    client = rig.connect(gateway)
    assert [client.request().body for _ in range(6)] == [b"good"] * 6
    assert len(stuck.requests) >= 1
    stuck.wait_all_closed()
    settle(gateway)
    found = gateway.snapshot()["services"]["u"]
    assert found["retries"] == found["failures"]["timeout"] == len(stuck.requests)


def test_frozen_instances_are_ejected(rig: Rig) -> None:
    stuck, good = frozen(rig), rig.upstream(answering(ok(b"good")))
    gateway = bounded(rig, stuck, good, eject={"failures": 2, "at_most": "100%"})
    client = rig.connect(gateway)
    assert [client.request().body for _ in range(20)] == [b"good"] * 20
    assert len(stuck.requests) == 2


def test_a_request_that_may_not_be_retried_continues_to_the_deadline(rig: Rig) -> None:
    release = threading.Event()

    def late(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok(b"late"))

    one, two = rig.upstream(late), rig.upstream(late)
    gateway = bounded(rig, one, two)
    client, other = rig.connect(gateway), rig.connect(gateway)
    client.send(head("POST", "/", length=2) + b"hi")
    wait_until(lambda: one.requests or two.requests, "the request arrives")
    other.send(head())  # a GET, which is tried at both: by then the attempt of the POST has expired too
    wait_until(lambda: len(one.requests) + len(two.requests) == 3, "a second attempt of the GET")
    release.set()
    assert client.read_response("POST").body == b"late"
    assert other.read_response().body == b"late"


def test_the_last_attempt_has_all_of_the_time_left(rig: Rig) -> None:
    release = threading.Event()

    def late(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok(b"late"))

    ups = [rig.upstream(late), rig.upstream(late)]
    gateway = bounded(rig, *ups)
    client = rig.connect(gateway)
    client.send(head())
    wait_until(lambda: all(u.requests for u in ups), "both have the request")
    release.set()
    assert client.read_response().body == b"late"


def test_the_deadline_of_the_route_holds(rig: Rig) -> None:
    gateway = rig.forward(frozen(rig), frozen(rig), route={"attempt_timeout": "100ms", "timeout": "500ms"})
    problem(rig.connect(gateway).request(), 504)
    settle(gateway)


def test_a_request_that_waits_for_a_connection_to_a_frozen_instance_moves_to_the_other(rig: Rig) -> None:
    stuck, good = frozen(rig), rig.upstream(answering(ok(b"good")))
    gateway = bounded(rig, stuck, good, max_connections=1, eject="off")
    clients = [rig.connect(gateway) for _ in range(6)]
    for client in clients:
        client.send(head())
    assert [client.read_response().body for client in clients] == [b"good"] * 6
    settle(gateway)


def test_a_waiting_request_without_another_instance_keeps_waiting(rig: Rig) -> None:
    """One instance with one connection: both attempts expire in its queue, and the request stays in the queue."""
    release = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.target == b"/first":
                conn.wait(release)
            conn.send(ok(request.target))

    gateway = bounded(rig, rig.upstream(script), max_connections=1)
    first, second = rig.connect(gateway), rig.connect(gateway)
    first.send(head("POST", "/first", length=0))
    wait_until(
        lambda: gateway.snapshot()["services"]["u"]["in_flight"] == 1, "the first request has the connection", 20
    )
    second.send(head("GET", "/second"))
    wait_until(lambda: gateway.snapshot()["services"]["u"]["retries"] == 1, "the first attempt is abandoned", 20)
    mark = rig.forward(frozen(rig), route={"timeout": "400ms"})
    problem(rig.connect(mark).request(), 504)  # four times as long as an attempt
    release.set()
    assert first.read_response("POST").body == b"/first"
    assert second.read_response().body == b"/second"
    settle(gateway)


def test_an_attempt_does_not_expire_while_the_client_uploads(rig: Rig) -> None:
    ups = [rig.upstream(answering(ok(b"whole"))) for _ in range(2)]
    gateway = bounded(rig, *ups)
    client = rig.connect(gateway)
    client.send(head("PUT", "/", ("Transfer-Encoding", "chunked")) + b"2\r\nhi\r\n")
    wait_until(lambda: sum(len(u.heads) for u in ups) == 1, "the head arrives")
    mark = rig.forward(frozen(rig), route={"timeout": "400ms"})
    problem(rig.connect(mark).request(), 504)  # four times as long as an attempt
    client.send(chunks(b"ho"))
    assert client.read_response("PUT").body == b"whole"
    assert sum(len(u.heads) for u in ups) == 1


def times_left(upstream: Upstream) -> list[int]:
    return [int(value) for request in upstream.requests for value in request.all(FIELD)]


def test_services_get_the_time_left(rig: Rig) -> None:
    stuck, good = frozen(rig), rig.upstream(answering(ok()))
    service = {"balance": "round_robin"}
    route = {"attempt_timeout": "100ms", "timeout": "25s", "tell_deadline": True}
    client = rig.connect(rig.forward(stuck, good, service=service, route=route))
    for _ in range(3):
        assert client.request("GET", "/", (FIELD, "1")).status == 200
    first, second = times_left(stuck), times_left(good)
    assert first and second and len(second) == len(good.requests)
    assert all(20_000 < value <= 25_000 for value in first + second)
    assert min(second) <= 24_900  # after an attempt of 100 ms


def test_services_do_not_get_the_time_left_by_default(rig: Rig) -> None:
    good = rig.upstream(answering(ok()))
    assert rig.connect(rig.forward(good)).request("GET", "/", (FIELD, "1")).status == 200
    assert times_left(good) == []


@pytest.mark.parametrize("cached", [False, True])
def test_parts_have_both_settings(rig: Rig, cached: bool) -> None:
    stuck, good = frozen(rig), rig.upstream(answering(ok(b"1", JSON)))
    part = {"service": "u", "path": "/x", "timeout": "20s", **({"cache": {"ttl": "60s"}} if cached else {})}
    gateway = rig.gateway(
        {"u": {"targets": [stuck.url, good.url], "balance": "round_robin"}},
        [{"path": "/", "compose": {"a": part}, "attempt_timeout": "100ms", "timeout": "25s", "tell_deadline": True}],
    )
    client: Client = rig.connect(gateway)
    assert [client.request().body for _ in range(3)] == [b'{"a":1}'] * 3
    assert len(good.requests) == (1 if cached else 3)
    assert all(15_000 < value <= 20_000 for value in times_left(stuck) + times_left(good)) and times_left(good)
