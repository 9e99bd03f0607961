"""Where the gateway stores, composes or encodes bodies, coding, length, tag and bytes agree (RFC 9110 §8.4, §12.5.3).

Forwarded bodies are covered in ``test_hidden_transformation.py``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import brotli
import pytest
import zstandard

from tests.support.client import Client
from tests.support.expect import problem
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import Response

PLAIN = b'{"a": [1, 2.50, 1e3], "a": 2, "\\u00e9": "\xc3\xa9"}'
LONG = b"[" + b", ".join([PLAIN] * 40) + b"]"
CODED = gzip.compress(LONG, mtime=0)
JSON = b"Content-Type: application/json"
FRESH = b"Cache-Control: max-age=60"
ALL = ("Accept-Encoding", "gzip, br, zstd")

FORMS: dict[str, tuple[bytes, bytes]] = {
    "gzip": (b"gzip", CODED),
    "x-gzip": (b"x-gzip", CODED),
    "in capitals": (b"GZIP", CODED),
    "broken checksum": (b"gzip", CODED[:-8] + b"\0\0\0\0" + CODED[-4:]),
    "cut short": (b"gzip", CODED[: len(CODED) // 2]),
    "not coded at all": (b"gzip", LONG),
    "empty": (b"gzip", b""),
    "deflate": (b"deflate", zlib.compress(LONG)),
    "deflate without its frame": (b"deflate", zlib.compress(LONG)[2:-4]),
    "br": (b"br", brotli.compress(LONG)),
    "zstd": (b"zstd", zstandard.compress(LONG)),
    "two": (b"gzip, br", brotli.compress(CODED)),
    "unknown": (b"nonsense", LONG),
}


def coded(name: str, *fields: bytes) -> bytes:
    coding, body = FORMS[name]
    return ok(body, JSON, b"Content-Encoding: " + coding, b'ETag: "s"', *fields)


def is_same(answer: Response, name: str, method: str = "GET") -> None:
    """Whether the response is octet for octet what the service sent."""
    coding, body = FORMS[name]
    assert answer.status == 200
    assert answer.body == (body if method == "GET" else b"")
    assert answer.get("content-encoding") == coding
    assert answer.get("content-length") == b"%d" % len(body)
    assert answer.get("etag") == b'"s"'


def gateway(rig: Rig, script: Any, **route: Any) -> tuple[Upstream, Client]:
    upstream = rig.upstream(answering(script) if isinstance(script, bytes) else script)
    return upstream, rig.connect(rig.forward(upstream, route=route))


@pytest.mark.parametrize("route", [{"cache": {}}, {"cache": {"ttl": "1m"}}, {"cache": {}, "compress": True}])
@pytest.mark.parametrize("name", FORMS)
def test_what_is_stored_is_what_came(rig: Rig, name: str, route: dict[str, Any]) -> None:
    """Clients that do not accept that coding get it, too: without Vary, the service declares one response for all."""
    upstream, client = gateway(rig, coded(name, FRESH), **route)
    for fields in ((ALL,), (), (("Accept-Encoding", "identity"),), (ALL,)):
        for method in ("GET", "HEAD"):
            is_same(client.request(method, "/x", *fields), name, method)
    assert len(upstream.requests) == 1
    part = client.request("GET", "/x", ("Range", "bytes=0-3"))
    body = FORMS[name][1]
    assert (part.status, part.body) == ((206, body[:4]) if body else (416, b"")) or (part.status == 416 and not body)
    if part.status == 206:
        assert part.get("content-encoding") == FORMS[name][0], "it is a range of the coded form"
        assert part.get("content-range") == b"bytes 0-3/%d" % len(body)
    assert client.request("GET", "/x", ALL, ("If-None-Match", '"s"')).status == 304


def negotiating(conn: Connection) -> None:
    """Encode for clients that accept gzip, and declare the selection in Vary."""
    while True:
        request = conn.read_request()
        fields = [JSON, FRESH, b"Vary: Accept-Encoding"]
        if b"gzip" in (request.get("accept-encoding") or b""):
            conn.send(ok(CODED, *fields, b"Content-Encoding: gzip", b'ETag: "g"'))
        else:
            conn.send(ok(LONG, *fields, b'ETag: "p"'))


def test_each_gets_the_form_that_the_service_chose_for_it(rig: Rig) -> None:
    upstream, client = gateway(rig, negotiating, cache={})
    for _ in range(2):
        with_gzip = client.request("GET", "/x", ("Accept-Encoding", "gzip"))
        plain = client.request("GET", "/x")
        assert (with_gzip.body, with_gzip.get("content-encoding"), with_gzip.get("etag")) == (CODED, b"gzip", b'"g"')
        assert (plain.body, plain.all("content-encoding"), plain.get("etag")) == (LONG, [], b'"p"')
        assert with_gzip.get("vary") == plain.get("vary") == b"Accept-Encoding"
    assert len(upstream.requests) == 2


DECODE = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.parametrize("cache", [{}, {"cache": {}}])
@pytest.mark.parametrize("coding", DECODE)
def test_a_body_that_the_gateway_encodes_is_described_by_every_field(
    rig: Rig, coding: str, cache: dict[str, Any]
) -> None:
    plain = ok(LONG, JSON, FRESH, b'ETag: "s"', b"Accept-Ranges: bytes", b"Vary: Origin")
    _, client = gateway(rig, plain, compress=True, **cache)
    for method in ("GET", "HEAD", "GET"):
        answer = client.request(method, "/x", ("Accept-Encoding", coding))
        assert answer.get("content-encoding") == coding.encode()
        assert answer.get("etag") != b'"s"', "a strong tag is of one sequence of bytes"
        assert {name.strip().lower() for name in b",".join(answer.all("vary")).split(b",")} >= {
            b"origin",
            b"accept-encoding",
        }
        if method == "GET":
            assert DECODE[coding](answer.body) == LONG
            assert answer.get("content-length") in (None, b"%d" % len(answer.body))
    whole = client.request("GET", "/x")
    assert (whole.body, whole.all("content-encoding"), whole.get("etag")) == (LONG, [], b'"s"')
    assert b"accept-encoding" in b",".join(whole.all("vary")).lower()


@pytest.mark.parametrize("cache", [{}, {"cache": {}}])
@pytest.mark.parametrize(
    "control", [b"no-transform", b"No-Transform", b"max-age=60, no-transform", b'no-transform, x="y"']
)
def test_no_transform_is_obeyed(rig: Rig, control: bytes, cache: dict[str, Any]) -> None:
    _, client = gateway(rig, ok(LONG, JSON, b"Cache-Control: " + control, b'ETag: "s"'), compress=True, **cache)
    for _ in range(2):
        answer = client.request("GET", "/x", ALL)
        assert (answer.body, answer.all("content-encoding"), answer.get("etag")) == (LONG, [], b'"s"')


READABLE = ["gzip", "x-gzip", "in capitals", "deflate"]


def compose(rig: Rig, name: str, *fields: bytes, whole: bool = False, **part: Any) -> tuple[Upstream, Client]:
    one, other = rig.upstream(answering(coded(name, *fields))), rig.upstream(answering(ok(PLAIN, JSON, FRESH)))
    route: dict[str, Any] = {
        "path": "/c",
        "compose": {"a": {"service": "a", "path": "/a", **part}, "b": {"service": "b", "path": "/b"}},
    }
    if whole:
        route["cache"] = {"ttl": "1m"}
    made = rig.gateway({"a": {"targets": [one.url]}, "b": {"targets": [other.url]}}, [route])
    return one, rig.connect(made)


@pytest.mark.parametrize("keep", ["nothing", "part", "whole"])
@pytest.mark.parametrize("name", READABLE)
def test_a_part_is_decoded_before_it_is_joined(rig: Rig, name: str, keep: str) -> None:
    settings: dict[str, Any] = {"cache": {}} if keep == "part" else {}
    one, client = compose(rig, name, FRESH, whole=keep == "whole", **settings)
    for fields in ((ALL,), (), (ALL,)):
        answer = client.request("GET", "/c", *fields)
        assert answer.status == 200
        assert answer.body == b'{"a":' + LONG + b',"b":' + PLAIN + b"}", "spliced as the bytes they were"
        assert answer.all("content-encoding") == []
        assert answer.get("content-length") == b"%d" % len(answer.body)
        assert answer.get("etag") != b'"s"'
        json.loads(answer.body)
    assert len(one.requests) == (3 if keep == "nothing" else 1)


@pytest.mark.parametrize("name", [name for name in FORMS if name not in READABLE])
def test_a_part_that_cannot_be_decoded_is_never_joined(rig: Rig, name: str) -> None:
    one, client = compose(rig, name, FRESH, cache={})
    for _ in range(2):
        problem(client.request("GET", "/c", ALL), 502)
    _, other = compose(rig, name, FRESH, on_error=None)
    answer = other.request("GET", "/c", ALL)
    assert (answer.status, answer.body) == (200, b'{"a":null,"b":' + PLAIN + b"}")
    assert answer.get("passerelle-partial") == b"a"
    assert all(b"br" not in (request.get("accept-encoding") or b"") for request in one.requests), "nor is it asked for"
