"""Bytes that follow a response never reach another client (RFC 9112 §6.3, §9.2)."""

from __future__ import annotations

import threading

import pytest

from tests.support.gateways import Rig
from tests.support.upstream import Connection, answering, ok, once
from tests.support.wire import wait_until

SURPLUS = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsurplus!"

FIRST = {
    "204 and a second response": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n" + SURPLUS),
    "304 and a second response": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n' + SURPLUS),
    "empty 200 and a second response": ("GET", ok(b"") + SURPLUS),
    "empty 200 and junk": ("GET", ok(b"") + b"junk junk junk"),
    "200 and a second response": ("GET", ok(b"first") + SURPLUS),
    "200 and one byte": ("GET", ok(b"first") + b"\n"),
    "200 and an empty line": ("GET", ok(b"first") + b"\r\n"),
    "chunked and a second response": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SURPLUS,
    ),
    "a body to HEAD": ("HEAD", ok(b"first")),
    "a chunked body to HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n"),
    "a 204 with a body": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nfirst"),
    "a 304 with a body": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nfirst"),
    "a late 408": ("GET", ok(b"first") + b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"),
    "a late 1xx": ("GET", ok(b"first") + b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
}


@pytest.mark.parametrize("name", FIRST)
def test_surplus_in_the_same_write_is_thrown_away_with_its_connection(rig: Rig, name: str) -> None:
    method, raw = FIRST[name]
    upstream = rig.upstream([once(raw), answering(ok(b"right"))])
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    response = client.request(method, "/first")
    assert response.status in (200, 204, 304)
    assert response.body in (b"", b"first")
    assert client.is_open() or method == "GET"
    assert rig.connect(gateway).request("GET", "/ok").body == b"right"
    assert client.request("GET", "/ok").body == b"right"
    assert len(upstream.connections) == 2
    assert upstream.connections[0].gone.wait(5)


@pytest.mark.parametrize("name", FIRST)
def test_surplus_a_moment_later_is_thrown_away_too(rig: Rig, name: str) -> None:
    method, raw = FIRST[name]
    cut = raw.index(b"\r\n\r\n") + 4
    if b"chunked" in raw[:cut] and method != "HEAD":
        cut = raw.index(b"0\r\n\r\n") + 5
    elif raw[cut:].startswith(b"first") and method == "GET" and b" 200 " in raw[:cut]:
        cut += 5
    answered = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(raw[:cut])
        conn.wait(answered)
        conn.send(raw[cut:])

    upstream = rig.upstream([script, answering(ok(b"right"))])
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    assert client.request(method, "/first").status in (200, 204, 304)
    answered.set()
    assert upstream.connections[0].gone.wait(5), "the connection with unasked bytes stays open"
    assert client.is_open()
    assert client.request("GET", "/ok").body == b"right"
    assert rig.connect(gateway).request("GET", "/ok").body == b"right"


@pytest.mark.parametrize(
    "raw", [b"junk on idle", SURPLUS, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"\0"]
)
def test_unsolicited_bytes_that_race_with_the_next_request_never_answer_it(rig: Rig, raw: bytes) -> None:
    """The unsolicited bytes and the next request are written at the same moment, many times."""
    for _ in range(20):
        go = threading.Event()

        def script(conn: Connection, go: threading.Event = go) -> None:
            conn.read_request()
            conn.send(ok(b"first"))
            conn.wait(go)
            conn.send(raw)

        upstream = rig.upstream([script, answering(ok(b"right"))])
        client = rig.connect(rig.forward(upstream))
        assert client.request("GET", "/first").body == b"first"
        go.set()
        response = client.request("GET", "/ok")
        # Bytes that arrive after the request was written cannot be distinguished from its response, unless they are
        # malformed.
        if raw is not SURPLUS and b"408" not in raw:
            assert response.status == 200 and response.body == b"right"
        assert response.status in (200, 408, 502)


def test_a_connection_that_the_upstream_ends_with_connection_close_is_not_pooled(rig: Rig) -> None:
    upstream = rig.upstream([once(ok(b"first", b"Connection: close")), answering(ok(b"right"))])
    client = rig.connect(rig.forward(upstream))
    first = client.request("GET", "/")
    assert first.body == b"first" and b"close" not in first.all("connection")
    assert client.request("GET", "/").body == b"right"
    assert len(upstream.connections) == 2
    assert upstream.connections[0].gone.wait(5)


def test_an_http_1_0_upstream_is_not_pooled(rig: Rig) -> None:
    upstream = rig.upstream([once(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst"), answering(ok(b"right"))])
    client = rig.connect(rig.forward(upstream))
    assert client.request("GET", "/").body == b"first"
    assert client.request("GET", "/").body == b"right"
    assert len(upstream.connections) == 2


def test_a_response_before_any_request_is_never_given_to_a_client(rig: Rig) -> None:
    """An upstream that sends first, as in other protocols, affects only that connection."""

    def talks_first(conn: Connection) -> None:
        conn.send(b"220 mail.example ESMTP\r\n")

    upstream = rig.upstream([talks_first, answering(ok(b"right"))])
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    first = client.request("GET", "/")
    assert first.status in (200, 502)
    wait_until(lambda: client.request("GET", "/").body == b"right")


def test_an_exchange_keeps_its_order_over_many_requests_on_one_upstream_connection(rig: Rig) -> None:
    def numbered(conn: Connection) -> None:
        while True:
            conn.send(ok(conn.read_request().target))

    upstream = rig.upstream(numbered)
    gateway = rig.forward(upstream)
    a, b = rig.connect(gateway), rig.connect(gateway)
    for i in range(50):
        assert a.request("GET", f"/a{i}").body == b"/a%d" % i
        assert b.request("GET", f"/b{i}").body == b"/b%d" % i
    assert len(upstream.connections) == 1
