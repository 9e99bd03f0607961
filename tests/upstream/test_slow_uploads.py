"""The time in which a client sends its body is the client's: no limit, breaker or health check counts it."""

from __future__ import annotations

import threading

import pytest

from tests.support.client import Client, head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Script, Upstream, answering, ok
from tests.support.wire import stays, wait_until

SHORT = {"timeout": "300ms"}
LONG = 20.0
PAUSE = 0.1
PIECES = 8
"""So many pieces take longer than twice the time limit."""


def begin(client: Client, size: int, method: str = "POST", target: str = "/") -> None:
    client.send(head(method, target, length=size))


def drip(clients: list[Client], pieces: int = PIECES) -> None:
    """Send ``pieces`` bytes of each body, one every :data:`PAUSE` seconds."""
    pace = threading.Event()
    for _ in range(pieces):
        for client in clients:
            client.send(b"x")
        pace.wait(PAUSE)


def statuses(gateway: Running) -> list[str]:
    found = gateway._loop.call(gateway.gateway.status)["u"]
    return [instance["status"] for instance in found]


def service(gateway: Running) -> dict[str, object]:
    found: dict[str, object] = gateway.snapshot()["services"]["u"]
    return found


def frozen(rig: Rig) -> Upstream:
    """Return an instance that reads requests and never responds."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()

    return rig.upstream(script)


def closing_on_slow_bodies(conn: Connection) -> None:
    """Close the connection 1.2 s after the head, as servers do that limit the time of a body."""
    conn.read_head()
    threading.Event().wait(1.2)
    conn.close()


def test_a_steady_upload_may_take_longer_than_the_timeout(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"whole")))
    client = rig.connect(rig.forward(upstream, route=SHORT))
    begin(client, PIECES)
    drip([client])
    assert client.read_response("POST", LONG).body == b"whole"
    assert [r.body for r in upstream.requests] == [b"x" * PIECES]


def test_a_chunked_upload_may_take_longer_than_the_timeout(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok(b"whole"))), route=SHORT))
    client.send(head("POST", "/", ("Transfer-Encoding", "chunked")))
    pace = threading.Event()
    for _ in range(PIECES):
        client.send(b"1\r\nx\r\n")
        pace.wait(PAUSE)
    client.send(b"0\r\n\r\n")
    assert client.read_response("POST", LONG).body == b"whole"


@pytest.mark.parametrize(
    "settings",
    [{"eject": {"failures": 1}}, {"breaker": {"minimum": 1}}, {"eject": {"failures": 1}, "breaker": {"minimum": 1}}],
    ids=["ejection", "breaker", "both"],
)
def test_slow_uploads_neither_eject_an_instance_nor_open_the_breaker(rig: Rig, settings: dict[str, object]) -> None:
    gateway = rig.forward(*(rig.upstream(answering(ok())) for _ in range(4)), route=SHORT, service=settings)
    clients = [rig.connect(gateway) for _ in range(12)]
    for client in clients:
        begin(client, PIECES)
    drip(clients)
    assert {client.read_response("POST", LONG).status for client in clients} == {200}
    assert set(statuses(gateway)) == {"up"}
    assert rig.connect(gateway).request(within=LONG).status == 200


def test_an_upload_that_stalls_is_the_fault_of_the_client(rig: Rig) -> None:
    gateway = rig.forward(
        *(rig.upstream(answering(ok())) for _ in range(2)),
        route=SHORT,
        service={"eject": {"failures": 1}, "breaker": {"minimum": 1}},
        limits={"body_timeout": "1s"},
    )
    client = rig.connect(gateway)
    begin(client, 100)
    problem(client.read_response("POST", LONG), 408)
    settle(gateway)
    assert set(statuses(gateway)) == {"up"}
    assert service(gateway)["breaker"] == {"closed": 1}
    assert "timeout" not in service(gateway)["failures"]  # type: ignore[operator]


def test_the_time_of_the_service_begins_when_the_request_is_complete(rig: Rig) -> None:
    gateway = rig.forward(
        *(frozen(rig) for _ in range(2)), route={**SHORT, "attempts": 1}, service={"eject": {"failures": 1}}
    )
    client = rig.connect(gateway)
    begin(client, PIECES)
    drip([client], PIECES - 1)
    stays(client.is_open, "no response before the body is complete")
    client.send(b"x")
    problem(client.read_response("POST", LONG), 504)
    wait_until(lambda: "ejected" in statuses(gateway), "the instance is ejected: it had the whole request")


def test_a_service_that_does_not_read_the_body_has_failed(rig: Rig) -> None:
    """The client could send more: the service is the slow side."""
    failed = threading.Event()

    def deaf(conn: Connection) -> None:
        conn.read_head()
        conn.wait(failed)

    gateway = rig.forward(
        *(rig.upstream(deaf) for _ in range(2)),
        route=SHORT,
        service={"eject": {"failures": 1}},
        limits={"body": "1GiB"},
    )
    client = rig.connect(gateway)
    begin(client, 1 << 29)

    def send() -> None:
        try:
            while not failed.is_set():
                client.sock.sendall(bytes(1 << 20))
        except OSError:
            pass

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        wait_until(lambda: "ejected" in statuses(gateway), "the instance is ejected", LONG)
    finally:
        failed.set()
        client.sock.close()
        thread.join(LONG)


@pytest.mark.parametrize("settings", [{}, {"breaker": {"minimum": 1}}], ids=["plain", "breaker"])
def test_a_service_that_closes_on_a_slow_client_has_not_failed(rig: Rig, settings: dict[str, object]) -> None:
    gateway = rig.forward(
        *(rig.upstream([closing_on_slow_bodies, answering(ok())]) for _ in range(2)),
        service={"eject": {"failures": 1}, **settings},
    )
    clients = [rig.connect(gateway) for _ in range(2)]
    for client in clients:
        begin(client, 100)
    drip(clients, 14)
    for client in clients:
        problem(client.read_response("POST", LONG), 502)
    assert set(statuses(gateway)) == {"up"}
    assert rig.connect(gateway).request(within=LONG).status == 200


def test_a_piece_that_meets_a_closed_connection_does_not_blame_the_service(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop sees the piece before it sees the end of the connection."""
    monkeypatch.setattr("passerelle.upstream.request_body.PATIENCE", PAUSE)
    closing, closed, held, go = (threading.Event() for _ in range(4))

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.wait(closing)
        conn.close()
        closed.set()

    def hold() -> None:
        held.set()
        go.wait(LONG)

    gateway = rig.forward(*(rig.upstream(script) for _ in range(2)), service={"eject": {"failures": 1}})
    client = rig.connect(gateway)
    begin(client, 100)
    drip([client], 3)
    gateway._loop.loop.call_soon_threadsafe(hold)
    assert held.wait(LONG)
    client.send(b"x")
    closing.set()
    assert closed.wait(LONG)
    go.set()
    problem(client.read_response("POST", LONG), 502)
    assert set(statuses(gateway)) == {"up"}


