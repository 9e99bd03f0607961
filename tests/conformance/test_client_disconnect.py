"""When a client disconnects, everything held for it is released (RFC 9112 §9.5; the rest is policy)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.client import head
from tests.support.gateways import Rig, in_flight, settle
from tests.support.upstream import Connection, answering, ok
from tests.support.wire import DEADLINE, wait_until


def sleeps_unless_fast(conn: Connection) -> None:
    while True:
        if conn.read_request().target != b"/fast":
            return  # the harness reads until the gateway closes
        conn.send(ok(b"fast"))


def test_the_pool_is_free_again_after_clients_that_left_early(rig: Rig) -> None:
    """Eight clients share four connections: four wait for the pool, and all disconnect before any response.

    A client that closes with a FIN looks like one that half-closes and waits; only a RST shows that it is gone.
    """
    upstream = rig.upstream(sleeps_unless_fast)
    gateway = rig.forward(upstream, service={"max_connections": 4})
    clients = [rig.connect(gateway) for _ in range(8)]
    for client in clients[:4]:
        client.send(head("GET", "/slow"))
    upstream.wait_requests(4)
    for client in clients[4:]:
        client.send(head("GET", "/slow"))
    wait_until(lambda: in_flight(gateway) == 8, "eight in flight")
    # The waiters disconnect first; otherwise a released connection would rightly go to a waiter.
    for client in clients[4:]:
        client.reset()
    wait_until(lambda: in_flight(gateway) == 4, "four in flight")
    for client in clients[:4]:
        client.reset()
    upstream.wait_all_closed(within=2)
    settle(gateway)
    ninth = rig.connect(gateway)
    assert ninth.request("GET", "/fast", within=1).body == b"fast"
    assert [r.target for r in upstream.requests].count(b"/slow") == 4, "a request ran for a client that had left"


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_leaves_after_the_head_frees_the_upstream(rig: Rig, how: str) -> None:
    left = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbegin")
        conn.wait(left)
        if how == "close":  # only a write shows that such a client is gone
            conn.stream(bytes(1 << 20), 900)

    upstream = rig.upstream([script, answering(ok(b"next"))])
    gateway = rig.forward(upstream, service={"max_connections": 1})
    client = rig.connect(gateway)
    client.send(head())
    client.until(b"begin")
    client.reset() if how == "reset" else client.close()
    left.set()
    upstream.wait_all_closed(within=2)
    settle(gateway)
    assert rig.connect(gateway).request().body == b"next"


def endless(conn: Connection) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (50 << 20))
    conn.stream(bytes(1 << 20), 50)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_stops_reading_holds_bounded_memory_and_then_nothing(rig: Rig, how: str) -> None:
    upstream = rig.upstream(endless, send_buffer=65536)
    gateway = rig.forward(upstream)
    client = rig.connect(gateway, receive_buffer=65536)
    client.send(head())
    client.until(b"\r\n\r\n")
    conn = upstream.connections[0]
    sent = plateau(lambda: conn.sent)
    # The figure includes the kernel buffers of two hops; without backpressure it would be the whole 50 MiB.
    assert sent < 24 << 20, f"{sent} bytes were taken from the upstream for a client that reads nothing"
    client.reset() if how == "reset" else client.close()
    upstream.wait_all_closed(within=2)
    settle(gateway)


def plateau(value: Callable[[], int], quiet: float = 0.3) -> int:
    """Return the value once it has not changed for ``quiet`` seconds."""
    last, since, end = value(), time.monotonic(), time.monotonic() + 2 * DEADLINE
    while time.monotonic() - since < quiet:
        assert time.monotonic() < end, "it never stops growing"
        if (now := value()) != last:
            last, since = now, time.monotonic()
        time.sleep(0.01)
    return last


def test_a_slow_upstream_holds_back_the_client(rig: Rig) -> None:
    """Backpressure in the other direction: an upload to an upstream that does not read stops within bounded buffers."""
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_head()
        assert go.wait(3 * DEADLINE)
        conn.exactly(50 << 20, 20)
        conn.send(ok(b"done"))

    gateway = rig.forward(rig.upstream(script), limits={"body": "64MiB"})
    client = rig.connect(gateway)
    client.send(head("POST", "/", length=50 << 20))
    sent = 0

    def upload() -> None:
        nonlocal sent
        view = memoryview(bytes(50 << 20))
        client.sock.settimeout(30)
        while sent < len(view):
            sent += client.sock.send(view[sent : sent + 65536])

    sender = threading.Thread(target=upload, daemon=True)
    sender.start()
    # The kernel may grow its receive buffers to tens of MiB (tcp_rmem); those of the gateway are about 64 KiB.
    held = plateau(lambda: sent)
    assert held < 50 << 20, "the whole upload was taken while the upstream read nothing"
    go.set()
    assert client.read_response("POST", 20).body == b"done"
    sender.join(5)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HT", id="part of a line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: gw\r\nX: ", id="part of a head"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\nhello", id="part of a body"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", id="part of a chunk"
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", id="expecting"
        ),
    ],
)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_leaving_at_any_point_leaves_nothing_behind(rig: Rig, raw: bytes, how: str) -> None:
    def reads(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(b"fast"))

    upstream = rig.upstream(reads)
    gateway = rig.forward(upstream, service={"max_connections": 1})
    for _ in range(5):
        client = rig.connect(gateway)
        if raw:
            client.send(raw)
        client.reset() if how == "reset" else client.close()
    settle(gateway)
    assert rig.connect(gateway).request("GET", "/fast", within=2).body == b"fast"


def test_a_half_closed_client_still_gets_its_answer(rig: Rig) -> None:
    """shutdown(SHUT_WR) after the request is not a disconnect (nc and some HTTP libraries do this)."""
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.wait(go)
        conn.send(ok(b"late but whole"))

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(head())
    client.finish()
    threading.Timer(0.1, go.set).start()
    assert client.read_response().body == b"late but whole"
    client.assert_closed()


def test_a_half_closed_client_gets_all_its_pipelined_answers(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok(b"x")))))
    client.send(head("GET", "/1") + head("GET", "/2") + head("GET", "/3"))
    client.finish()
    assert [client.read_response().body for _ in range(3)] == [b"x"] * 3
    client.assert_closed()


def test_a_client_that_leaves_a_composition_stops_its_parts(rig: Rig) -> None:
    upstream = rig.upstream(sleeps_unless_fast)
    part: dict[str, str] = {"service": "u", "path": "/slow"}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [{"path": "/c", "compose": {"a": part, "b": part}}, {"path": "/fast", "service": "u"}],
    )
    client = rig.connect(gateway)
    client.send(head("GET", "/c"))
    upstream.wait_requests(2)
    client.reset()
    upstream.wait_all_closed(within=2)
    settle(gateway)
    assert rig.connect(gateway).request("GET", "/fast").body == b"fast"
