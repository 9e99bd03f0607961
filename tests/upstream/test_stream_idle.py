"""Idle streams and tunnels are ended, active ones are not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.client import Client, head
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Upstream
from tests.support.wire import stays, wait_until

LONG = 30.0  # the longest wait for an expected event, in seconds
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
EVENT = b"data: more\n\n"
UPGRADE = head("GET", "/tunnel", ("Upgrade", "websocket"), ("Connection", "Upgrade"))
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def begins(rig: Rig, first: bytes) -> Upstream:
    """Return an instance that responds to each request with ``first``; the test sends the rest."""

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(first)

    return rig.upstream(script)


def gateway_of(rig: Rig, upstream: Upstream, **limits: str) -> Running:
    """Return a gateway: ``/off`` without limits, ``/default`` with the defaults, other paths with ``limits``."""
    off = {"stream_idle_timeout": "off", "tunnel_idle_timeout": "off"}
    routes: list[dict[str, Any]] = [
        {"path": "/off", "service": "u", **off},
        {"path": "/default", "service": "u"},
        {"path": "/{rest*}", "service": "u", **limits},
    ]
    return rig.gateway({"u": {"targets": [upstream.url], "eject": "off"}}, routes)


def opened(rig: Rig, gateway: Running, upstream: Upstream, request: bytes, until: bytes) -> tuple[Client, Connection]:
    """Return a client that has received the beginning, and its connection at the instance."""
    before = len(upstream.connections)
    client = rig.connect(gateway)
    client.send(request)
    client.until(until, LONG)
    return client, upstream.connections[before]


def stream(rig: Rig, gateway: Running, upstream: Upstream, path: str = "/stream") -> tuple[Client, Connection]:
    return opened(rig, gateway, upstream, head("GET", path), b"data: 1\n\n")


def tunnel(rig: Rig, gateway: Running, upstream: Upstream, path: str = "/tunnel") -> tuple[Client, Connection]:
    return opened(rig, gateway, upstream, UPGRADE.replace(b"/tunnel", path.encode()), b"\r\n\r\n")


def in_flight(gateway: Running) -> int:
    found: int = gateway.snapshot()["services"]["u"]["in_flight"]
    return found


class Repeat:
    """Calls ``call`` repeatedly until the end of the ``with``."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._call()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(LONG)


def test_an_idle_stream_is_truncated_and_settled(rig: Rig) -> None:
    upstream = begins(rig, STREAM)
    gateway = gateway_of(rig, upstream, stream_idle_timeout="200ms")
    client, instance = stream(rig, gateway, upstream)
    rest = client.rest(LONG)
    assert client.closed and b"0\r\n\r\n" not in rest  # the client can detect the truncation
    assert instance.gone.wait(LONG)
    settle(gateway, LONG)
    found = gateway.snapshot()
    assert found["services"]["u"]["in_flight"] == 0
    assert found["services"]["u"]["failures"] == {"timeout": 1}
    assert found["routes"]["/{rest*}"]["failures"] == {"timeout": 1}


@pytest.mark.slow
def test_an_active_stream_continues(rig: Rig) -> None:
    """It outlasts idle streams, and so do idle streams on routes without the limit."""
    upstream = begins(rig, STREAM)
    gateway = gateway_of(rig, upstream, stream_idle_timeout="1s")
    lasting, instance = stream(rig, gateway, upstream)
    unlimited, silent = stream(rig, gateway, upstream, "/off")
    default, _ = stream(rig, gateway, upstream, "/default")
    with Repeat(lambda: instance.send(EVENT)):
        for _ in range(2):
            assert stream(rig, gateway, upstream)[0].wait_closed(LONG)
    assert unlimited.buffer + default.buffer == bytearray(b"\r\n" * 2)  # the ends of their first chunks
    instance.send(b"data: the last\n\n")
    lasting.until(b"data: the last\n\n", LONG)
    silent.send(EVENT)
    unlimited.until(EVENT, LONG)
    assert in_flight(gateway) == 3
    for client in (lasting, unlimited, default):
        client.reset()
    settle(gateway, LONG)
    assert in_flight(gateway) == 0


def test_a_stream_is_not_ended_while_the_client_does_not_read(rig: Rig) -> None:
    piece, times = b"x" * 65536, 400

    def script(conn: Connection) -> None:
        request = conn.read_request()
        if request.target == b"/large":
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * times))
            conn.stream(piece, times)
        else:
            conn.send(STREAM)

    upstream = rig.upstream(script)
    gateway = gateway_of(rig, upstream, stream_idle_timeout="300ms")
    client = gateway.connect(receive_buffer=4096)
    rig.clients.append(client)
    client.send(head("GET", "/large"))
    client.until(b"\r\n\r\n", LONG)
    for _ in range(3):  # long enough for other streams to be ended, one after the other
        assert stream(rig, gateway, upstream)[0].wait_closed(LONG)
    client.exactly(len(piece) * times, LONG)
    settle(gateway, LONG)


def test_a_silent_tunnel_is_closed_on_both_sides(rig: Rig) -> None:
    upstream = begins(rig, SWITCH)
    gateway = gateway_of(rig, upstream, tunnel_idle_timeout="200ms")
    client, instance = tunnel(rig, gateway, upstream)
    assert client.wait_closed(LONG)
    assert instance.gone.wait(LONG)
    settle(gateway, LONG)
    found = gateway.snapshot()
    assert found["services"]["u"]["in_flight"] == 0
    assert found["routes"]["/{rest*}"]["failures"] == {"tunnel_idle": 1}
    assert found["routes"]["/{rest*}"]["codes"] == {"GET": {"101": 1}}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["client", "instance"])
def test_a_tunnel_with_one_active_side_continues(rig: Rig, side: str) -> None:
    upstream = begins(rig, SWITCH)
    gateway = gateway_of(rig, upstream, tunnel_idle_timeout="1s")
    client, instance = tunnel(rig, gateway, upstream)
    unlimited, _ = tunnel(rig, gateway, upstream, "/off")
    default, _ = tunnel(rig, gateway, upstream, "/default")
    with Repeat(lambda: (client if side == "client" else instance).send(b"ping")):
        for _ in range(2):
            assert tunnel(rig, gateway, upstream)[0].wait_closed(LONG)
    assert unlimited.is_open() and default.is_open() and not instance.gone.is_set()
    assert in_flight(gateway) == 3
    client.send(b"last")
    wait_until(lambda: instance.received.endswith(b"last"), "the tunnel still works", LONG)
    for each in (client, unlimited, default):
        each.reset()
    settle(gateway, LONG)
    assert in_flight(gateway) == 0


def test_tunnels_keep_their_limit_over_a_reload(rig: Rig) -> None:
    upstream = begins(rig, SWITCH)
    gateway = gateway_of(rig, upstream)
    client, _ = tunnel(rig, gateway, upstream)
    services = {"u": {"targets": [upstream.url], "eject": "off"}}
    gateway.reload(services, [{"path": "/{rest*}", "service": "u", "tunnel_idle_timeout": "200ms"}])
    assert tunnel(rig, gateway, upstream)[0].wait_closed(LONG)
    stays(client.is_open, "the older tunnel is open")
