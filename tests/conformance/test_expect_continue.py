"""100-continue never deadlocks, leaks or repeats a request (RFC 9110 §10.1.1, §15.2)."""

from __future__ import annotations

import time

import pytest

from tests.support.client import head
from tests.support.expect import problem
from tests.support.gateways import Rig
from tests.support.upstream import Connection, answering, echo, ok

PUT = head("PUT", "/u", ("Expect", "100-continue"), length=4)
UNAUTHORIZED = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 2\r\n\r\nno'


def test_a_refusal_comes_at_once_without_the_body(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(UNAUTHORIZED)

    client = rig.connect(rig.forward(rig.upstream(script)))
    begin = time.monotonic()
    client.send(PUT)
    response = client.read_response("PUT")
    assert (response.status, response.body) == (401, b"no")
    assert time.monotonic() - begin < 0.8, "later than a client's own one-second timer"


def test_a_refusal_of_the_gateway_comes_at_once_without_the_body_nor_a_100(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/other", "service": "u"}])
    client = rig.connect(gateway)
    client.send(PUT)
    response = client.read_response("PUT")
    problem(response, 404)
    assert not response.interim
    assert not upstream.heads


def test_a_body_over_the_limit_is_refused_without_a_100(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream, route={"body": "1KiB"}))
    client.send(head("PUT", "/u", ("Expect", "100-continue"), length=2000))
    response = client.read_response("PUT")
    problem(response, 413)
    assert not response.interim and not upstream.requests


@pytest.mark.parametrize("interims", [1, 2])
def test_exactly_one_100_reaches_the_client(rig: Rig, interims: int) -> None:
    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(b"HTTP/1.1 100 Continue\r\n\r\n" * interims)
        assert conn.exactly(4) == b"body"
        conn.send(ok(b"done"))

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(PUT)
    assert client.read_response(stop_at_100=True).status == 100
    client.send(b"body")
    response = client.read_response("PUT")
    assert response.body == b"done"
    assert not response.interim, "a second 100"


def test_an_upstream_that_ignores_expect_gets_the_body(rig: Rig) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    client.send(PUT)
    assert client.read_response(stop_at_100=True).status == 100
    client.send(b"body")
    response = client.read_response("PUT")
    assert response.body == b"body" and not response.interim


def test_a_client_that_does_not_wait_is_served(rig: Rig) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    client.send(PUT + b"body")
    response = client.read_response("PUT")
    assert response.body == b"body"
    assert len(response.interim) <= 1
    assert client.request("GET", "/").status == 200


def test_a_chunked_body_may_be_withheld_too(rig: Rig) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    client.send(head("PUT", "/u", ("Expect", "100-continue"), ("Transfer-Encoding", "chunked")))
    assert client.read_response(stop_at_100=True).status == 100
    client.send(b"4\r\nbody\r\n0\r\n\r\n")
    assert client.read_response("PUT").body == b"body"


def test_expect_without_a_body_needs_no_100(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    response = client.request("GET", "/", ("Expect", "100-continue"))
    assert response.body == b"ok" and len(response.interim) <= 1


def test_the_next_request_after_a_refused_expectation_is_read_right(rig: Rig) -> None:
    """The client sends no body and continues with another request, or the gateway has closed: never a mix."""

    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(UNAUTHORIZED)
        conn.exactly(4)
        while True:
            conn.read_request()
            conn.send(ok(b"next"))

    upstream = rig.upstream([script, answering(ok(b"next"))])
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    client.send(PUT)
    response = client.read_response("PUT")
    assert response.status == 401
    if b"close" in response.all("connection"):
        client.assert_closed()
    else:  # RFC 9110 §10.1.1: the body must still follow
        client.send(b"body" + head("GET", "/next"))
        assert client.read_response().body == b"next"
    with gateway.connect() as other:
        assert other.request("GET", "/").body == b"next"


def test_no_1xx_is_sent_to_http_1_0(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(b"done"))

    client = rig.connect(rig.forward(rig.upstream(script)))
    client.send(b"PUT /u HTTP/1.0\r\nHost: gw\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody")
    response = client.read_response("PUT")
    assert response.body == b"done" and not response.interim


@pytest.mark.parametrize("value", ["other", "100-continue, other", "200-ok", "100-continued", ""])
def test_an_unknown_expectation_is_a_417(rig: Rig, value: str) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(head("PUT", "/u", ("Expect", value), length=4) + b"body")
    response = client.read_response("PUT")
    if value:
        problem(response, 417)
        assert not upstream.heads


def test_the_expectation_is_case_insensitive(rig: Rig) -> None:
    client = rig.connect(rig.forward(rig.upstream(echo)))
    client.send(head("PUT", "/u", ("Expect", "100-Continue"), length=4))
    assert client.read_response(stop_at_100=True).status == 100
    client.send(b"body")
    assert client.read_response("PUT").body == b"body"


def test_a_composition_called_with_expect_does_not_pass_it_on(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b'{"a":1}', b"Content-Type: application/json")))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}}, [{"path": "/c", "compose": {"x": {"service": "u", "path": "/p"}}}]
    )
    client = rig.connect(gateway)
    response = client.request("GET", "/c", ("Expect", "100-continue"))
    assert response.body == b'{"x":{"a":1}}'
    assert "expect" not in upstream.requests[0].names()
