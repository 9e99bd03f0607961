"""Clients that send or read as slowly as possible: each is limited in time, and others do not wait for them."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.client import Client, head
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Script, answering, ok
from tests.support.wire import wait_until

LONG = 30.0
"""Seconds that a test waits for an expected event: needed only on a busy machine."""
SLOW = 100
SIZE = 24 << 20


def open_clients(gateway: Running) -> int:
    """Return the number of client connections of the gateway."""
    return int(gateway.snapshot()["connections"]["open"])


def test_clients_that_drip_their_heads_are_closed_in_time_while_others_are_served(rig: Rig) -> None:
    gateway = rig.forward(rig.upstream(answering(ok())), limits={"head_timeout": "500ms"})
    slow = [rig.connect(gateway) for _ in range(SLOW)]
    for client in slow:
        client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n")
    stop = threading.Event()

    def drip() -> None:
        left = list(slow)
        while left and not stop.wait(0.05):
            for client in list(left):
                try:
                    client.sock.sendall(b"X: y\r\n")
                except OSError:
                    left.remove(client)

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        with gateway.connect() as other:
            for _ in range(20):
                assert other.request(within=LONG).status == 200
        for client in slow:
            assert client.wait_closed(LONG)
            assert bytes(client.received).startswith(b"HTTP/1.1 408 ")
    finally:
        stop.set()
        thread.join(LONG)


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_clients_that_never_send_their_bodies_are_closed_in_time(rig: Rig, framing: str) -> None:
    gateway = rig.forward(rig.upstream(answering(ok())), limits={"body_timeout": "500ms"})
    slow = [rig.connect(gateway) for _ in range(20)]
    for client in slow:
        client.send(f"POST / HTTP/1.1\r\nHost: gw\r\n{framing}\r\n\r\n".encode())
    with gateway.connect() as other:
        assert other.request(within=LONG).status == 200
    for client in slow:
        assert client.read_response("POST", LONG).status == 408
        client.assert_closed(LONG)


def large(size: int) -> Script:
    """Respond with ``size`` bytes, as long as they are read."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            conn.stream(bytes(1 << 16), size >> 16)

    return script


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("limits", [{"write_timeout": "500ms"}, {"write_timeout": "500ms", "idle_timeout": "500ms"}])
def test_a_client_that_takes_nothing_is_cut_off(rig: Rig, connection: str, limits: dict[str, str]) -> None:
    """Whether the gateway still receives data from the upstream, or holds the end of the response itself."""
    gateway = rig.forward(rig.upstream(large(SIZE)), limits=limits)
    client = rig.connect(gateway, receive_buffer=4096)
    client.send(head("GET", "/", ("Connection", connection)))
    wait_until(lambda: open_clients(gateway) == 1, "the client is there", LONG)
    wait_until(lambda: open_clients(gateway) == 0, "the client is cut off", LONG)


def test_a_client_that_reads_slowly_and_steadily_is_served(rig: Rig) -> None:
    """The kernel accepts more only when a third of its buffer is free, which takes longer than the time limit."""
    gateway = rig.forward(rig.upstream(large(SIZE)), limits={"write_timeout": "1s"})
    client = rig.connect(gateway, receive_buffer=65536)
    client.send(head())
    pace, read = threading.Event(), 0
    for _ in range(40):
        read += len(client.sock.recv(16384))
        pace.wait(0.1)
    while read < SIZE:
        piece = client.sock.recv(1 << 20)
        assert piece, f"closed after {read} bytes"
        read += len(piece)


def cached(rig: Rig, **limits: str) -> Running:
    """Start a gateway that sends a complete stored body at once."""
    upstream = rig.upstream(answering(ok(bytes(SIZE), b"Cache-Control: max-age=600")))
    gateway = rig.forward(upstream, route={"cache": {"max_body": "32MiB"}}, limits=limits, cache={"memory": "1GiB"})
    with gateway.connect() as first:
        assert len(first.request(within=LONG).body) == SIZE
    return gateway


def unsent(rig: Rig, gateway: Running) -> int:
    """Return the bytes that the gateway holds for its one client, beyond those taken by the kernel."""
    connections = gateway.gateway._listener.connections
    return rig.loop.call(lambda: sum(c._transport.get_write_buffer_size() for c in connections))


def test_a_client_that_sends_requests_and_reads_no_response_is_cut_off(rig: Rig) -> None:
    """The pending data is small, so the upstream is not paused. A plain close would wait for the client forever."""
    upstream = rig.upstream(answering(ok(bytes(8192))))
    gateway = rig.forward(upstream, limits={"write_timeout": "500ms", "idle_timeout": "500ms"})
    client = rig.connect(gateway, receive_buffer=4096)
    for count in range(1, 10_000):
        client.send(head())
        upstream.wait_requests(count, LONG)
        settle(gateway, LONG)
        if unsent(rig, gateway):
            break
    wait_until(lambda: open_clients(gateway) == 0, "the client is cut off", LONG)


@pytest.mark.slow
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_client_that_reads_slowly_gets_all_of_it(rig: Rig, connection: str) -> None:
    """The transfer takes longer than the limits for idle and closing connections, but it progresses all the time."""
    gateway = cached(rig, idle_timeout="500ms")
    with Client(gateway.port, receive_buffer=65536) as client:
        client.send(head("GET", "/", ("Connection", connection)))
        client.until(b"\r\n\r\n", LONG)
        got = len(client.buffer)
        begin = time.monotonic()
        while got < SIZE:
            client.sock.settimeout(LONG)
            data = client.sock.recv(1 << 16)
            assert data, f"cut short after {got} of {SIZE} bytes"
            got += len(data)
            # The rate of a slow line: this is under test, not a wait for an event.
            time.sleep(max(0.0, begin + 6.0 * got / SIZE - time.monotonic()))
