"""Compression in a running gateway: which responses are encoded for which clients, and what the cache stores."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from itertools import pairwise

import brotli
import pytest
import zstandard

from tests.support.client import Client
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Script, Upstream, answering, ok
from tests.support.wire import Response, wait_until

JSON = b"Content-Type: application/json"
FRESH = b"Cache-Control: max-age=60"
BODY = json.dumps([{"id": n, "name": "item"} for n in range(200)]).encode()
ALL = ("Accept-Encoding", "gzip, br, zstd")


def said(message: Response, name: str) -> str | None:
    """Return the value of a field as text."""
    value = message.get(name)
    return None if value is None else value.decode("latin-1")


def decoded(answer: Response) -> bytes:
    """Return the decoded body."""
    coding = said(answer, "content-encoding")
    if coding == "gzip":
        return gzip.decompress(answer.body)
    if coding == "br":
        return bytes(brotli.decompress(answer.body))
    if coding == "zstd":
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(answer.body))
    assert coding is None
    return answer.body


def compressing(rig: Rig, script: Script, compress: object = True, **route: object) -> tuple[Upstream, Running, Client]:
    """A gateway with one route that compresses responses."""
    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"compress": compress, **route})
    return upstream, gateway, rig.connect(gateway)


@pytest.mark.parametrize(
    ("accept", "compress", "coding"),
    [
        ("gzip, br, zstd", True, "zstd"),
        ("gzip, br", True, "br"),
        ("gzip", True, "gzip"),
        ("br;q=0.5, gzip", True, "gzip"),
        ("gzip, br, zstd", ["gzip", "zstd"], "gzip"),
        ("br", ["gzip"], None),
        ("identity", True, None),
        ("gzip;q=0, *;q=0", True, None),
        ("*", ["br"], "br"),
        ("", True, None),
    ],
)
def test_the_client_gets_a_coding_that_it_accepts(rig: Rig, accept: str, compress: object, coding: str | None) -> None:
    _, _, client = compressing(rig, answering(ok(BODY, JSON, b'ETag: "v"', b"Accept-Ranges: bytes")), compress)
    answer = client.request("GET", "/x", ("Accept-Encoding", accept))
    assert (answer.status, said(answer, "content-encoding"), decoded(answer)) == (200, coding, BODY)
    assert said(answer, "vary") == "Accept-Encoding"
    assert said(answer, "content-length") == str(len(answer.body))
    assert said(answer, "etag") == ('W/"v"' if coding else '"v"')
    assert (said(answer, "accept-ranges") is None) == (coding is not None)
    assert (len(answer.body) < len(BODY) / 4) == (coding is not None)
    assert decoded(client.request("GET", "/x", ("Accept-Encoding", accept))) == BODY


def test_without_the_field_and_on_other_routes_nothing_is_coded(rig: Rig) -> None:
    _, _, client = compressing(rig, answering(ok(BODY, JSON)))
    plain = client.request("GET", "/x")
    assert (plain.body, said(plain, "vary"), said(plain, "content-encoding")) == (BODY, "Accept-Encoding", None)
    other = rig.connect(rig.forward(rig.upstream(answering(ok(BODY, JSON)))))
    assert (other.request("GET", "/x", ALL).body, said(other.request("GET", "/x", ALL), "vary")) == (BODY, None)


CODED = gzip.compress(BODY)
UNTOUCHED = {
    "no-transform": ok(BODY, JSON, b"Cache-Control: public, no-transform"),
    "coded already": ok(CODED, JSON, b"Content-Encoding: gzip", b'ETag: "g"'),
    "broken, and said to be coded": ok(b"not gzip" * 100, JSON, b"Content-Encoding: gzip"),
    "a range": ok(BODY, JSON, b"Content-Range: bytes 0-9/10").replace(b"200 OK", b"206 Partial"),
    "an image": ok(BODY, b"Content-Type: image/png"),
    "no type": ok(BODY),
    "events": ok(b"data: 1\n\n" * 100, b"Content-Type: text/event-stream"),
    "short": ok(b"[" + b" " * 100 + b"]", JSON),
    "a digest": ok(BODY, JSON, b"Content-Digest: sha-256=:AAAA:"),
    "a digest of the representation": ok(BODY, JSON, b"Repr-Digest: sha-256=:AAAA:"),
}


@pytest.mark.parametrize("raw", UNTOUCHED.values(), ids=UNTOUCHED.keys())
@pytest.mark.parametrize("cache", [None, {"ttl": "1m"}])
def test_b12_what_must_not_be_coded_is_as_it_was(rig: Rig, raw: bytes, cache: dict[str, str] | None) -> None:
    _, _, client = compressing(rig, answering(raw), **({"cache": cache} if cache else {}))
    head, _, body = raw.partition(b"\r\n\r\n")
    for _ in range(2):
        answer = client.request("GET", "/x", ALL)
        assert answer.body == body
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b": ")
            assert answer.get(name.decode()) == value


def test_a_client_can_forbid_it(rig: Rig) -> None:
    _, _, client = compressing(rig, answering(ok(BODY, JSON)))
    assert client.request("GET", "/x", ALL, ("Cache-Control", "no-transform")).body == BODY


def test_types_and_size_are_the_route_s(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            kind, size = conn.read_request().target.rsplit(b"/", 2)[-2:]
            conn.send(ok(b"x" * int(size), b"Content-Type: " + kind.replace(b"-", b"/", 1)))

    compress = {"types": ["image/*", "Application/X-Own"], "min_size": "1KiB", "codings": ["gzip"]}
    _, _, client = compressing(rig, script, compress)
    found = {
        path: said(client.request("GET", path, ALL), "content-encoding")
        for path in ("/image-bmp/1024", "/image-bmp/1023", "/application-x-own/2000", "/text-plain/2000")
    }
    assert list(found.values()) == ["gzip", None, "gzip", None]


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_b17_each_piece_comes_out_before_the_next_is_there(rig: Rig, coding: str) -> None:
    go = [threading.Event() for _ in range(3)]

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, event in enumerate(go):
            conn.send(b"6\r\nline %d\r\n" % number)
            conn.wait(event)
        conn.send(b"0\r\n\r\n")

    _, _, client = compressing(rig, script)
    client.send(b"GET /x HTTP/1.1\r\nHost: gw\r\nAccept-Encoding: %b\r\n\r\n" % coding.encode())
    head = client.until(b"\r\n\r\n").lower()
    assert b"content-encoding: %b\r\n" % coding.encode() in head and b"transfer-encoding: chunked" in head
    decoder = {
        "gzip": lambda: zlib.decompressobj(31).decompress,
        "br": lambda: brotli.Decompressor().process,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
    }[coding]()
    plain = b""
    for number, event in enumerate(go):
        while not plain.endswith(b"line %d" % number):
            size = int(client.until(b"\r\n"), 16)
            plain += decoder(client.exactly(size + 2)[:-2])
        event.set()
    while size := int(client.until(b"\r\n"), 16):
        plain += decoder(client.exactly(size + 2)[:-2])
    assert plain == b"line 0line 1line 2"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("framed", [True, False])
def test_a_long_body_comes_through_whole(rig: Rig, coding: str, framed: bool) -> None:
    long = BODY * 300

    def script(conn: Connection) -> None:
        conn.read_request()
        if framed:
            conn.send(ok(long, JSON))
        else:
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n", long)
            conn.close()

    _, _, client = compressing(rig, script)
    answer = client.request("GET", "/x", ("Accept-Encoding", coding))
    assert (decoded(answer), said(answer, "content-encoding")) == (long, coding)
    assert said(answer, "content-length") is None


def test_b06_a_cut_body_is_not_ended(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9000\r\n\r\n", b"half " * 100)
        conn.close()

    _, _, client = compressing(rig, script, attempts=1)
    client.send(b"GET /x HTTP/1.1\r\nHost: gw\r\nAccept-Encoding: gzip\r\n\r\n")
    assert not client.rest().endswith(b"0\r\n\r\n")


def test_head_has_the_fields_of_the_coded_answer(rig: Rig) -> None:
    raw = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: "v"\r\n%bContent-Length: 5000\r\n\r\n'

    def script(conn: Connection) -> None:
        while True:
            path = conn.read_request().target
            conn.send(raw % b"" if path == b"/x" else raw.replace(b"%bContent-Length: 5000\r\n", b""))

    _, _, client = compressing(rig, script)
    answer = client.request("HEAD", "/x", ALL)
    assert [said(answer, name) for name in ("content-encoding", "etag", "vary")] == ["zstd", 'W/"v"', "Accept-Encoding"]
    assert said(answer, "content-length") is None
    assert said(client.request("HEAD", "/x"), "content-length") == "5000"
    assert said(client.request("HEAD", "/y", ALL), "content-encoding") is None


def test_a_304_has_the_tag_of_the_200_that_it_stands_for(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            assert request.get("if-none-match") is not None
            conn.send(b'HTTP/1.1 304 Not Modified\r\nETag: "v"\r\n\r\n')

    _, _, client = compressing(rig, script)
    held = client.request("GET", "/x", ALL, ("If-None-Match", '"a", W/"v"'))
    assert (held.status, said(held, "etag"), said(held, "vary")) == (304, 'W/"v"', "Accept-Encoding")
    assert said(client.request("GET", "/x", ("If-None-Match", '"v"')), "etag") == '"v"'


PLACES = {
    "304": (b"304 Not Modified", b""),
    "304 with its type": (b"304 Not Modified", JSON + b"\r\n"),
    "206": (b"206 Partial Content", JSON + b"\r\nContent-Range: bytes 0-1/5000\r\nContent-Length: 2\r\n"),
    "206 of several ranges": (b"206 Partial Content", b"Content-Type: multipart/byteranges; boundary=a\r\n"),
    "head": (b"200 OK", JSON + b"\r\n"),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("tag", ['"v"', 'W/"v"'])
def test_what_is_sent_in_place_of_a_coded_response_varies_as_it_does(rig: Rig, name: str, tag: str) -> None:
    status, lines = PLACES[name]
    body = b"ab" if name.startswith("206") else b""
    raw = b"HTTP/1.1 %b\r\nETag: %b\r\nVary: Origin\r\n%b" % (status, tag.encode(), lines)
    if name == "206 of several ranges":
        raw += b"Content-Length: 2\r\n"
    _, _, client = compressing(rig, answering(raw + b"\r\n" + body))
    method = "HEAD" if name == "head" else "GET"
    for accept in ("gzip", "identity"):
        answer = client.request(method, "/x", ("Accept-Encoding", accept), ("If-None-Match", '"v"'))
        assert answer.body == body
        assert answer.all("vary") == [b"Origin", b"Accept-Encoding"]
        assert said(answer, "content-encoding") is None
        weak = accept == "gzip" and not name.startswith("206")
        assert said(answer, "etag") == ('W/"v"' if weak else tag)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Type: image/png",
        b"Cache-Control: no-transform",
        b"Content-Encoding: br",
        b"Repr-Digest: sha-256=:AA==:",
    ],
)
@pytest.mark.parametrize("status", [b"304 Not Modified", b"206 Partial Content"])
def test_what_is_sent_in_place_of_an_uncoded_response_is_as_it_was(rig: Rig, status: bytes, line: bytes) -> None:
    length = b"" if status[:3] == b"304" else b"Content-Range: bytes 0-0/5000\r\nContent-Length: 1\r\n"
    raw = b'HTTP/1.1 %b\r\nETag: "v"\r\n%b\r\n%b\r\n' % (status, line, length)
    _, _, client = compressing(rig, answering(raw + (b"a" if length else b"")))
    answer = client.request("GET", "/x", ALL, ("If-None-Match", '"v"'))
    assert (said(answer, "etag"), answer.all("vary")) == ('"v"', [])


def test_an_upgrade_passes_untouched(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_head()
        conn.send(b"HTTP/1.1 101 Switching\r\nUpgrade: own\r\nConnection: upgrade\r\n\r\n", b"x" * 1000)
        conn.until(b"end")

    _, _, client = compressing(rig, script)
    client.send(b"GET / HTTP/1.1\r\nHost: gw\r\nAccept-Encoding: gzip\r\nUpgrade: own\r\nConnection: upgrade\r\n\r\n")
    assert b" 101 " in client.until(b"\r\n\r\n")
    assert client.exactly(1000) == b"x" * 1000
    client.send(b"end")


# ---- with a cache


@pytest.mark.parametrize("vary", [(), (b"Vary: Accept-Encoding",)])
def test_stored_once_and_coded_for_each_client(rig: Rig, vary: tuple[bytes, ...]) -> None:
    upstream, gateway, client = compressing(rig, answering(ok(BODY, JSON, FRESH, b'ETag: "v"', *vary)), cache={})
    for coding in ("gzip", "br", "zstd", None) * 3:
        answer = client.request("GET", "/x", *([("Accept-Encoding", coding)] if coding else []))
        assert (said(answer, "content-encoding"), decoded(answer)) == (coding, BODY)
        assert said(answer, "etag") == ('W/"v"' if coding else '"v"')
        assert said(answer, "content-length") == str(len(answer.body))
        assert answer.all("vary") == [b"Accept-Encoding"]
    assert said(answer, "cache-status") == "passerelle; hit"
    assert len(upstream.requests) == 1
    assert upstream.requests[0].all("accept-encoding") == [b"identity"]
    assert gateway.snapshot()["cache"]["entries"] == 1 + bool(vary)


def test_coded_forms_count_in_the_memory_and_go_with_their_entry(rig: Rig) -> None:
    _, gateway, client = compressing(rig, answering(ok(BODY, JSON, FRESH)), cache={})
    sizes = [gateway.snapshot()["cache"]["bytes"]]
    for accept in ("identity", "gzip", "gzip", "br", "zstd"):
        for _ in range(2):
            client.request("GET", "/x", ("Accept-Encoding", accept))
        sizes.append(gateway.snapshot()["cache"]["bytes"])
    steps = [after - before for before, after in pairwise(sizes)]
    assert steps[0] > len(BODY) and steps[2] == 0 and all(100 < steps[n] < len(BODY) for n in (1, 3, 4))
    rig.loop.call(lambda: gateway.gateway.purge("all", ""))
    assert gateway.snapshot()["cache"]["bytes"] == sizes[0]


def test_the_memory_keeps_its_bound_when_only_hits_come(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(BODY, JSON, FRESH)))
    gateway = rig.forward(upstream, route={"compress": True, "cache": {}}, cache={"memory": "256KiB"})
    client = rig.connect(gateway)
    for _ in range(3):
        for number in range(40):
            for accept in ("gzip", "br", "zstd", "identity"):
                client.request("GET", f"/{number}", ("Accept-Encoding", accept))
                assert gateway.snapshot()["cache"]["bytes"] <= 256 * 1024


@pytest.mark.parametrize("accept", ["gzip", "identity"])
def test_conditions_and_ranges_are_answered_from_the_right_form(rig: Rig, accept: str) -> None:
    upstream, _, client = compressing(rig, answering(ok(BODY, JSON, FRESH, b'ETag: "v"')), cache={})
    field = ("Accept-Encoding", accept)
    tag = said(client.request("GET", "/x", field), "etag") or ""
    for held in (tag, '"v"', 'W/"v"', "*"):
        found = client.request("GET", "/x", field, ("If-None-Match", held))
        assert (found.status, said(found, "etag"), said(found, "vary")) == (304, tag, "Accept-Encoding")
    assert client.request("GET", "/x", field, ("If-None-Match", '"w"')).status == 200
    part = client.request("GET", "/x", field, ("Range", "bytes=2-5"))
    assert (part.status, part.body, said(part, "content-encoding")) == (206, BODY[2:6], None)
    assert said(part, "etag") == '"v"'
    head = client.request("HEAD", "/x", field)
    whole = client.request("GET", "/x", field)
    assert said(head, "content-length") == said(whole, "content-length") == str(len(whole.body))
    assert len(upstream.requests) == 1


def test_b21_validation_by_304_keeps_the_body_and_renews_its_forms(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(ok(BODY, JSON, b"Cache-Control: max-age=0", b'ETag: "v"'))
        assert conn.read_request().get("if-none-match") == b'"v"'
        conn.send(b'HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\nETag: "v"\r\n', FRESH, b"\r\nX-New: 1\r\n\r\n")

    upstream, _, client = compressing(rig, script, cache={})
    client.request("GET", "/x", ALL)
    for accept in ("zstd", "zstd", "gzip"):
        answer = client.request("GET", "/x", ("Accept-Encoding", accept), ("If-None-Match", '"other"'))
        assert (decoded(answer), said(answer, "x-new"), said(answer, "etag")) == (BODY, "1", 'W/"v"')
        assert said(answer, "content-encoding") == accept
    assert len(upstream.requests) == 2


def test_an_update_evicts_every_coded_form(rig: Rig) -> None:
    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(BODY[:-1] + b",%d]" % len(conn.upstream.requests), JSON, FRESH))

    _, _, client = compressing(rig, script, cache={})
    before = {decoded(client.request("GET", "/x", ("Accept-Encoding", c))) for c in ("gzip", "br", "identity")}
    client.request("PUT", "/x", body=b"new")
    after = {decoded(client.request("GET", "/x", ("Accept-Encoding", c))) for c in ("gzip", "br", "identity")}
    assert len(before) == len(after) == 1 and before != after


def test_a_long_stored_answer_is_coded_beside_the_requests(rig: Rig) -> None:
    long = BODY * 300
    upstream, _, client = compressing(rig, answering(ok(long, JSON, FRESH)), cache={})
    client.request("GET", "/x")

    def coded() -> bool:
        answer = client.request("GET", "/x", ("Accept-Encoding", "gzip"))
        assert decoded(answer) == long
        return said(answer, "content-encoding") == "gzip" and said(answer, "content-length") == str(len(answer.body))

    wait_until(coded, "the coded form", within=20)
    assert len(upstream.requests) == 1


def test_a_reload_with_other_codings_applies_at_once(rig: Rig) -> None:
    upstream, gateway, client = compressing(rig, answering(ok(BODY, JSON, FRESH)), cache={})
    assert [said(client.request("GET", "/x", ALL), "content-encoding") for _ in range(2)] == ["zstd", "zstd"]
    route = {"path": "/{rest*}", "service": "u", "cache": {}}
    service = {"u": {"targets": [upstream.url]}}
    gateway.reload(service, [{**route, "compress": ["gzip"]}])
    assert [said(client.request("GET", "/x", ALL), "content-encoding") for _ in range(2)] == ["gzip", "gzip"]
    gateway.reload(service, [route])
    assert [said(client.request("GET", "/x", ALL), "content-encoding") for _ in range(2)] == [None, None]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("cache", [None, {"ttl": "1m"}])
def test_a_composed_answer_is_coded_too(rig: Rig, cache: dict[str, str] | None) -> None:
    upstream = rig.upstream(answering(ok(BODY, JSON)))
    route = {"path": "/api", "compress": True, "compose": {"a": {"service": "u", "path": "/a"}}}
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [route if cache is None else {**route, "cache": cache}])
    client = rig.connect(gateway)
    for accept in ("gzip", "zstd", "identity", "gzip"):
        answer = client.request("GET", "/api", ("Accept-Encoding", accept))
        assert decoded(answer) == b'{"a":' + BODY + b"}"
        assert said(answer, "content-encoding") == (accept if accept != "identity" else None)
        assert b"Accept-Encoding" in answer.all("vary")
    assert len(upstream.requests) == (4 if cache is None else 1)
    settle(gateway)
