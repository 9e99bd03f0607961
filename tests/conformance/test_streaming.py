"""Data reaches the client when the upstream writes it, even byte by byte (latency is policy)."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.client import head
from tests.support.gateways import Rig
from tests.support.upstream import Connection, answering, ok

HEADS = {
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\n",
}
EVENT = b"data: 0123456789abc\n\n"


@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize("accept", ["gzip", None])
def test_the_head_and_each_event_arrive_when_they_are_written(rig: Rig, framing: str, accept: str | None) -> None:
    turns = [threading.Event() for _ in range(5)]

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(HEADS[framing])
        for turn in turns:
            conn.wait(turn)
            conn.send(b"%x\r\n%b\r\n" % (len(EVENT), EVENT) if framing == "chunked" else EVENT[:20])
        if framing == "chunked":
            conn.send(b"0\r\n\r\n")
        conn.close()

    client = rig.connect(rig.forward(rig.upstream(script), limits={"idle_timeout": "100ms"}))
    client.send(head("GET", "/", *([("Accept-Encoding", accept)] if accept else [])))
    client.until(b"\r\n\r\n", 1)  # before any event was written
    size = 0
    for turn in turns:
        assert not client.buffer
        begin = time.monotonic()
        turn.set()
        event = EVENT if framing == "chunked" else EVENT[:20]
        client.until(event, 1)
        assert time.monotonic() - begin < 0.5
        size += len(event)
        if client.buffer == b"\r\n" or framing != "length":
            client.buffer.clear()  # the end of a chunk
    assert size == len(turns) * len(event)


def test_one_event_split_over_two_chunks_is_not_held_back(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(HEADS["chunked"] + b"6\r\ndata: \r\n")
        conn.wait(go)
        conn.send(b"3\r\na\n\n\r\n0\r\n\r\n")

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(head())
    client.until(b"data: ", 1)
    go.set()
    client.until(b"a\n\n", 1)


def test_a_chunk_is_passed_on_before_it_is_whole(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(HEADS["chunked"] + b"3e8\r\nbegin")
        conn.wait(go)
        conn.send(b"x" * 995 + b"\r\n0\r\n\r\n")

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(head())
    client.until(b"begin", 1)
    go.set()
    client.until(b"0\r\n\r\n", 1)


def test_an_upload_is_passed_on_as_it_comes(rig: Rig) -> None:
    seen: list[bytes] = []

    def script(conn: Connection) -> None:
        conn.read_head()
        for _ in range(3):
            seen.append(conn.until(b"|"))
        conn.send(ok(b"done"))

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(head("POST", "/", length=30))
    for i in range(3):
        client.send(b"part %d   |" % i)
        deadline = time.monotonic() + 1
        while len(seen) <= i:
            assert time.monotonic() < deadline, "the upload is held back"
            time.sleep(0.002)
    assert client.read_response("POST").body == b"done"


def test_1xx_responses_are_relayed_when_they_come(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        conn.wait(go)
        conn.send(b"HTTP/1.1 102 Processing\r\n\r\n" + ok(b"done"))

    upstream = rig.upstream([script, answering(ok(b"next"))])
    client = rig.connect(rig.forward(upstream))
    client.send(head())
    hint = client.read_response(stop_at_100=True)
    assert hint.status == 103 and hint.get("link") == b"</style.css>; rel=preload"
    go.set()
    response = client.read_response()
    assert response.body == b"done" and [i.status for i in response.interim] == [102]
    assert client.is_open()


def test_endless_1xx_responses_end_in_a_502_or_at_the_deadline(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        for _ in range(100_000):
            conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 20)

    client = rig.connect(rig.forward(rig.upstream(script), route={"timeout": "1s", "attempts": 1}))
    client.send(head("POST", "/", length=0))
    response = client.read_response("POST", within=10)
    assert response.status in (502, 504)


def test_trailers_are_dropped_both_ways(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        request = conn.read_request()
        assert request.body == b"hello" and not request.trailers
        conn.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 99\r\n\r\n"
        )
        assert conn.read_request().method == b"GET"
        conn.send(ok(b"next"))

    upstream = rig.upstream(script)
    client = rig.connect(rig.forward(upstream))
    client.send(head("POST", "/", ("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")))
    client.send(b"5;ext=1\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
    response = client.read_response()
    assert response.body == b"hello" and not response.trailers
    assert not response.all("x-sum") and not response.all("trailer")
    assert client.request("GET", "/").body == b"next"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_bodies_of_any_size_pass_whole(rig: Rig, size: int, framing: str) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)

    def script(conn: Connection) -> None:
        assert conn.read_request().body == body
        if framing == "length":
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
        elif framing == "chunked":
            conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for i in range(0, size, 7919):
                piece = body[i : i + 7919]
                conn.send(b"%X\r\n%b\r\n" % (len(piece), piece))
            conn.send(b"0\r\n\r\n")
        else:
            conn.send(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            conn.close()

    client = rig.connect(rig.forward(rig.upstream(script)))
    assert client.request("POST", "/", body=body).body == body
