"""A protocol switch loses no byte in either direction, whenever it arrives (RFC 9110 §7.8, RFC 6455 §4)."""

from __future__ import annotations

import base64
import hashlib
import os
import threading

import pytest

from tests.support.client import head
from tests.support.expect import problem
from tests.support.gateways import Rig, in_flight
from tests.support.upstream import Connection, answering, ok
from tests.support.wire import wait_until

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
UPGRADE = head(
    "GET",
    "/ws",
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Key", KEY),
    ("Sec-WebSocket-Version", "13"),
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + ACCEPT
    + b"\r\n\r\n"
)
FRAME = b"\x81\x85\x01\x02\x03\x04" + bytes(b ^ (i % 4 + 1) for i, b in enumerate(b"hello"))


def echoing(conn: Connection) -> None:
    conn.read_head()
    conn.send(SWITCH)
    echo_bytes(conn)


def echo_bytes(conn: Connection) -> None:
    while True:
        if not conn.buffer and not conn.fill(10**9):
            return
        conn.send(conn.take(len(conn.buffer)))


def switched(client) -> None:  # type: ignore[no-untyped-def]
    response = client.read_response()
    assert response.status == 101
    assert response.get("upgrade") == b"websocket"
    assert [o.strip().lower() for o in (response.get("connection") or b"").split(b",")] == [b"upgrade"]
    assert response.get("sec-websocket-accept") == ACCEPT


def test_the_upgrade_reaches_the_upstream_as_one(rig: Rig) -> None:
    upstream = rig.upstream(echoing)
    client = rig.connect(rig.forward(upstream))
    client.send(UPGRADE)
    switched(client)
    (request,) = upstream.heads
    assert request.get("upgrade") == b"websocket"
    assert request.get("connection").lower() == b"upgrade"  # type: ignore[union-attr]
    assert request.get("sec-websocket-key") == KEY.encode()
    assert request.get("x-forwarded-for") == b"127.0.0.1"
    client.send(FRAME)
    assert client.exactly(len(FRAME)) == FRAME


def test_a_frame_in_the_same_write_as_the_request_arrives(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(echoing)))
    client.send(UPGRADE + FRAME)
    switched(client)
    assert client.exactly(len(FRAME)) == FRAME


@pytest.mark.parametrize("route", [{"cache": {}}, {"cache": {}, "compress": {}}], ids=["cached", "compressed"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_tunnel_on_a_cached_route(rig: Rig, method: bytes, route: dict[str, object]) -> None:
    gateway = rig.forward(rig.upstream(echoing), route=route)
    client = rig.connect(gateway)
    client.send(UPGRADE.replace(b"GET", method) + FRAME)
    switched(client)
    assert client.exactly(len(FRAME)) == FRAME
    assert in_flight(gateway) == 1
    client.send(FRAME * 10_000)
    assert client.exactly(len(FRAME) * 10_000) == FRAME * 10_000
    client.finish()
    client.assert_closed()
    wait_until(lambda: in_flight(gateway) == 0, "in-flight back to 0")


@pytest.mark.parametrize("size", [1, 125, 65536, 1 << 20])
def test_bytes_in_the_same_write_as_the_101_arrive(rig: Rig, size: int) -> None:
    data = os.urandom(size)

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH + data)
        echo_bytes(conn)

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(UPGRADE)
    switched(client)
    assert client.exactly(size) == data
    client.send(FRAME)
    assert client.exactly(len(FRAME)) == FRAME


def test_a_101_split_byte_by_byte_arrives(rig: Rig) -> None:
    raw = SWITCH + FRAME

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(*(raw[i : i + 1] for i in range(len(raw))))
        echo_bytes(conn)

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(UPGRADE)
    switched(client)
    assert client.exactly(len(FRAME)) == FRAME


def test_a_request_split_byte_by_byte_arrives(rig: Rig) -> None:
    raw = UPGRADE + FRAME
    client = rig.connect(rig.forward(rig.upstream(echoing)))
    client.send(*(raw[i : i + 1] for i in range(len(raw))))
    switched(client)
    assert client.exactly(len(FRAME)) == FRAME


def test_much_data_both_ways_at_once_stays_in_order(rig: Rig) -> None:
    data = os.urandom(1 << 20) * 8
    client = rig.connect(rig.forward(rig.upstream(echoing)))
    client.send(UPGRADE)
    switched(client)
    sender = threading.Thread(target=lambda: client.sock.sendall(data), daemon=True)
    sender.start()
    assert client.exactly(len(data), 20) == data
    sender.join(5)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 426])
