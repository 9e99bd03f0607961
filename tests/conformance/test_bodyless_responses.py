"""Responses without a body end at their empty line (RFC 9112 §6.3, RFC 9110 §8.6, §9.3.2, §15.3.5, §15.4.5)."""

from __future__ import annotations

import time

import pytest

from tests.support.expect import problem
from tests.support.gateways import Rig
from tests.support.upstream import answering, once

CASES = {
    "304 with a length": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n'),
    "304 without": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n'),
    "304 chunked": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "204 with length 0": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
    "204 to DELETE": ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "HEAD with a length": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    "HEAD without": ("HEAD", b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"),
    "HEAD chunked": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "HEAD 404": ("HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n"),
    "length 0": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "205 with length 0": ("POST", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_ends_at_the_blank_line_and_both_connections_go_on(rig: Rig, name: str) -> None:
    method, raw = CASES[name]
    upstream = rig.upstream(answering(raw))
    client = rig.connect(rig.forward(upstream))
    for _ in range(3):
        begin = time.monotonic()
        response = client.request(method, "/")
        assert response.status == int(raw[9:12]) and response.body == b""
        assert time.monotonic() - begin < 0.5, "something waited for a body"
        assert client.is_open()
    assert len(upstream.connections) == 1


def test_head_and_304_keep_the_length_that_the_200_has(rig: Rig) -> None:
    for method, raw in (CASES["HEAD with a length"], CASES["304 with a length"]):
        client = rig.connect(rig.forward(rig.upstream(answering(raw))))
        assert client.request(method, "/").get("content-length") == b"5"


def test_head_without_a_length_gets_none_made_up(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(CASES["HEAD without"][1]))))
    assert client.request("HEAD", "/").all("content-length") == []


def test_a_204_carries_no_framing_field_whatever_the_upstream_sent(rig: Rig) -> None:
    for lines in (b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
        upstream = rig.upstream(once(b"HTTP/1.1 204 No Content\r\n" + lines + b"\r\n"))
        response = rig.connect(rig.forward(upstream, route={"attempts": 1})).request("GET", "/")
        assert response.status == 204  # the reader has already refused Content-Length and Transfer-Encoding
        assert not response.all("content-length") and not response.all("transfer-encoding")


def test_the_gateways_own_errors_have_no_body_for_head(rig: Rig) -> None:
    down = rig.upstream(answering(b""))
    down.refuse()
    gateway = rig.gateway(
        {"u": {"targets": [down.url]}}, [{"path": "/down", "service": "u", "methods": ["GET", "HEAD"]}]
    )
    client = rig.connect(gateway)
    for target, status in (("/none", 404), ("/down", 502)):
        response = client.request("HEAD", target)
        assert response.status == status and response.body == b""
        assert response.get("content-type") == b"application/problem+json"
        assert client.is_open()
        problem(client.request("GET", target), status)


def test_head_has_the_same_fields_as_get(rig: Rig) -> None:
    raw = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "e"\r\nContent-Type: text/plain\r\nX-A: 1\r\nX-A: 2\r\n\r\n'

    def script(conn) -> None:  # type: ignore[no-untyped-def]
        while True:
            method = conn.read_request().method
            conn.send(raw + (b"" if method == b"HEAD" else b"hello"))

    client = rig.connect(rig.forward(rig.upstream(script)))
    head, get = client.request("HEAD", "/"), client.request("GET", "/")
    volatile = {b"date", b"x-request-id"}
    strip = lambda fields: [(k.lower(), v) for k, v in fields if k.lower() not in volatile]  # noqa: E731
    assert strip(head.fields) == strip(get.fields)
