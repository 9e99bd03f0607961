"""A connection to an instance is released in the state of a new one, or closed, however its exchange ended."""

from __future__ import annotations

import contextlib
import threading

import pytest

from tests.support.client import head
from tests.support.gateways import Rig
from tests.support.upstream import Connection, answering, ok
from tests.support.wire import wait_until

ROUTES = {"plain": {}, "cached": {"cache": {"ttl": "1m"}}, "compressing": {"compress": {}}}


def test_a_slow_reader_leaves_no_paused_connection_behind(rig: Rig) -> None:
    """If the last piece of a response pauses its connection, the next response must still be read.

    Kernel buffers for a client that does not read vary in size, so one of these sizes hits that case.
    """

    def script(conn: Connection) -> None:
        while True:
            conn.send(ok(b"x" * int(conn.read_request().target[1:])))

    gateway = rig.forward(rig.upstream(script), route={"timeout": "2s"})
    for size in range(200_000, 5_000_000, 150_000):
        slow = rig.connect(gateway, receive_buffer=4096)
        slow.send(head("GET", f"/{size}"))
        slow.until(b"\r\n\r\n")
        response = rig.connect(gateway).request("GET", "/5")
        assert (response.status, response.body) == (200, b"xxxxx"), size
        slow.close()


ENDINGS = {
    "Connection: close": (head("POST", "/", ("Connection", "close"), length=9) + b"x"),
    "HTTP/1.0": b"POST / HTTP/1.0\r\nHost: gw\r\nContent-Length: 9\r\n\r\nx",
    "chunked": head("POST", "/", ("Connection", "close"), ("Transfer-Encoding", "chunked")) + b"1\r\nx\r\n",
    "Expect": head("POST", "/", ("Expect", "100-continue"), length=9),
    "Expect, close": head("POST", "/", ("Expect", "100-continue"), ("Connection", "close"), length=9),
    "Upgrade": head("POST", "/", ("Connection", "upgrade, close"), ("Upgrade", "websocket"), length=9) + b"x",
}
EARLY = {
    "whole": b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno",
    "chunked": b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    "closing": b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
}


@pytest.mark.parametrize("early", EARLY)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("route", ROUTES)
def test_an_upload_that_is_answered_early_keeps_no_place(rig: Rig, route: str, ending: str, early: str) -> None:
    """The service keeps its side open: only the gateway can close the connection, and it must."""

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(EARLY[early])

    upstream = rig.upstream([script, script, answering(ok())])
    gateway = rig.forward(upstream, service={"max_connections": 2}, route=ROUTES[route])
    for _ in range(2):
        client = rig.connect(gateway)
        client.send(ENDINGS[ending])
        assert client.read_response("POST").status == 401
        client.assert_closed()
    upstream.wait_all_closed()
    assert rig.connect(gateway).request("GET", "/").status == 200


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("route", ROUTES)
def test_an_early_refusal_announces_the_end_of_the_connection(rig: Rig, route: str, pieces: int) -> None:
    """RFC 9112 §9.6: without ``Connection: close``, the client would send its next request on a closing connection."""
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_head()
        if pieces == 1:
            conn.send(EARLY["closing"])
        else:
            conn.send(EARLY["closing"][:-2])
            conn.wait(go)
            conn.send(EARLY["closing"][-2:])

    client = rig.connect(rig.forward(rig.upstream(script), route=ROUTES[route]))
    client.send(head("POST", "/", length=3_000_000) + b"x")
    assert b"\r\nConnection: close\r\n" in client.until(b"\r\n\r\n")
    go.set()
    client.until(b"no")
    client.assert_closed()


def test_an_upload_goes_on_after_the_service_that_answered_early_is_gone(rig: Rig) -> None:
    """The service stopped reading, so the client was paused; nothing but the end of the service resumes it."""
    leave = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(ok(b"early"))
        conn.wait(leave)
        conn.reset()

    upstream = rig.upstream([script, answering(ok(b"next"))])
    gateway = rig.forward(upstream, limits={"body": "64MiB", "body_timeout": "20s"})
    client = rig.connect(gateway)
    size = 32 * 1024 * 1024
    client.send(head("POST", "/", length=size))
    assert client.read_response("POST").body == b"early"
    sent: list[int] = []

    def upload() -> None:
        client.sock.settimeout(20)
        with contextlib.suppress(OSError):
            for _ in range(size // 65536):
                client.sock.sendall(b"x" * 65536)
                sent.append(65536)

    sender = threading.Thread(target=upload, daemon=True)
    sender.start()
    still = -1

    def stands() -> bool:
        nonlocal still
        before, still = still, len(sent)
        return before == still and still > 0

    wait_until(stands, "the upload is held back")
    leave.set()
    sender.join(15)
    assert sum(sent) == size, "the upload stands still"
    assert client.request("GET", "/").body == b"next"


def test_a_client_that_takes_nothing_of_a_response_that_was_cut_off_is_forgotten(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 6_000_000)
        conn.close()

    gateway = rig.forward(rig.upstream(script), limits={"write_timeout": "500ms"})
    client = rig.connect(gateway, receive_buffer=4096)
    client.send(head("GET", "/"))
    wait_until(lambda: gateway.snapshot()["connections"]["open"] == 1, "the client is there")
    wait_until(lambda: gateway.snapshot()["connections"]["open"] == 0, "the client is forgotten", 20)


@pytest.mark.parametrize("pipelined", [0, 100_000])
def test_a_silent_stream_is_ended_when_its_client_has_closed(rig: Rig, pipelined: int) -> None:
    """Without a write, the gateway cannot see whether the client still reads; pipelined data may hide its FIN."""

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, limits={"idle_timeout": "1s"})
    client = rig.connect(gateway)
    client.send(head("GET", "/", ("Accept", "text/event-stream")))
    client.until(b"data: 1\n\n")
    client.send(b"x" * pipelined)
    client.finish()
    upstream.wait_all_closed(12)
    wait_until(lambda: gateway.snapshot()["connections"]["open"] == 0, "the client is forgotten", 12)
