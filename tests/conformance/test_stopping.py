"""Shutdown completes requests in flight, accepts no new ones, and leaves nothing open (policy)."""

from __future__ import annotations

import threading
import time

from tests.support.client import head
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, answering, ok


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
