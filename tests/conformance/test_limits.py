"""Limits of heads, targets, bodies, times and connections, each with its status (RFC 9110 §15.5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.client import Client, chunks, head
from tests.support.expect import closing, problem, refused
from tests.support.gateways import Rig, Running, in_flight
from tests.support.upstream import Connection, answering, echo, ok
from tests.support.wire import wait_until


def test_a_head_of_32_kib_passes_and_a_longer_one_is_a_431(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    bare = len(head("GET", "/", ("X", "")))
    client = rig.connect(gateway)
    assert client.request("GET", "/", ("X", "x" * (32 * 1024 - bare - 64))).status == 200
    refused(client, head("GET", "/", ("X", "x" * 32 * 1024)), 431)
    refused(rig.connect(gateway), head("GET", "/", *((f"X{i}", "x" * 1000) for i in range(40))), 431)
    assert len(upstream.heads) == 1


def test_a_head_that_never_ends_is_a_431_too(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok()))))
    refused(client, b"GET / HTTP/1.1\r\nHost: gw\r\nX: " + b"x" * 40_000, 431)


def test_a_hundred_fields_pass_and_one_more_is_a_431(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    assert client.request("GET", "/", *((f"X{i}", "x") for i in range(99))).status == 200  # plus Host
    refused(client, head("GET", "/", *((f"X{i}", "x") for i in range(100))), 431)
    assert len(upstream.heads) == 1


def test_smaller_limits_are_obeyed(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(answering(ok())), limits={"head": "1KiB", "headers": 5})
    refused(rig.connect(gateway), head("GET", "/", ("X", "x" * 1024)), 431)
    refused(rig.connect(gateway), head("GET", "/", *((f"X{i}", "x") for i in range(5))), 431)


@pytest.mark.parametrize("size", [32 * 1024, 100_000])
def test_a_target_too_long_is_a_414(rig: Rig, size: int) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    refused(client, b"GET /" + b"x" * size + b" HTTP/1.1\r\nHost: gw\r\n\r\n", 414)
    assert not upstream.heads


def test_a_target_of_8000_octets_passes(rig: Rig) -> None:
    """RFC 9112 §3: at least 8000 octets."""
    upstream = rig.upstream(answering(ok()))
    target = "/" + "x" * 7999
    assert rig.connect(rig.forward(upstream)).request("GET", target).status == 200
    assert upstream.requests[0].target == target.encode()


@pytest.mark.parametrize("limits", [{"route": {"body": "1KiB"}}, {"limits": {"body": "1KiB"}}])
def test_a_body_over_the_limit_is_a_413_by_its_length_and_by_its_chunks(rig: Rig, limits: dict) -> None:  # type: ignore[type-arg]
    upstream = rig.upstream(echo)
    gateway = rig.forward(upstream, **limits)
    client = rig.connect(gateway)
    assert client.request("POST", "/fits", body=b"x" * 1024).body == b"x" * 1024
    client.send(head("POST", "/fits", ("Transfer-Encoding", "chunked")) + chunks(b"x" * 1000, b"y" * 24))
    assert len(client.read_response().body) == 1024
    client.send(head("POST", "/over", length=1025) + b"x" * 1025)
    response = client.read_response("POST")
    problem(response, 413)
    chunked = rig.connect(gateway)
    chunked.send(head("POST", "/over", ("Transfer-Encoding", "chunked")) + chunks(b"x" * 1000, b"y" * 25))
    response = chunked.read_response("POST")
    problem(response, 413)
    closing(response)
    chunked.assert_closed()
    assert [r.target for r in upstream.requests] == [b"/fits", b"/fits"]


def test_a_length_over_the_limit_is_refused_before_any_of_the_body(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(echo)))
    client.send(head("POST", "/", length=10 * 1024 * 1024 + 1))
    problem(client.read_response("POST"), 413)


def test_a_routes_limit_may_be_larger_than_the_default(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(echo), limits={"body": "1KiB"}, route={"body": "1MiB"}))
    assert len(client.request("POST", "/", body=b"x" * 100_000).body) == 100_000


def test_endless_chunk_extensions_and_trailers_are_refused(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(echo))
    start = head("POST", "/", ("Transfer-Encoding", "chunked"))
    refused(rig.connect(gateway), start + b"5;" + b"x" * 20_000, 400, 413, 431)
    refused(rig.connect(gateway), start + b"0\r\n" + b"X: y\r\n" * 10_000, 400, 413, 431)


def test_extensions_of_many_chunks_are_refused_together(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(echo))
    start = head("POST", "/", ("Transfer-Encoding", "chunked"))
    refused(rig.connect(gateway), start + (b"1;" + b"x" * 1000 + b"\r\nx\r\n") * 20, 400)


def test_extensions_of_many_chunks_truncate_a_response(rig: Rig) -> None:
    first_read = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        conn.wait(first_read)
        conn.send((b"1;" + b"x" * 1000 + b"\r\nx\r\n") * 20 + b"0\r\n\r\n")
        conn.wait_closed()

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(head())
    client.until(b"\r\n\r\n1\r\nx\r\n")
    first_read.set()
    assert not client.rest().endswith(b"0\r\n\r\n")


def test_tiny_chunks_cost_no_more_than_their_bytes(rig: Rig) -> None:
    """One byte per chunk is legal; such a body must pass, with memory bounded by its payload."""
    body = b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"
    client = rig.connect(rig.forward(rig.upstream(echo)))
    client.send(head("POST", "/", ("Transfer-Encoding", "chunked")) + body)
    assert client.read_response().body == b"x" * 50_000


QUICK = {"head_timeout": "200ms", "idle_timeout": "300ms", "body_timeout": "200ms"}


@pytest.mark.parametrize("raw", [b"GET", b"GET / HTTP/1.1\r\nHost: gw\r\n", b"\r\n"])
def test_a_head_that_takes_too_long_is_a_408_and_a_close(rig: Rig, raw: bytes) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok())), limits=QUICK))
    client.send(raw)
    problem(client.read_response(within=3), 408)
    client.assert_closed(3)


@contextmanager
def dripping(client: Client, piece: bytes) -> Iterator[None]:
    """Send ``piece`` from ``client`` every 50 ms for as long as possible."""
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            try:
                client.sock.sendall(piece)
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def test_a_head_that_drips_is_bounded_as_a_whole(rig: Rig) -> None:
    """Single bytes must not extend the deadline (slowloris)."""
    client = rig.connect(rig.forward(rig.upstream(answering(ok())), limits={"head_timeout": "300ms"}))
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\nX: ")
    with dripping(client, b"x"):
        assert client.wait_closed(3)
    assert bytes(client.received).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("framing", "piece"), [("Content-Length: 100000", b"x"), ("Transfer-Encoding: chunked", b"1\r\nx\r\n")]
)
def test_a_body_that_drips_needs_a_least_rate(rig: Rig, framing: str, piece: bytes) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream, limits={"body_timeout": "300ms", "body_rate": "1KB"})
    client = rig.connect(gateway)
    client.send(f"POST / HTTP/1.1\r\nHost: gw\r\n{framing}\r\n\r\n".encode())
    with dripping(client, piece):
        assert client.wait_closed(10)
    assert bytes(client.received).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("rate", ["100B", "0B"])
def test_a_body_that_comes_at_the_least_rate_takes_as_long_as_it_takes(rig: Rig, rate: str) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream, limits={"body_timeout": "1s", "body_rate": rate}))
    client.send(b"POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"200\r\n" + b"x" * 0x200 + b"\r\n" if rate != "0B" else b"1\r\nx\r\n"
    with dripping(client, piece):
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 2.5, "two windows")
    client.send(b"0\r\n\r\n")
    assert client.read_response().status == 200


@contextmanager
def unread_upload(rig: Rig, **limits: str) -> Iterator[Running]:
    """Send a large body to a service that reads nothing while this block is open, and then responds."""
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.wait(go)
        conn.read_request()
        conn.send(ok(b"late"))

    gateway = rig.forward(rig.upstream(script), limits={"body": "unlimited", **limits})
    client = rig.connect(gateway)
    body = b"x" * (32 << 20)
    client.send(head("POST", "/", ("Content-Length", str(len(body)))))
    sent = threading.Thread(target=client.sock.sendall, args=(body,), daemon=True)
    sent.start()
    yield gateway
    go.set()
    sent.join(20)
    assert client.read_response(within=20).body == b"late"


def test_a_client_is_not_timed_out_while_the_service_does_not_read(rig: Rig) -> None:
    """The service does not read: the gateway stops reading, and the client cannot send."""
    with unread_upload(rig, body_timeout="1s"):
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 2.5, "two windows")


def test_the_body_timeout_restarts_when_reading_resumes(rig: Rig) -> None:
    """A timeout check right after a long pause, before the next byte is read, ends nothing."""
    with unread_upload(rig) as gateway:
        listener = gateway.gateway._listener

        def look() -> bool | None:
            """Return whether the rest of the body is still awaited; None while it is read."""
            (connection,) = listener.connections
            if not connection._paused_by:
                return None
            now = listener.clock.now
            for later in (1000, 2000):
                connection.check_time(now + later)
            connection._resume(connection._paused_by)
            connection.check_time(now + 2001)
            return connection._decoder is not None

        looks: list[bool | None] = []
        wait_until(lambda: looks.append(rig.loop.call(look)) or looks[-1] is not None, "a pause", 20)
        assert looks[-1]


def test_a_second_head_that_takes_too_long_is_bounded_too(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok())), limits=QUICK))
    assert client.request().status == 200
    client.send(b"GET / HTTP/1.1\r\nHo")
    problem(client.read_response(within=3), 408)
    client.assert_closed(3)


def test_an_idle_connection_is_closed_without_a_response(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(answering(ok())), limits=QUICK)
    client = rig.connect(gateway)
    assert client.request().status == 200
    client.assert_closed(3)
    silent = rig.connect(gateway)
    assert silent.wait_closed(3) == "eof"


def test_a_connection_in_use_is_not_idle(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.wait(go)
        conn.send(ok(b"late"))

    client = rig.connect(rig.forward(rig.upstream(script), limits=QUICK))
    client.send(head())
    threading.Timer(0.6, go.set).start()
    assert client.read_response().body == b"late"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_stalls_is_a_408_and_frees_the_upstream(rig: Rig, chunked: bool) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream, limits=QUICK))
    if chunked:
        client.send(head("POST", "/", ("Transfer-Encoding", "chunked")) + b"5\r\nhel")
    else:
        client.send(head("POST", "/", length=10) + b"hello")
    response = client.read_response("POST", within=3)
    problem(response, 408)
    closing(response)
    client.assert_closed(3)
    upstream.wait_all_closed(3)
    assert not upstream.requests


def test_connections_over_the_cap_are_turned_away_and_the_others_go_on(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(answering(ok())), limits={"connections": 3})
    first = [rig.connect(gateway) for _ in range(3)]
    assert [c.request().status for c in first] == [200] * 3
    over = rig.connect(gateway)
    answer = over.rest(3)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
    assert [c.request().status for c in first] == [200] * 3
    first[0].close()

    def room_again() -> bool:
        with gateway.connect() as client:
            client.send(head())
            return client.rest_or_response() == 200

    wait_until(room_again, "room for a new connection")


def test_a_full_service_answers_503_with_retry_after_at_once(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.wait(go)
            conn.send(ok())

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, service={"max_connections": 1, "max_waiting": 1})
    busy, waiting, over = (rig.connect(gateway) for _ in range(3))
    busy.send(head())
    upstream.wait_requests(1)
    waiting.send(head())
    wait_until(lambda: in_flight(gateway) == 2, "two in flight")
    response = over.request("GET", "/", within=2)
    problem(response, 503)
    assert response.get("retry-after")
    go.set()
    assert busy.read_response().status == 200
    assert waiting.read_response().status == 200
