"""A retry sends exactly the same body, or does not take place (RFC 9110 §9.2.2)."""

from __future__ import annotations

import hashlib

import pytest

from tests.support.client import chunks
from tests.support.expect import problem
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Script, answering, echo, ok

BIG = hashlib.sha256(b"seed").digest() * (5 * 1024 * 1024 // 32)


def digest(conn: Connection) -> None:
    """Respond to each request with the length and digest of its body."""
    while True:
        body = conn.read_request().body
        conn.send(ok(b"%d %s" % (len(body), hashlib.sha256(body).hexdigest().encode())))


answers_503 = answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")


def closes(conn: Connection) -> None:
    conn.read_request()
    conn.close()


@pytest.mark.parametrize("body", [b"abcdef", b"", BIG], ids=["six bytes", "empty", "5 MiB"])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("first", [answers_503, closes])
def test_the_second_upstream_gets_the_same_bytes_or_nothing(
    rig: Rig, body: bytes, chunked: bool, first: Script
) -> None:
    upstream = rig.upstream([first, digest])
    client = rig.connect(rig.forward(upstream))
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    payload = chunks(*([body] if body else [])) if chunked else body
    client.send(b"PUT /x HTTP/1.1\r\nHost: gw\r\n" + framing + b"\r\n\r\n", payload)
    response = client.read_response("PUT")
    if response.status == 200:
        assert response.body == b"%d %s" % (len(body), hashlib.sha256(body).hexdigest().encode())
    elif first is answers_503:
        assert (response.status, response.body) == (503, b"busy")
    else:
        problem(response, 502)
    assert [r.body == body for r in upstream.requests] == [True] * len(upstream.requests)
    assert client.request("GET", "/after").status in (200, 503)


def test_an_upstream_that_dies_half_way_through_the_body_gets_no_shorter_second_one(rig: Rig) -> None:
    def dies(conn: Connection) -> None:
        conn.read_head()
        conn.exactly(len(BIG) // 2)
        conn.reset()

    upstream = rig.upstream([dies, digest])
    client = rig.connect(rig.forward(upstream))
    client.send(b"PUT /x HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % len(BIG), BIG)
    response = client.read_response("PUT")
    if response.status == 200:
        assert response.body == b"%d %s" % (len(BIG), hashlib.sha256(BIG).hexdigest().encode())
    else:
        problem(response, 502)
        assert not upstream.requests


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_503_is_relayed_as_it_is(rig: Rig, method: str) -> None:
    upstream = rig.upstream([answers_503, echo])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    response = client.request(method, "/", body=b"x")
    assert (response.status, response.body) == (503, b"busy")
