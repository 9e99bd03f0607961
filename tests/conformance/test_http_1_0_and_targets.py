"""Versions, request lines, targets and Host (RFC 9112 §2.3, §3; RFC 9110 §7.2)."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.client import chunks
from tests.support.expect import closing, problem
from tests.support.gateways import Rig
from tests.support.upstream import Connection, answering, echo, ok, once


def test_an_http_1_0_client_gets_no_chunks_and_a_close(rig: Rig) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b"hello", b" world")
    upstream = rig.upstream(answering(raw))
    client = rig.connect(rig.forward(upstream))
    client.send(b"GET / HTTP/1.0\r\nHost: gw\r\n\r\n")
    response = client.read_response()
    assert not response.all("transfer-encoding")
    assert response.body == b"hello world"
    client.assert_closed()
    assert upstream.requests[0].start == b"GET / HTTP/1.1"


def test_an_http_1_0_client_without_keep_alive_is_closed(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok()))))
    client.send(b"GET / HTTP/1.0\r\nHost: gw\r\n\r\n")
    assert client.read_response().body == b"ok"
    client.assert_closed()


def test_an_http_1_0_client_needs_no_host(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.read_response().status == 200
    assert len(upstream.requests[0].all("host")) == 1


def test_a_cut_close_delimited_answer_to_http_1_0_is_a_reset_or_cut(rig: Rig) -> None:
    """Without framing, only the way of closing shows an HTTP/1.0 client that the message is incomplete."""
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    client = rig.connect(rig.forward(rig.upstream(once(raw, "close")), route={"attempts": 1}))
    client.send(b"GET / HTTP/1.0\r\nHost: gw\r\n\r\n")
    client.rest()
    assert client.closed == "reset" or b" 502 " in client.received[:20]


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (b"GET / HTTP/2.0\r\nHost: gw\r\n\r\n", (400, 505)),
        (b"GET / HTTP/1.2\r\nHost: gw\r\n\r\n", (200, 400, 505)),
        (b"GET / HTTP/0.9\r\nHost: gw\r\n\r\n", (400, 505)),
        (b"GET / HTTP/3.0\r\nHost: gw\r\n\r\n", (400, 505)),
        (b"GET / HTTP/11\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1.11\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / HTTP/01.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / http/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1 \r\nHost: gw\r\n\r\n", (400,)),
        (b"GET  / HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET /  HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET\t/ HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b" GET / HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / a HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET /\r\n\r\n", (400,)),
        (b"GET\r\n\r\n", (400,)),
        (b"GET HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"G(T / HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"G\xc9T / HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,)),
        (b"\x00\r\n\r\n", (400,)),
        (b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", (400, 405, 501)),
        (b"CONNECT / HTTP/1.1\r\nHost: gw\r\n\r\n", (400, 405, 501)),
        (b"TRACE / HTTP/1.1\r\nHost: gw\r\n\r\n", (405, 501)),
        (b"GET * HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET gw:80 HTTP/1.1\r\nHost: gw\r\n\r\n", (400, 501)),
        (b"GET index.html HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET ftp://gw/ HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET http:/// HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET http:// HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET http://user:pass@gw/ HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET http://gw:port/ HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: user@gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw/path\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw?q\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw:port\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw:99999\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: caf\xe9\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: [1.2.3.4]\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: [::1::]\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: [12345::]:80\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: [abc]\r\n\r\n", (400,)),
        (b"GET http://[1.2.3.4]/ HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET http://gw\\@other/ HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET http://gw\\a?\\ HTTP/1.1\r\nHost: gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: http://gw\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nno colon\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\n: empty\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nX(: y\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nX\x00: y\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nX: a\x00b\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nX: a\x07b\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nX: a\x7fb\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\nHost: gw\r\nX: a\r\n folded\r\n\r\n", (400,)),
        (b"GET / HTTP/1.1\r\n Host: gw\r\n\r\n", (400,)),
    ],
)
def test_a_malformed_or_unsupported_request_is_refused(rig: Rig, raw: bytes, statuses: tuple[int, ...]) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(raw)
    response = client.read_response()
    if response.status == 200:
        assert 200 in statuses
        return
    problem(response, *statuses)
    if response.status == 400:
        closing(response)
        client.assert_closed()
    assert not upstream.heads


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /\n\n",
        b"GET / HTTP/1.1\nHost: gw\n\n",
        b"GET / HTTP/1.1\r\nHost: gw\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: gw\r\n\r\n",
    ],
)
def test_a_bare_lf_is_refused(rig: Rig, raw: bytes) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(raw)
    problem(client.read_response(), 400)
    client.assert_closed()
    assert not upstream.heads


def test_an_empty_line_before_a_request_is_ignored(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok()))))
    client.send(b"\r\nGET / HTTP/1.1\r\nHost: gw\r\n\r\n")
    assert client.read_response().status == 200


def test_an_endless_run_of_empty_lines_is_refused(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(answering(ok()))))
    client.sock.settimeout(5)
    with contextlib.suppress(OSError):  # closed before everything was sent
        client.sock.sendall(b"\r\n" * (1 << 20))
    client.rest()
    assert client.closed


@pytest.mark.parametrize(
    ("target", "host", "path", "authority"),
    [
        (b"http://gw/p?q", b"gw", b"/p?q", b"gw"),
        (b"http://other.example:8080/p", b"gw", b"/p", b"other.example:8080"),
        (b"http://gw", b"gw", b"/", b"gw"),
        (b"http://gw?q", b"gw", b"/?q", b"gw"),
        (b"HTTP://GW/p", b"gw", b"/p", b"GW"),
        (b"http://[::1]:80/p", b"gw", b"/p", b"[::1]:80"),
    ],
)
def test_the_authority_of_an_absolute_form_target_replaces_host(
    rig: Rig, target: bytes, host: bytes, path: bytes, authority: bytes
) -> None:
    """RFC 9112 §3.2.2: the target's authority replaces Host, for routing and upstream."""
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert client.read_response().status == 200
    (request,) = upstream.requests
    assert request.target == path
    assert request.get("host").lower() == authority.lower()  # type: ignore[union-attr]
    assert request.get("x-forwarded-host").lower() == authority.lower()  # type: ignore[union-attr]


