"""A composed response is one valid JSON document or an error, whatever a part does (RFC 8259 §2)."""

from __future__ import annotations

import gzip
import json
import select
import sys
import threading
import time
from typing import Any

import pytest

from tests.support.client import head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Script, Upstream, answering, ok, once

JSON = b"Content-Type: application/json"
A = b'{"x":1}'
GOOD = ok(A, JSON)


def answer(status: int, body: bytes = b"", *fields: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, *([] if status in (204, 304) else [b"Content-Length: %d" % len(body)]), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


VALID = {
    "null": b"null",
    "array": b"[1]",
    "string": b'"s"',
    "number": b"-0.0e-0",
    "true": b"true",
    "same key": b'{"x":2}',
    "duplicate keys": b'{"x":1,"x":2}',
    "big number": b'{"n":12345678901234567890123456789.10000}',
    "order and blanks": b'{ "z" : 1 ,\n "a":2\t}',
    "escapes": b'{"\\u0061":"\\/\\u00e9"}',
    "utf-8": '{"é":"€😀"}'.encode(),
    "blanks around": b" \r\n[1]\n ",
    "deep": b"[" * 200 + b"]" * 200,
    "integer of 5,000 digits": b'{"n":' + b"7" * 5000 + b"}",
    "no float": b"[1E400, -1e9999]",
    "lone surrogate": b'{"\\ud800":"\\udfff"}',
}

FAILED: dict[str, bytes | Script] = {
    "500 empty": answer(500),
    "500 with JSON": answer(500, b'{"error":1}', JSON),
    "503 page": answer(503, b"<h1>busy</h1>", b"Content-Type: text/html"),
    "404": answer(404, b'{"error":"none"}', JSON),
    "401": answer(401, b'{"error":"who"}', JSON, b"WWW-Authenticate: Basic"),
    "403": answer(403, b'{"error":"no"}', JSON),
    "301": answer(301, b"", b"Location: http://evil.example/"),
    "200 empty": answer(200, b"", JSON),
    "200 blank": answer(200, b" \n", JSON),
    "204": answer(204),
    "304": answer(304, b"", b'ETag: "a"'),
    "JSON with text/plain": answer(200, b"{}", b"Content-Type: text/plain"),
    "JSON with text/html": answer(200, b"{}", b"Content-Type: text/html"),
    "101": once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
    "html with a JSON type": answer(200, b"<h1>hello</h1>", JSON),
    "half a document": answer(200, b'{"x":', JSON),
    "two documents": answer(200, b"{} {}", JSON),
    "trailing comma": answer(200, b'{"x":1,}', JSON),
    "injection": answer(200, b'1},"admin":{"x":1', JSON),
    "NaN": answer(200, b"NaN", JSON),
    "single quotes": answer(200, b"{'x':1}", JSON),
    "comment": answer(200, b"{}//", JSON),
    "invalid utf-8": answer(200, b'"\xff"', JSON),
    "control character in a string": answer(200, b'"a\nb"', JSON),
    "NUL at the end": answer(200, b"{}\0", JSON),
    "utf-16": answer(200, "{}".encode("utf-16"), JSON),
    "unknown coding": answer(200, b"{}", JSON, b"Content-Encoding: br"),
    "broken gzip": answer(200, gzip.compress(A)[:-9], JSON, b"Content-Encoding: gzip"),
    "truncated": once(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "close"),
    "truncated but valid": once(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"x":1}', "close"),
    "truncated chunks": once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "close"),
    "no answer": once(b"", "close"),
    "reset": once(b"", "reset"),
    "malformed": answer(200, b"{}", b"Content-Length: +2"),
}


def composed(rig: Rig, b: bytes | Script, a: bytes | Script = GOOD, **part: Any) -> tuple[Running, Upstream, Upstream]:
    """A gateway with /c, composed of ``a`` (required) and ``b`` (``part`` holds its settings)."""
    ua = rig.upstream(answering(a) if isinstance(a, bytes) else a)
    ub = rig.upstream(answering(b) if isinstance(b, bytes) else b)
    gateway = rig.gateway(
        {"a": {"targets": [ua.url]}, "b": {"targets": [ub.url]}},
        [{"path": "/c", "compose": {"a": {"service": "a", "path": "/a"}, "b": {"service": "b", "path": "/b", **part}}}],
    )
    return gateway, ua, ub


