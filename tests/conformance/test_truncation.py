"""A response that is truncated upstream is truncated for the client, too (RFC 9112 §8)."""

from __future__ import annotations

import contextlib
import threading

import pytest

from tests.support.expect import problem
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Script, answering, ok, once
from tests.support.wire import Closed

CHUNKED = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\n"

CUT = {
    "5 bytes of 10": LENGTH + b"hello",
    "none of 10": LENGTH,
    "no last chunk": CHUNKED + b"5\r\nhello\r\n",
    "inside a chunk": CHUNKED + b"5\r\nhel",
    "inside a size": CHUNKED + b"5\r\nhello\r\n1",
    "between size and data": CHUNKED + b"5\r\n",
    "last chunk without the last CRLF": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "last chunk with half of the last CRLF": CHUNKED + b"5\r\nhello\r\n0\r\n\r",
    "inside the trailers": CHUNKED + b"5\r\nhello\r\n0\r\nX-T: 1\r\n",
    "chunked, headers only": CHUNKED,
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_cut_response_never_looks_whole(rig: Rig, name: str, how: str, method: str) -> None:
    upstream = rig.upstream([once(CUT[name], how), answering(ok(b"whole"))])
    gateway = rig.forward(upstream, route={"attempts": 1})
    client = rig.connect(gateway)
    client.send(f"{method} / HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n".encode())
    with contextlib.suppress(Closed):  # how a strict reader sees a truncated message
        problem(client.read_response(method), 502)
    if b" 502 " not in client.received[:20]:
        assert client.wait_closed() in ("eof", "reset")
        assert not client.received.endswith(b"0\r\n\r\n")
    with gateway.connect() as other:
        assert other.request("GET", "/").body == b"whole"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("raw", [b"", b"HTTP", b"HTTP/1.1 200 OK\r\n", LENGTH[:-2], b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_cut_head_is_a_502(rig: Rig, raw: bytes, how: str) -> None:
    upstream = rig.upstream([once(raw, how), answering(ok(b"whole"))])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("POST", "/", body=b"x"), 502)
    assert client.request("GET", "/").body == b"whole"


def reset_after(raw: bytes, seen: threading.Event) -> Script:
    """Respond with ``raw``, and reset the connection when the client has ``seen`` it."""

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(raw)
        conn.wait(seen)
        conn.reset()

    return script


@pytest.mark.parametrize("raw", [UNTIL_CLOSE, UNTIL_CLOSE + b"hello"])
def test_a_close_delimited_response_ended_by_a_reset_is_cut_short(rig: Rig, raw: bytes) -> None:
    seen = threading.Event()
    upstream = rig.upstream([reset_after(raw, seen), answering(ok(b"whole"))])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
    client.until(b"\r\n\r\n")
    seen.set()
    client.rest()
    assert b"\r\n0\r\n\r\n" not in client.received, "a chunked message was ended properly"
    assert b"content-length: 0\r\n" not in client.received.lower()


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_a_close_delimited_response_ended_by_a_close_is_whole(rig: Rig, body: bytes) -> None:
    upstream = rig.upstream([once(UNTIL_CLOSE + body, "close"), answering(ok(b"next"))])
    client = rig.connect(rig.forward(upstream))
    response = client.request("GET", "/")
    assert response.body == body and response.framing in ("chunked", "close", "length")
    if response.framing != "close":
        assert client.request("GET", "/").body == b"next"


@pytest.mark.parametrize("coding", [b"identity", b"cow"])
def test_a_response_with_an_unknown_transfer_coding_ends_with_its_connection(rig: Rig, coding: bytes) -> None:
    """RFC 9112 §6.3 item 4: surplus bytes are part of the body, never a response to another request."""
    head = UNTIL_CLOSE[:-2] + b"Transfer-Encoding: " + coding + b"\r\n\r\n"
    upstream = rig.upstream([once(head + b"hello" + ok(b"surplus"), "close"), answering(ok(b"next"))])
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))
    for _ in range(2):
        response = client.request("GET", "/")
        assert response.body == b"hello" + ok(b"surplus")
        assert response.all("transfer-encoding") in ([], [b"chunked"])
    assert client.request("GET", "/other").body == b"next"
    assert len(upstream.connections) == 2


def test_a_response_with_such_a_coding_that_ends_by_a_reset_is_cut_short(rig: Rig) -> None:
    raw = UNTIL_CLOSE[:-2] + b"Transfer-Encoding: identity\r\n\r\nhel"
    seen = threading.Event()
    upstream = rig.upstream([reset_after(raw, seen), answering(ok(b"whole"))])
    gateway = rig.forward(upstream, route={"cache": {}, "attempts": 1})
    client = rig.connect(gateway)
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
    client.until(b"hel")
    seen.set()
    client.rest()
    assert not client.received.endswith(b"0\r\n\r\n")
    assert rig.connect(gateway).request("GET", "/").body == b"whole", "it was stored"


def test_half_a_large_body_arrives_and_then_the_cut(rig: Rig) -> None:
    half = b"x" * (1 << 20)

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(half)), half)
        conn.close()

    client = rig.connect(rig.forward(rig.upstream(script), route={"attempts": 1}))
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
    with pytest.raises(Closed) as cut:
        client.read_response()
    assert cut.value.got == half


def test_a_client_that_cuts_its_body_short_gets_no_whole_request_through(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    for raw in (
        b"POST /cut HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\nhello",
        b"POST /cut HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"POST /cut HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ):
        client = rig.connect(gateway)
        client.send(raw)
        client.finish()
        answer = client.rest()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    with gateway.connect() as other:
        assert other.request("GET", "/ok").status == 200
    assert [r.target for r in upstream.requests] == [b"/ok"]
    assert [c.index for c in upstream.open_connections()] == [len(upstream.connections) - 1]