def test_an_early_response_to_a_slow_upload_is_a_fast_response(rig: Rig) -> None:
    """The balancer, the metrics and the log get the time after the last byte of the client."""

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.exactly(PIECES, 30)
        conn.send(ok(b"early"))

    gateway = rig.forward(rig.upstream(script))
    client = rig.connect(gateway)
    begin(client, 1000)
    drip([client])
    assert client.read_response("POST", LONG).body == b"early"
    assert gateway.snapshot()["services"]["u"]["sum"] < PAUSE * PIECES / 2


def test_the_latency_of_a_service_does_not_include_the_upload(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(answering(ok())))
    client = rig.connect(gateway)
    begin(client, PIECES)
    drip([client])
    assert client.read_response("POST", LONG).status == 200
    assert gateway.snapshot()["services"]["u"]["sum"] < PAUSE * PIECES / 2


def test_uploads_take_no_place_under_the_concurrency_limit(rig: Rig) -> None:
    limit = {"concurrency": {"min": 1, "max": 2, "initial": 1}, "max_waiting": 1}
    gateway = rig.forward(rig.upstream(answering(ok())), service=limit)
    slow = [rig.connect(gateway) for _ in range(10)]
    for number, client in enumerate(slow, 1):
        begin(client, 2)
        client.send(b"x")
        wait_until(lambda n=number: service(gateway)["in_flight"] == n, "the upload has begun", LONG)  # type: ignore[misc]
    assert service(gateway)["concurrency"] == {"limit": 1, "running": 0, "waiting": 0}
    other = rig.connect(gateway)
    for _ in range(5):
        assert other.request(within=LONG).status == 200
    for client in slow:
        client.send(b"x")
    assert {client.read_response("POST", LONG).status for client in slow} == {200}
    settle(gateway)
    assert service(gateway)["concurrency"] == {"limit": 1, "running": 0, "waiting": 0}


@pytest.mark.parametrize("end", ["reset", "early", "stall"])
def test_an_upload_that_ends_otherwise_returns_no_place_twice(rig: Rig, end: str) -> None:
    def early(conn: Connection) -> None:
        conn.read_head()
        conn.exactly(1, 30)
        conn.send(ok())

    gateway = rig.forward(
        rig.upstream([early, answering(ok())] if end == "early" else answering(ok())),
        service={"concurrency": {"min": 1, "max": 2, "initial": 1}},
        limits={"body_timeout": "1s"},
    )
    client = rig.connect(gateway)
    begin(client, 100)
    client.send(b"x")
    if end == "reset":
        wait_until(lambda: service(gateway)["in_flight"] == 1, "the upload has begun", LONG)
        client.reset()
    else:
        assert client.read_response("POST", LONG).status == (200 if end == "early" else 408)
    settle(gateway, LONG)
    running = service(gateway)["concurrency"]
    assert isinstance(running, dict) and (running["running"], running["waiting"]) == (0, 0)
    assert rig.connect(gateway).request(within=LONG).status == 200


def half_open(rig: Rig, recovered: Script) -> Running:
    """Return a gateway whose breaker is open, and half-open at the next request; the instance works again."""
    failing = answering(b"HTTP/1.1 500 Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    gateway = rig.forward(
        rig.upstream([failing, recovered]),
        service={"breaker": {"minimum": 1, "probes": 1, "open": "100ms"}, "eject": "off"},
    )
    assert rig.connect(gateway).request().status == 500
    assert service(gateway)["breaker"] == {"open": 1}
    threading.Event().wait(0.15)
    return gateway


def test_a_slow_upload_is_no_probe_of_a_half_open_breaker(rig: Rig) -> None:
    gateway = half_open(rig, answering(ok()))
    client, other = rig.connect(gateway), rig.connect(gateway)
    begin(client, 1000)
    wait_until(lambda: service(gateway)["breaker"] == {"half_open": 1}, "the upload is the probe")
    problem(other.request(), 503)
    wait_until(lambda: other.request().status == 200, "another request takes its place", LONG)
    assert service(gateway)["breaker"] == {"closed": 1}


def test_a_stream_that_has_begun_closes_a_half_open_breaker(rig: Rig) -> None:
    def stream(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.target == b"/stream":
                conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
                conn.rest(60)
                return
            conn.send(ok())

    gateway = half_open(rig, stream)
    client = rig.connect(gateway)
    client.send(head("GET", "/stream"))
    client.until(b"hi")
    assert service(gateway)["breaker"] == {"closed": 1}
    assert rig.connect(gateway).request(within=LONG).status == 200