def strict(body: bytes) -> Any:
    """Parse the document, refusing what is not JSON."""

    def no(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(
        body.decode("utf-8"), parse_constant=no, parse_int=lambda text: int(text) if len(text) < 4000 else text
    )


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("kind", ["application/json", "application/JSON; charset=utf-8", "application/hal+json", None])
def test_a_json_part_is_spliced_as_the_bytes_it_was(rig: Rig, name: str, kind: str | None) -> None:
    body = VALID[name]
    gateway, *_ = composed(rig, ok(body, *([b"Content-Type: " + kind.encode()] if kind else [])))
    response = rig.connect(gateway).request("GET", "/c")
    assert response.status == 200
    assert strict(response.body)["a"] == {"x": 1}
    assert (
        response.body == b'{"a":{"x":1},"b":' + body.strip() + b"}"
        or response.body == b'{"a":{"x":1},"b":' + body + b"}"
    )
    assert response.get("content-type") == b"application/json"
    assert response.framing == "length"
    assert not response.all("passerelle-partial")


@pytest.mark.parametrize("name", FAILED)
def test_a_failed_required_part_is_a_502(rig: Rig, name: str) -> None:
    gateway, *_ = composed(rig, FAILED[name])
    client = rig.connect(gateway)
    response = client.request("GET", "/c")
    problem(response, 502)
    assert not response.all("www-authenticate") and not response.all("location")
    assert client.is_open()


@pytest.mark.parametrize("name", FAILED)
def test_a_failed_optional_part_is_marked(rig: Rig, name: str) -> None:
    gateway, *_ = composed(rig, FAILED[name], on_error=None)
    response = rig.connect(gateway).request("GET", "/c")
    assert response.status == 200
    assert response.body == b'{"a":{"x":1},"b":null}'
    assert response.get("passerelle-partial") == b"b"
    assert b"no-store" in (response.get("cache-control") or b"")


@pytest.mark.parametrize("value", [{"name": "unknown", "n": 1.5}, [], "é", 0, False])
def test_a_failed_part_with_a_fallback_value_gives_it(rig: Rig, value: Any) -> None:
    gateway, *_ = composed(rig, answer(500), on_error={"value": value})
    response = rig.connect(gateway).request("GET", "/c")
    assert response.status == 200 and strict(response.body) == {"a": {"x": 1}, "b": value}
    assert response.get("passerelle-partial") == b"b"


@pytest.mark.parametrize("status", [401, 403])
def test_an_authentication_failure_is_never_masked_as_success(rig: Rig, status: int) -> None:
    gateway, *_ = composed(rig, answer(status, b"{}", JSON))
    problem(rig.connect(gateway).request("GET", "/c"), 502)
    passing, *_ = composed(rig, answer(status, b'{"why":"no"}', JSON), pass_status=[status])
    assert rig.connect(passing).request("GET", "/c").status == status


def test_pass_status_relays_that_status(rig: Rig) -> None:
    gateway, *_ = composed(rig, answer(404, b'{"title":"no such product"}', JSON), pass_status=[404])
    assert rig.connect(gateway).request("GET", "/c").status == 404


def test_a_stall_is_a_504_at_the_parts_own_timeout(rig: Rig) -> None:
    def stalls(conn: Connection) -> None:
        conn.read_request()

    gateway, _, ub = composed(rig, stalls, timeout="200ms")
    begin = time.monotonic()
    problem(rig.connect(gateway).request("GET", "/c"), 504)
    assert time.monotonic() - begin < 2
    ub.wait_all_closed(2)
    optional, _, ub = composed(rig, stalls, timeout="200ms", on_error=None)
    assert rig.connect(optional).request("GET", "/c").body == b'{"a":{"x":1},"b":null}'
    ub.wait_all_closed(2)


def test_a_body_that_stalls_half_way_is_a_504_too(rig: Rig) -> None:
    gateway, *_ = composed(rig, once(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"), timeout="200ms")
    problem(rig.connect(gateway).request("GET", "/c"), 504)


def test_the_siblings_of_a_failed_required_part_are_cancelled(rig: Rig) -> None:
    def stalls(conn: Connection) -> None:
        conn.read_request()

    both = threading.Event()

    def fails(conn: Connection) -> None:
        conn.read_request()
        conn.wait(both)
        conn.send(answer(500))

    gateway, ua, ub = composed(rig, fails, stalls)
    client = rig.connect(gateway)
    client.send(head("GET", "/c"))
    ua.wait_requests(1)
    ub.wait_requests(1)
    both.set()
    problem(client.read_response("GET", 2), 502)
    ua.wait_all_closed(2)
    settle(gateway)


def test_parts_run_at_the_same_time(rig: Rig) -> None:
    together = threading.Barrier(2, timeout=5)

    def waits(conn: Connection) -> None:
        conn.read_request()
        together.wait()
        conn.send(ok(A, JSON))

    gateway, *_ = composed(rig, waits, waits)
    assert rig.connect(gateway).request("GET", "/c").body == b'{"a":{"x":1},"b":{"x":1}}'


def test_all_parts_failing_is_an_error_or_marked_whole(rig: Rig) -> None:
    gateway, *_ = composed(rig, answer(500), answer(500), on_error=None)
    problem(rig.connect(gateway).request("GET", "/c"), 502)
    ua = rig.upstream(answering(answer(500)))
    part = {"service": "u", "path": "/", "on_error": None}
    optional = rig.gateway({"u": {"targets": [ua.url]}}, [{"path": "/c", "compose": {"a": part, "b": part}}])
    response = rig.connect(optional).request("GET", "/c")
    assert response.body == b'{"a":null,"b":null}'
    assert response.get("passerelle-partial") == b"a, b"


def test_gzip_is_decoded_before_it_is_spliced(rig: Rig) -> None:
    gateway, *_ = composed(rig, ok(gzip.compress(b'{"z":1}'), JSON, b"Content-Encoding: gzip"))
    response = rig.connect(gateway).request("GET", "/c", ("Accept-Encoding", "gzip"))
    assert response.body == b'{"a":{"x":1},"b":{"z":1}}'
    assert not response.all("content-encoding")


def test_a_gzip_bomb_is_a_failed_part_and_takes_no_memory(rig: Rig) -> None:
    bomb = gzip.compress(b'"' + b" " * (50 << 20) + b'"', 9)
    gateway, *_ = composed(rig, ok(bomb, JSON, b"Content-Encoding: gzip"))
    problem(rig.connect(gateway).request("GET", "/c", within=10), 502)


@pytest.mark.parametrize("coding", [pytest.param("identity", marks=pytest.mark.long), "gzip"])
def test_other_requests_are_served_while_a_costly_part_is_checked(rig: Rig, coding: str) -> None:
    body = b"[" + b"[[[[1]]]]," * 100_000 + b"1]"
    coded = body if coding == "identity" else gzip.compress(body, 9)
    gateway, *_ = composed(rig, ok(coded, JSON, b"Content-Encoding: " + coding.encode()))
    slow, quick = rig.connect(gateway), rig.connect(gateway)
    interval, served = sys.getswitchinterval(), 0
    # This thread shares the interpreter with the gateway: by default it would run once in 5 ms, after several steps.
    sys.setswitchinterval(1e-5)
    try:
        slow.send(head("GET", "/c"))
        while not select.select([slow.sock], [], [], 0)[0]:
            assert quick.request("GET", "/none").status == 404
            served += 1
    finally:
        sys.setswitchinterval(interval)
    assert slow.read_response().body == b'{"a":' + A + b',"b":' + body + b"}"
    assert served > 20


@pytest.mark.parametrize(
    "body",
    [b"[" + b"[]," * 3_000_000 + b"1]", b"[" * 1025 + b"]" * 1025, b" " * (11 << 20) + b"1"],
    ids=["values", "depth", "size"],
)
def test_a_part_over_a_limit_is_named_as_that(rig: Rig, body: bytes) -> None:
    gateway, *_ = composed(rig, ok(gzip.compress(body, 9), JSON, b"Content-Encoding: gzip"))
    document = problem(rig.connect(gateway).request("GET", "/c", within=10), 502)
    assert (document["kind"], document["detail"]) == ("part_too_large", "part b")
    gateway, *_ = composed(rig, ok(gzip.compress(body, 9), JSON, b"Content-Encoding: gzip"), on_error=None)
    assert rig.connect(gateway).request("GET", "/c", within=10).body == b'{"a":{"x":1},"b":null}'


def test_an_endless_part_is_a_failed_part(rig: Rig) -> None:
    def endless(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        conn.stream(b" " * (1 << 20), 1 << 10)

    gateway, _, ub = composed(rig, endless)
    problem(rig.connect(gateway).request("GET", "/c", within=10), 502)
    ub.wait_all_closed(5)


def test_a_byte_order_mark_never_ends_up_inside_the_document(rig: Rig) -> None:
    gateway, *_ = composed(rig, ok(b"\xef\xbb\xbf" + A, JSON))
    response = rig.connect(gateway).request("GET", "/c")
    if response.status == 200:
        assert strict(response.body) == {"a": {"x": 1}, "b": {"x": 1}} and b"\xef\xbb\xbf" not in response.body
    else:
        problem(response, 502)


def test_very_deep_json_neither_crashes_nor_breaks_the_document(rig: Rig) -> None:
    gateway, *_ = composed(rig, ok(b"[" * 500_000 + b"]" * 500_000, JSON))
    response = rig.connect(gateway).request("GET", "/c")
    if response.status != 200:
        problem(response, 502)
    assert rig.connect(gateway).request("GET", "/none").status == 404


def test_the_clients_conditions_and_ranges_do_not_reach_the_parts_nor_theirs_the_client(rig: Rig) -> None:
    fields = (
        JSON,
        b'ETag: "part"',
        b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
        b"Content-Language: fr",
        b"Set-Cookie: s=1",
    )
    gateway, ua, ub = composed(rig, ok(A, *fields, b"Accept-Ranges: bytes", b"Content-Disposition: attachment"))
    response = rig.connect(gateway).request(
        "GET",
        "/c",
        ("If-None-Match", '"part"'),
        ("If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("If-Match", '"other"'),
        ("If-Unmodified-Since", "Thu, 01 Jan 2004 00:00:00 GMT"),
        ("Range", "bytes=0-3"),
        ("If-Range", '"part"'),
        ("Expect", "100-continue"),
        ("Authorization", "Bearer t"),
        ("Accept-Language", "fr"),
    )
    assert response.status == 200 and response.body == b'{"a":{"x":1},"b":{"x":1}}'
    assert response.all("set-cookie") == [b"s=1"]
    for name in ("last-modified", "content-language", "accept-ranges", "content-disposition", "content-encoding"):
        assert not response.all(name), name
    assert response.get("etag") != b'"part"'
    unwanted = {"if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "range", "if-range", "expect"}
    for request in (*ua.requests, *ub.requests):
        assert not unwanted & set(request.names())
        assert request.get("authorization") == b"Bearer t"
        assert request.get("x-request-id")
        assert request.method == b"GET"


def test_head_on_a_composition_has_the_fields_of_get_and_no_body(rig: Rig) -> None:
    gateway, ua, _ = composed(rig, ok(A, JSON))
    client = rig.connect(gateway)
    response = client.request("HEAD", "/c")
    assert response.status == 200 and response.body == b""
    assert client.is_open()
    get = client.request("GET", "/c")
    assert response.get("content-length") in (None, b"%d" % len(get.body))
    assert {r.method for r in ua.requests} == {b"GET"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_composition_is_only_for_reading(rig: Rig, method: str) -> None:
    gateway, ua, _ = composed(rig, ok(A, JSON))
    client = rig.connect(gateway)
    response = client.request(method, "/c", body=b'{"a":1}')
    problem(response, 405)
    assert response.get("allow") is not None
    assert not ua.heads
    assert rig.connect(gateway).request("GET", "/c").status == 200


def test_the_query_of_the_client_reaches_no_part_by_itself(rig: Rig) -> None:
    gateway, ua, ub = composed(rig, ok(A, JSON))
    assert rig.connect(gateway).request("GET", "/c?admin=1").status == 200
    assert [ua.requests[0].target, ub.requests[0].target] in ([b"/a", b"/b"], [b"/a?admin=1", b"/b?admin=1"])


def test_keys_that_need_escaping_still_give_valid_json(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(A, JSON)))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}}, [{"path": "/c", "compose": {"a_b": {"service": "u", "path": "/"}}}]
    )
    assert strict(rig.connect(gateway).request("GET", "/c").body) == {"a_b": {"x": 1}}


def test_a_part_is_tried_on_another_instance(rig: Rig) -> None:
    down, good = rig.upstream(answering(b"")), rig.upstream(answering(ok(A, JSON)))
    down.refuse()
    gateway = rig.gateway(
        {"u": {"targets": [down.url, good.url], "balance": "round_robin"}},
        [{"path": "/c", "compose": {"a": {"service": "u", "path": "/"}}}],
    )
    client = rig.connect(gateway)
    for _ in range(4):
        assert client.request("GET", "/c").body == b'{"a":{"x":1}}'
