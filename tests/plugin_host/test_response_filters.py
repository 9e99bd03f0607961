"""Plugins as filters of responses in a running gateway."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.plugin_host import samples
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import wait_until

HERE = "tests.plugin_host.samples"


def gateway(rig: Rig, upstream: Upstream, *plugins: dict[str, Any], route: dict[str, Any] | None = None) -> Running:
    named = {f"p{number}": settings for number, settings in enumerate(plugins)}
    return rig.forward(upstream, route={"plugins": list(named), **(route or {})}, plugins=named)


def response_filter(name: str, **keys: Any) -> dict[str, Any]:
    return {"response": f"{HERE}:{name}", **keys}


def outcomes(running: Running) -> dict[str, int]:
    found: dict[str, int] = running.snapshot()["plugins"]["p0"]["outcomes"]
    return found


@pytest.mark.parametrize(("name", "value"), [("tag", b"200"), ("tag_later", b"later")])
def test_a_filter_changes_the_head_of_a_response(rig: Rig, name: str, value: bytes) -> None:
    upstream = rig.upstream(answering(ok(b"body", b"X-Internal: 1", b"X-Kept: 1")))
    client = rig.connect(gateway(rig, upstream, response_filter(name)))
    for method in ("GET", "HEAD", "POST"):
        if method == "HEAD":
            continue  # the upstream of this test answers with a body
        response = client.request(method, "/")
        assert (response.status, response.get("x-filtered"), response.body) == (200, value, b"body")
        assert response.get("x-kept") == b"1"
    if name == "tag":
        assert response.get("x-internal") is None
        assert samples.RESPONSES[0].body is None
        assert samples.RESPONSES[0].headers["x-internal"] == "1"


def test_a_body_passes_whole_while_a_filter_of_heads_runs(rig: Rig, events: list[str]) -> None:
    size = 3_000_000
    data = bytes(range(250)) * (size // 250)

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        conn.stream(data, 1)

    running = gateway(rig, rig.upstream(script), response_filter("wait_for_gate", timeout="20s"))
    client = rig.connect(running)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: events == ["filter runs"], "the filter runs")
    assert client.buffer == bytearray() or not client.buffer
    samples.GATE.set()
    assert client.read_response("GET").body == data


def test_a_filter_replaces_status_and_body(rig: Rig) -> None:
    upstream = rig.upstream(
        answering(ok(b"hello ", b'ETag: "1"', b"Accept-Ranges: bytes", b"Content-Type: text/plain"))
    )
    client = rig.connect(gateway(rig, upstream, response_filter("greet", body="1KiB")))
    fields = [("X-User", "ann"), ("Range", "bytes=0-1"), ("If-None-Match", '"1"'), ("Accept-Encoding", "gzip")]
    response = client.request("GET", "/", *fields)
    assert (response.status, response.body) == (203, b"HELLO ann")
    assert response.get("etag") is None
    assert response.get("accept-ranges") is None
    assert response.get("content-type") == b"text/plain"
    assert response.get("vary") == b"x-user"
    (request,) = upstream.requests
    assert not {"range", "if-none-match"} & set(request.names())
    assert request.all("accept-encoding") == [b"identity"]


def test_a_chunked_body_is_filtered_as_a_whole(rig: Rig) -> None:
    parts = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"3\r\ndef\r\n0\r\n\r\n"
    client = rig.connect(gateway(rig, rig.upstream(answering(*parts)), response_filter("greet", body="1KiB")))
    response = client.request("GET", "/")
    assert (response.body, response.get("content-length")) == (b"ABCDEFguest", b"11")


def test_a_head_request_has_no_fields_of_a_body_that_is_not_known(rig: Rig) -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\nETag: "1"\r\nX-Kept: 1\r\n\r\n'
    client = rig.connect(gateway(rig, rig.upstream(answering(head)), response_filter("greet", body="1KiB")))
    response = client.request("HEAD", "/")
    assert (response.status, response.get("content-length"), response.get("etag")) == (203, None, None)
    assert response.get("x-kept") == b"1"
    assert samples.RESPONSES[0].body is None


CODED = gzip.compress(b"hello", mtime=0)
UNFIT = {
    "too long": ok(b"x" * 2000),
    "too long, without a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n%b\r\n0\r\n\r\n"
    % (b"x" * 2000),
    "coded": ok(CODED, b"Content-Encoding: gzip"),
    "events": ok(b"x" * 2000, b"Content-Type: text/event-stream"),
}


@pytest.mark.parametrize("what", UNFIT)
@pytest.mark.parametrize("failure", ["open", "closed"])
def test_a_body_that_a_filter_cannot_have_passes_or_fails(rig: Rig, what: str, failure: str) -> None:
    upstream = rig.upstream(answering(UNFIT[what]))
    running = gateway(rig, upstream, response_filter("greet", body="1KiB", failure=failure))
    response = rig.connect(running).request("GET", "/")
    if failure == "open":
        assert (response.status, response.body) == (200, CODED if what == "coded" else b"x" * 2000)
    else:
        assert response.status == 500
        assert json.loads(response.body)["kind"] == "plugin_failed"
    assert outcomes(running) == {"skipped": 1}
    assert samples.RESPONSES == []


@pytest.mark.parametrize(
    ("name", "kind"), [("fail", "plugin_failed"), ("wrong", "plugin_failed"), ("hang", "plugin_timeout")]
)
@pytest.mark.parametrize("failure", ["open", "closed"])
@pytest.mark.parametrize("body", [{}, {"body": "1KiB"}])
def test_a_filter_that_fails_is_open_or_closed(
    rig: Rig, name: str, kind: str, failure: str, body: dict[str, Any]
) -> None:
    upstream = rig.upstream(answering(ok(b"body", b"X-Kept: 1")))
    running = gateway(rig, upstream, response_filter(name, failure=failure, timeout="30ms", **body))
    client = rig.connect(running)
    for _ in range(2):
        response = client.request("GET", "/")
        if failure == "open":
            assert (response.status, response.body, response.get("x-kept")) == (200, b"body", b"1")
        else:
            assert json.loads(response.body)["kind"] == kind
            assert response.get("x-kept") is None
    rig.log.records = []


def test_a_filter_without_a_limit_for_bodies_replaces_none(rig: Rig) -> None:
    client = rig.connect(gateway(rig, rig.upstream(answering(ok(b"theirs"))), response_filter("replace_body")))
    assert client.request("GET", "/").status == 500
    assert "set its key body" in rig.log.records.pop().getMessage()


def test_a_response_without_a_body_keeps_its_status(rig: Rig) -> None:
    upstream = rig.upstream(answering(b"HTTP/1.1 204 No Content\r\n\r\n"))
    client = rig.connect(gateway(rig, upstream, response_filter("greet", body="1KiB")))
    assert client.request("GET", "/").status == 500
    rig.log.records.clear()


def test_errors_of_the_gateway_are_not_filtered(rig: Rig) -> None:
    upstream = rig.upstream(answering(b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n"))
    client = rig.connect(gateway(rig, upstream, response_filter("tag")))
    response = client.request("GET", "/")
    assert (response.status, response.get("x-filtered")) == (502, None)


def test_a_service_that_ends_early_while_a_filter_runs_is_a_failure(rig: Rig, events: list[str]) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        conn.close()

    running = gateway(rig, rig.upstream(script), response_filter("greet", body="1KiB"))
    assert rig.connect(running).request("GET", "/").status == 502
    assert samples.RESPONSES == []


# ---- the cache, and compression


def test_a_filter_runs_for_each_client_of_a_stored_response(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"hello ", b"Cache-Control: max-age=60", b'ETag: "1"')))
    running = gateway(rig, upstream, response_filter("greet", body="1KiB"), route={"cache": {}})
    client = rig.connect(running)
    bodies = [client.request("GET", "/", ("X-User", user)).body for user in ("ann", "bob", "ann")]
    assert bodies == [b"HELLO ann", b"HELLO bob", b"HELLO ann"]
    conditional = client.request("GET", "/", ("If-None-Match", '"1"'), ("Range", "bytes=0-0"))
    assert (conditional.status, conditional.body) == (203, b"HELLO guest")
    assert conditional.get("cache-status") == b"passerelle; hit"
    assert len(upstream.requests) == 1


def test_a_filter_of_heads_leaves_conditions_and_ranges_to_the_cache(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"hello", b"Cache-Control: max-age=60", b'ETag: "1"')))
    client = rig.connect(gateway(rig, upstream, response_filter("tag"), route={"cache": {}}))
    for _ in range(3):
        assert client.request("GET", "/").get("x-filtered") == b"200"
    part = client.request("GET", "/", ("Range", "bytes=1-2"))
    assert (part.status, part.get("x-filtered"), part.body) == (206, b"206", b"el")
    unchanged = client.request("GET", "/", ("If-None-Match", '"1"'))
    assert (unchanged.status, unchanged.get("x-filtered")) == (304, b"304")
    assert len(upstream.requests) == 1


def test_a_filtered_body_is_compressed(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"hello" * 1000, b"Content-Type: text/plain", b"Cache-Control: max-age=60")))
    running = gateway(rig, upstream, response_filter("greet", body="10KiB"), route={"compress": ["gzip"], "cache": {}})
    client = rig.connect(running)
    for _ in range(2):
        response = client.request("GET", "/", ("Accept-Encoding", "gzip"), ("X-User", "ann"))
        assert response.get("content-encoding") == b"gzip"
        assert gzip.decompress(response.body) == b"HELLO" * 1000 + b"ann"
    assert len(upstream.requests) == 1


def test_filters_run_in_the_order_of_the_route(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"x")))
    running = gateway(rig, upstream, response_filter("tag_later"), response_filter("tag"))
    assert rig.connect(running).request("GET", "/").all("x-filtered") == [b"200"]
    assert samples.RESPONSES[0].headers["x-filtered"] == "later"


def test_upgrades_are_not_filtered(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhi")
        conn.exactly(3)
        conn.send(b"you")
        conn.close()

    client = rig.connect(gateway(rig, rig.upstream(script), response_filter("tag", body="1KiB")))
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    assert b" 101 " in client.until(b"\r\n\r\n")
    assert client.exactly(2) == b"hi"
    client.send(b"abc")
    assert client.exactly(3) == b"you"
