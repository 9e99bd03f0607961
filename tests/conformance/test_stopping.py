"""Shutdown completes requests in flight, accepts no new ones, and leaves nothing open (policy)."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.client import Client, head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, answering, ok

LONG = 20.0


def new_request(gateway: Running) -> int:
    """Return the status of a request on a new connection, 0 if there is none."""
    try:
        client = gateway.connect()
    except OSError:
        return 0
    with client:
        client.send(head())
        return client.rest_or_response()


def test_a_request_in_flight_is_finished_and_its_connection_closed(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.wait(go)
        conn.send(ok(b"late"))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream)
    busy, idle = rig.connect(gateway), rig.connect(gateway)
    busy.send(head())
    upstream.wait_requests(1)
    stopping = threading.Thread(target=gateway.stop, args=(5.0,), daemon=True)
    stopping.start()
    idle.assert_closed()
    assert new_request(gateway) in (0, 503)
    go.set()
    response = busy.read_response()
    assert response.body == b"late"
    busy.assert_closed()
    busy.close()
    stopping.join(5)
    assert not stopping.is_alive()
    upstream.wait_all_closed()


def test_what_does_not_end_in_time_is_cut(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    client.send(head())
    client.until(b"begin")
    begin = time.monotonic()
    gateway.stop(0.2)
    assert time.monotonic() - begin < 2
    client.wait_closed()
    upstream.wait_all_closed()


def test_idle_connections_do_not_hold_it_up(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    clients = [rig.connect(gateway) for _ in range(5)]
    assert [c.request().status for c in clients[:3]] == [200] * 3
    begin = time.monotonic()
    gateway.stop(5.0)
    assert time.monotonic() - begin < 2
    for client in clients:
        client.wait_closed()
    upstream.wait_all_closed()


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))


def stop(gateway: Running, grace: float) -> threading.Thread:
    thread = threading.Thread(target=gateway.stop, args=(grace,), daemon=True)
    thread.start()
    return thread


def tunnel(rig: Rig, *sent: bytes) -> tuple[Running, Client, Upstream]:
    """Open a WebSocket whose service sends ``sent`` and then what the client sends first (its reply to a Close)."""

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH, *sent)
        conn.fill(time.monotonic() + LONG)

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    client.send(head("GET", "/", *UPGRADE))
    client.until(b"\r\n\r\n")
    for part in sent:
        assert client.exactly(len(part)) == part
    return gateway, client, upstream


def test_a_websocket_gets_a_close_frame_and_its_reply_reaches_the_service(rig: Rig) -> None:
    gateway, client, upstream = tunnel(rig, b"\x82\x03abc", b"\x81\x7e\x01\x00" + b"x" * 256)
    stopping = stop(gateway, 1.0)
    assert client.exactly(4) == b"\x88\x02\x03\xe9"  # 1001, going away
    reply = b"\x88\x82mask\x6e\x88"
    client.send(reply)
    client.assert_closed()
    stopping.join(LONG)
    assert bytes(upstream.connections[0].received).endswith(reply)


@pytest.mark.parametrize("sent", [b"\x82\x05abc", b"\x82", b"\x82\x7e\x01", b"\x88\x02\x03\xe8"])
def test_a_websocket_within_a_frame_or_after_a_close_gets_nothing(rig: Rig, sent: bytes) -> None:
    gateway, client, _ = tunnel(rig, sent)
    stopping = stop(gateway, 0.4)
    client.assert_closed()
    stopping.join(LONG)


def test_another_protocol_gets_nothing(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH.replace(b"websocket", b"other"))
        conn.wait_closed()

    client = rig.connect(gateway := rig.forward(rig.upstream(script)))
    client.send(head("GET", "/", ("Upgrade", "other"), ("Connection", "Upgrade")))
    client.until(b"\r\n\r\n")
    stopping = stop(gateway, 0.4)
    client.assert_closed()
    stopping.join(LONG)


@pytest.mark.parametrize(
    ("media_type", "ended"), [(b"text/event-stream; charset=utf-8", True), (b"text/plain", False), (b"", False)]
)
def test_an_event_stream_ends_with_its_last_chunk_and_anything_else_is_cut(
    rig: Rig, media_type: bytes, ended: bool
) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        kind = b"Content-Type: " + media_type + b"\r\n" if media_type else b""
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + kind + b"\r\n9\r\ndata: 1\n\n\r\n")
        conn.wait_closed()

    client = rig.connect(gateway := rig.forward(rig.upstream(script)))
    client.send(head())
    client.until(b"data: 1\n\n\r\n")
    stopping = stop(gateway, 0.4)
    assert client.rest() == (b"0\r\n\r\n" if ended else b"")
    stopping.join(LONG)
