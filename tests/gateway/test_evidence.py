"""The evidence of a gateway: what requests wait for, Server-Timing of services, and why responses are not stored."""

from __future__ import annotations

import threading
from typing import Any

from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection
from tests.support.wire import wait_until

GET = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"


def live(rig: Rig, gateway: Running) -> dict[str, Any]:
    return rig.loop.call(lambda: gateway.gateway.live(full=True))


def respond(*fields: bytes) -> Any:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%b\r\nok" % b"".join(field + b"\r\n" for field in fields)

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(head)

    return script


def test_requests_in_flight_and_waiting_for_a_connection_are_integrated(rig: Rig) -> None:
    release = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    gateway = rig.forward(rig.upstream(script), service={"max_connections": 1})
    clients = [rig.connect(gateway) for _ in range(2)]
    for client in clients:
        client.send(GET)

    def counters() -> dict[str, float]:
        found: dict[str, float] = live(rig, gateway)["instances"]["u"]["u-1"]
        return found

    wait_until(lambda: counters()["queued"] > 0.1, "a request that waits for a connection")
    found = counters()
    assert found["occupied"] >= found["queued"] + 0.1 - 1e-6
    assert found["connecting"] <= found["occupied"]
    release.set()
    for client in clients:
        assert client.read_response().status == 200
    wait_until(lambda: live(rig, gateway)["services"]["u"]["requests"] == 2, "both attempts")
    # Little's law: the integral of the requests in flight is the sum of their times, up to one sample for each.
    assert abs(counters()["occupied"] - counters()["seconds"]) < 0.35 + 0.2 * counters()["seconds"]


def test_bodies_in_flight_are_integrated(rig: Rig) -> None:
    release = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        conn.wait(release)
        conn.send(b"k")

    gateway = rig.forward(rig.upstream(script))
    client = rig.connect(gateway)
    client.send(GET)
    wait_until(lambda: live(rig, gateway)["services"]["u"]["streaming"] > 0.1, "a body in flight")
    release.set()
    assert client.read_response().body == b"ok"


def test_the_server_timing_of_services_is_sampled(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(respond(b"Server-Timing: db;dur=3000, app;dur=1")))
    client = rig.connect(gateway)
    for _ in range(5):
        client.send(GET)
        response = client.read_response()
        assert response.get("server-timing") == b"db;dur=3000, app;dur=1"

    def sampled() -> dict[str, Any]:
        client.send(GET)
        client.read_response()
        found: dict[str, Any] = live(rig, gateway)["services"]["u"]["timings"]
        return found

    wait_until(lambda: sampled()["responses"] > 0, "a sample")
    found = sampled()
    assert found["parts"]["db"] == 3.0 * found["responses"]
    assert 0 < found["seconds"] < 3.0 * found["responses"]
    assert found["responses"] < live(rig, gateway)["services"]["u"]["requests"]


def test_reasons_why_responses_are_not_stored(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(respond(b"Vary: *")), route={"cache": {"ttl": "1m"}})
    client = rig.connect(gateway)
    for _ in range(3):
        client.send(GET)
        assert client.read_response().status == 200
    wait_until(lambda: live(rig, gateway)["routes"]["/{rest*}"]["requests"] == 3, "three requests")
    assert live(rig, gateway)["routes"]["/{rest*}"]["not_stored"] == {"vary": 3}
    assert gateway.snapshot()["routes"]["/{rest*}"]["not_stored"] == {"vary": 3}


def test_clients_that_read_too_slowly_are_counted_until_they_leave(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        conn.stream(bytes(1 << 16), 760)

    gateway = rig.forward(rig.upstream(script))
    client = rig.connect(gateway, receive_buffer=4096)
    client.send(GET)
    wait_until(lambda: live(rig, gateway)["process"]["paused"] > 0.1, "a client that does not read")
    client.close()
    wait_until(lambda: gateway.gateway._listener.paused == 0, "the end of the connection")
    before = live(rig, gateway)["process"]["paused"]
    rig.loop.call(lambda: gateway.gateway._sample_occupancy(1.0))
    assert live(rig, gateway)["process"]["paused"] == before


def test_each_instance_has_its_attempts_and_its_failures_by_kind(rig: Rig) -> None:
    def failing(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    def closing(conn: Connection) -> None:
        conn.read_request()
        conn.close()

    upstreams = [rig.upstream(script) for script in (respond(), failing, closing)]
    gateway = rig.forward(*upstreams, service={"balance": "round_robin", "eject": "off"}, route={"attempts": 1})
    client = rig.connect(gateway)
    statuses = [client.request("GET", "/a").status for _ in range(30)]
    assert sorted(set(statuses)) == [200, 502, 503]
    listed = gateway.snapshot()["instances"]["u"]["listed"]
    assert [listed[f"u-{number}"]["requests"] for number in (1, 2, 3)] == [10, 10, 10]
    assert [listed[f"u-{number}"]["failures"] for number in (1, 2, 3)] == [
        {},
        {"server_error": 10},
        {"upstream_closed": 10},
    ]
    gateway.set_instances("u", upstreams[0])

    def of_last() -> dict[str, Any]:
        found: dict[str, Any] = gateway.snapshot()["instances"]["u"]["listed"]["u-3"]
        return found

    wait_until(lambda: "states" not in of_last(), "the sweep that releases what is gone")
    assert of_last()["failures"] == {"upstream_closed": 10}