def test_a_refused_upgrade_is_an_ordinary_response(rig: Rig, status: int) -> None:
    upstream = rig.upstream(answering(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nno" % status))
    client = rig.connect(rig.forward(upstream))
    client.send(UPGRADE)
    response = client.read_response()
    assert (response.status, response.body) == (status, b"no")
    if b"close" not in response.all("connection"):
        assert client.request("GET", "/").body == b"no"


def test_a_request_smuggled_after_a_refused_upgrade_is_an_ordinary_request(rig: Rig) -> None:
    """The bytes after a refused upgrade are HTTP again: they are routed, never passed through."""
    upstream = rig.upstream(answering(b"HTTP/1.1 426 X\r\nContent-Length: 0\r\n\r\n"))
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/ws", "service": "u"}])
    client = rig.connect(gateway)
    client.send(UPGRADE + head("GET", "/closed"))
    assert client.read_response().status == 426
    rest = client.read_response() if client.buffer or not client.closed else None
    if rest is not None:
        problem(rest, 404)
    assert [r.target for r in upstream.heads] == [b"/ws"]


def test_an_unsolicited_101_is_a_502(rig: Rig) -> None:
    upstream = rig.upstream([lambda c: (c.read_request(), c.send(SWITCH))[1], answering(ok(b"next"))])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("POST", "/", body=b"x"), 502)
    assert client.request("GET", "/").body == b"next"


@pytest.mark.parametrize(
    "switch",
    [
        SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        SWITCH.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
        SWITCH.replace(b"Upgrade: websocket", b"Upgrade: "),
        SWITCH.replace(b"Connection: Upgrade\r\n", b""),
        SWITCH.replace(b"Connection: Upgrade", b"Connection: keep-alive"),
    ],
)
def test_a_101_for_another_protocol_or_without_its_connection_option_is_a_502(rig: Rig, switch: bytes) -> None:
    upstream = rig.upstream([lambda c: (c.read_head(), c.send(switch))[1], answering(ok(b"next"))])
    gateway = rig.forward(upstream, route={"attempts": 1})
    client = rig.connect(gateway)
    client.send(UPGRADE)
    problem(client.read_response(), 502)
    assert rig.connect(gateway).request("GET", "/").body == b"next"


def test_a_101_names_one_of_the_requested_protocols_in_any_case(rig: Rig) -> None:
    upstream = rig.upstream(lambda c: (c.read_head(), c.send(SWITCH.replace(b"websocket", b"WebSocket")))[1])
    client = rig.connect(rig.forward(upstream))
    client.send(UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: chat/2, websocket"))
    assert client.read_response().get("upgrade") == b"WebSocket"


def test_an_upgrade_in_http_1_0_is_ignored(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    for version in (b"1.0", b"1.1", b"1.0"):
        client.send(UPGRADE.replace(b"HTTP/1.1", b"HTTP/" + version))
        assert client.read_response().status == 200
    assert ["upgrade" in request.names() for request in upstream.requests] == [False, True, False]


def test_an_expectation_in_http_1_0_is_ignored(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(b"POST / HTTP/1.0\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
    assert client.read_response().status == 200
    assert upstream.requests[0].body == b"hello" and "expect" not in upstream.requests[0].names()


def test_an_upgrade_with_a_body_is_an_ordinary_request(rig: Rig) -> None:
    """A body and a tunnel would share one byte stream, which each hop might split differently."""
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    fields = ("Upgrade", "websocket"), ("Connection", "Upgrade")
    assert client.request("POST", "/", *fields, body=b"hello").status == 200
    assert upstream.requests[0].body == b"hello"
    assert "upgrade" not in upstream.requests[0].names()


def test_upgrade_without_the_connection_option_is_not_an_upgrade(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    assert client.request("GET", "/", ("Upgrade", "websocket")).status == 200
    assert "upgrade" not in upstream.requests[0].names()


@pytest.mark.parametrize("token", ["h2c", "H2C", "h2c, websocket", "HTTP/2.0", "TLS/1.0, HTTP/1.1"])
def test_h2c_is_never_passed_on(rig: Rig, token: str) -> None:
    """h2c would open a tunnel past every check of the gateway."""
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    fields = ("Upgrade", token), ("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")
    response = client.request("GET", "/", *fields)
    assert response.status == 200
    for value in upstream.requests[0].all("upgrade"):
        assert b"h2" not in value.lower() and b"http" not in value.lower()


@pytest.mark.parametrize("side", ["client", "upstream"])
@pytest.mark.parametrize("how", ["eof", "reset"])
def test_the_end_of_one_side_ends_the_other_and_the_counters_return(rig: Rig, side: str, how: str) -> None:
    leave = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH)
        assert conn.exactly(len(FRAME)) == FRAME
        conn.send(FRAME)
        if side == "upstream":
            conn.wait(leave)
            conn.reset() if how == "reset" else conn.close()

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    client.send(UPGRADE)
    switched(client)
    client.send(FRAME)
    assert client.exactly(len(FRAME)) == FRAME
    assert in_flight(gateway) == 1
    if side == "client":
        client.reset() if how == "reset" else client.close()
    else:
        leave.set()
        client.assert_closed()
        client.close()  # as clients do; until then, the tunnel is half open
    upstream.wait_all_closed()
    wait_until(lambda: in_flight(gateway) == 0, "in-flight back to 0")


def test_a_half_closed_tunnel_still_delivers_the_other_direction(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH)
        got = conn.rest()
        conn.send(b"got %d" % len(got))
        conn.close()

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(UPGRADE)
    switched(client)
    client.send(b"x" * 1000)
    client.finish()
    assert client.rest() == b"got 1000"


def test_an_upgraded_connection_has_no_idle_timeout_of_http(rig: Rig) -> None:
    client = rig.connect(
        rig.forward(
            rig.upstream(echoing),
            limits={"idle_timeout": "100ms", "head_timeout": "100ms", "body_timeout": "100ms"},
            route={"timeout": "200ms"},
        )
    )
    client.send(UPGRADE)
    switched(client)
    quiet = threading.Event()
    quiet.wait(0.4)  # idle for longer than every HTTP timeout
    client.send(FRAME)
    assert client.exactly(len(FRAME)) == FRAME
