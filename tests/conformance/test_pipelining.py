"""Pipelined requests are answered in order, and a malformed one does not affect those before it (RFC 9112 §9.3.2)."""

from __future__ import annotations

import threading

import pytest

from tests.support.client import chunks, head
from tests.support.expect import closing, problem
from tests.support.gateways import Rig, settle
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import stays


def named(conn: Connection) -> None:
    while True:
        request = conn.read_request()
        conn.send(ok(request.target + b" " + request.body))


def test_three_requests_in_one_write_get_three_answers_in_order(rig: Rig) -> None:
    upstream = rig.upstream(named)
    client = rig.connect(rig.forward(upstream))
    client.send(
        head("GET", "/1")
        + head("POST", "/2", length=3)
        + b"abc"
        + head("POST", "/3", ("Transfer-Encoding", "chunked"))
        + chunks(b"de", b"f")
    )
    assert [client.read_response().body for _ in range(3)] == [b"/1 ", b"/2 abc", b"/3 def"]
    assert client.is_open()


def test_a_slow_first_answer_is_not_overtaken(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.target == b"/slow":
                conn.wait(go)
            conn.send(ok(request.target))

    upstream = rig.upstream(script)
    client = rig.connect(rig.forward(upstream))
    client.send(head("GET", "/slow") + head("GET", "/fast") + head("GET", "/fast2"))
    upstream.wait_requests(1)
    stays(lambda: not client.closed and client.is_open(), "something was answered before its turn")
    go.set()
    assert [client.read_response().body for _ in range(3)] == [b"/slow", b"/fast", b"/fast2"]


def test_the_gateways_own_answers_keep_the_order_too(rig: Rig) -> None:
    upstream = rig.upstream(named)
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/in", "service": "u", "methods": ["GET"]}])
    client = rig.connect(gateway)
    client.send(head("GET", "/out") + head("GET", "/in") + head("DELETE", "/in") + head("GET", "/in"))
    assert [client.read_response().status for _ in range(4)] == [404, 200, 405, 200]


def test_a_bad_request_in_the_middle_ends_the_connection_after_the_answers_before_it(rig: Rig) -> None:
    upstream = rig.upstream(named)
    client = rig.connect(rig.forward(upstream))
    client.send(
        head("GET", "/1") + head("GET", "/2") + b"GET /bad HTTP/1.1\r\nHost : gw\r\n\r\n" + head("GET", "/never")
    )
    assert [client.read_response().body for _ in range(2)] == [b"/1 ", b"/2 "]
    bad = client.read_response()
    problem(bad, 400)
    closing(bad)
    client.assert_closed()
    assert [r.target for r in upstream.heads] == [b"/1", b"/2"]


def test_connection_close_in_the_middle_ends_it_there(rig: Rig) -> None:
    upstream = rig.upstream(named)
    client = rig.connect(rig.forward(upstream))
    client.send(head("GET", "/1") + head("GET", "/2", ("Connection", "close")) + head("GET", "/never"))
    assert client.read_response().body == b"/1 "
    last = client.read_response()
    assert last.body == b"/2 "
    closing(last)
    client.assert_closed()
    assert [r.target for r in upstream.heads] == [b"/1", b"/2"]


def test_many_pipelined_requests_all_get_their_answer(rig: Rig) -> None:
    upstream = rig.upstream(named)
    client = rig.connect(rig.forward(upstream))
    sender = threading.Thread(target=client.send, args=tuple(head("GET", f"/{i}") for i in range(500)), daemon=True)
    sender.start()
    for i in range(500):
        assert client.read_response().body == b"/%d " % i
    sender.join(5)


def test_heads_among_gets_do_not_shift_the_answers(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            raw = ok(request.target)
            conn.send(raw[: raw.index(b"\r\n\r\n") + 4] if request.method == b"HEAD" else raw)

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(head("HEAD", "/1") + head("GET", "/2") + head("HEAD", "/3") + head("GET", "/4"))
    got = [client.read_response(method).body for method in ("HEAD", "GET", "HEAD", "GET")]
    assert got == [b"", b"/2", b"", b"/4"]


@pytest.mark.parametrize("step", [1, 3, 17])
def test_any_split_of_the_bytes_gives_the_same_answers(rig: Rig, step: int) -> None:
    upstream = rig.upstream(named)
    client = rig.connect(rig.forward(upstream))
    raw = (
        head("GET", "/1")
        + head("POST", "/2", length=5)
        + b"hello"
        + b"\r\n"  # RFC 9112 §2.2: an empty line before a request line is ignored
        + head("POST", "/3", ("Transfer-Encoding", "chunked"))
        + chunks(b"a", b"bc")
        + head("GET", "/4")
    )
    client.send(*(raw[i : i + step] for i in range(0, len(raw), step)))
    assert [client.read_response().body for _ in range(4)] == [b"/1 ", b"/2 hello", b"/3 abc", b"/4 "]


def test_an_upgrade_after_pipelined_requests_keeps_the_order(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            head_ = conn.read_head()
            if head_.all("upgrade"):
                conn.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
                conn.send(b"tunnel " + conn.exactly(4))
                return
            conn.send(ok(head_.target))

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(head("GET", "/1") + head("GET", "/2", ("Upgrade", "x"), ("Connection", "Upgrade")) + b"data")
    assert client.read_response().body == b"/1"
    assert client.read_response().status == 101
    assert client.exactly(11) == b"tunnel data"


def test_pipelined_requests_of_a_client_that_does_not_read_are_bounded(rig: Rig) -> None:
    """A client that writes requests and never reads must not fill the gateway with responses."""
    big = ok(b"x" * 100_000)

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(big)

    upstream: Upstream = rig.upstream(script)
    gateway = rig.forward(upstream)
    client = rig.connect(gateway, receive_buffer=65536)
    client.sock.settimeout(1)
    try:
        for _ in range(2000):
            client.sock.sendall(head("GET", "/") * 10)
    except TimeoutError:
        pass  # the gateway has stopped reading
    taken = -1
    while taken != len(upstream.requests):  # bounded: 2000 * 10 requests at most
        taken = len(upstream.requests)
        stays(lambda: True, "", 0.2)
    assert taken * 100_000 < 24 << 20, f"{taken} answers of 100 kB were made for a client that reads none"
    client.reset()
    settle(gateway)