def test_the_authority_of_an_absolute_form_target_chooses_the_route(rig: Rig) -> None:
    a, b = rig.upstream(answering(ok(b"a"))), rig.upstream(answering(ok(b"b")))
    gateway = rig.gateway(
        {"a": {"targets": [a.url]}, "b": {"targets": [b.url]}},
        [
            {"path": "/{rest*}", "host": "a.example", "service": "a"},
            {"path": "/{rest*}", "host": "b.example", "service": "b"},
        ],
    )
    client = rig.connect(gateway)
    client.send(b"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert client.read_response().body == b"b"
    assert b.requests[0].get("host") == b"b.example"


def test_options_with_an_asterisk_is_answered_or_forwarded_as_such(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"", b"Allow: GET")))
    client = rig.connect(rig.forward(upstream))
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: gw\r\n\r\n")
    assert client.read_response("OPTIONS").status in (200, 204)
    assert [r.target for r in upstream.requests] in ([], [b"*"])


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        (b"http://gw", b"*"),
        (b"HTTP://gw:80", b"*"),
        (b"http://gw/", b"/"),
        (b"http://gw?x", b"/?x"),
        (b"http://gw?", b"/?"),
    ],
)
def test_options_with_an_empty_path_is_about_the_server(rig: Rig, target: bytes, forwarded: bytes) -> None:
    """RFC 9112 §3.2.4: no path and no query are forwarded as ``*``."""
    upstream = rig.upstream(answering(ok(b"", b"Allow: GET")))
    client = rig.connect(rig.forward(upstream))
    client.send(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: gw\r\n\r\n")
    assert client.read_response("OPTIONS").status == 200
    assert [r.target for r in upstream.requests] == [forwarded]


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "QUERY", "brew"]
)
def test_any_token_is_a_method(rig: Rig, method: str) -> None:
    upstream = rig.upstream(echo)
    response = rig.connect(rig.forward(upstream)).request(method, "/", body=b"x")
    assert response.body == b"x"
    assert upstream.requests[0].method == method.encode()


def test_a_get_with_a_body_is_forwarded_with_it(rig: Rig) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    assert client.request("GET", "/", body=b"hello").body == b"hello"
    assert client.request("GET", "/").body == b""


def test_host_reaches_the_upstream_as_it_was(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    for host in (
        b"gw",
        b"Shop.Example",
        b"shop.example:8080",
        b"[::1]:80",
        b"127.0.0.1",
        b"a_b.example",
        b"gw.",
        b"[::ffff:1.2.3.4]",
    ):
        client.send(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert client.read_response().status == 200
        assert upstream.requests[-1].get("host") == host


def test_a_response_without_reason_or_with_odd_status_passes(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        for line in (b"HTTP/1.1 200 ", b"HTTP/1.1 299 Odd", b"HTTP/1.1 418 I'm a teapot", b"HTTP/1.1 599 caf\xe9"):
            conn.read_request()
            conn.send(line + b"\r\nContent-Length: 0\r\n\r\n")

    client = rig.connect(rig.forward(rig.upstream(script)))
    assert [client.request("GET", "/").status for _ in range(4)] == [200, 299, 418, 599]
