"""The coding of a body and the octets of a target are forwarded unchanged (RFC 9110 §7.7, §8.4; RFC 9112 §3.2)."""

from __future__ import annotations

import gzip
import zlib

import pytest

from tests.support.expect import nothing_arrived, refused
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok

PLAIN = b'{"a": [1, 2.50, 1e3], "a": 2}' * 20
CODED = gzip.compress(PLAIN, mtime=0)
BROKEN = CODED[:-8] + b"\0\0\0\0" + CODED[-4:]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"gzip", CODED),
        (b"x-gzip", CODED),
        (b"gzip", BROKEN),
        (b"gzip", CODED[: len(CODED) // 2]),
        (b"deflate", zlib.compress(PLAIN)),
        (b"br", b"\x0b\x02\x80hello\x03"),
        (b"zstd", b"\x28\xb5\x2f\xfd\x04\x00"),
        (b"gzip, br", CODED),
        (b"gzip", b""),
        (b"nonsense", PLAIN),
    ],
)
@pytest.mark.parametrize("accept", [None, "gzip", "identity"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_coded_body_is_relayed_as_it_is(
    rig: Rig, coding: bytes, body: bytes, accept: str | None, method: str
) -> None:
    fields = (b"Content-Type: application/json", b"Content-Encoding: " + coding, b'ETag: "s"')
    raw = ok(body, *fields)
    upstream = rig.upstream(answering(raw[: -len(body)] if method == "HEAD" and body else raw))
    client = rig.connect(rig.forward(upstream))
    response = client.request(method, "/", *([("Accept-Encoding", accept)] if accept else []))
    assert response.body == (b"" if method == "HEAD" else body)
    assert response.get("content-encoding") == coding
    assert response.get("content-length") == b"%d" % len(body)
    assert response.get("etag") == b'"s"'
    assert upstream.requests[0].all("accept-encoding") == ([accept.encode()] if accept else [])


SAME = [
    b"/e?k=9&m=1&k=8&flag&sg=%FC%80&c=x;y&t=two%20words&p=%2B+&w=u?v",
    b"/e?",
    b"/e",
    b"/e?&&=",
    b"/e?x=%",
    b"/e?x=%zz",
    b"/e?x=%2",
    b"/e?q=a|b",
    b"/e?q=C:\\a\\b",
    b"/e?\\",
    b"/e?a=b?c\\d",
    b"/e?q=^`{}[]'\"|",
    b"/e?a=/../b/./c//d",
    b"/e?a=%2e%2e%2f",
    b"/e?%66oo=b%61r",
    b"/e??",
    b"/e?a=b=c",
    b"/e?url=http://other.example/p?q=1",
    b"/e?x=%00",
    b"/e?x=%E2%82%AC",
]


@pytest.mark.parametrize("target", SAME)
def test_a_target_reaches_the_upstream_octet_for_octet(rig: Rig, target: bytes) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    client.send(b"GET " + target + b" HTTP/1.1\r\nHost: gw\r\n\r\n")
    assert client.read_response().status == 200
    assert [r.target for r in upstream.requests] == [target]


@pytest.mark.parametrize("query", [b"q={}|^", b"q=`", b"q=[1]"])
def test_characters_outside_the_grammar_that_are_harmless_pass_as_they_are_or_are_refused(
    rig: Rig, query: bytes
) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(b"GET /e?" + query + b" HTTP/1.1\r\nHost: gw\r\n\r\n")
    if client.read_response().status == 200:
        assert upstream.requests[0].target == b"/e?" + query
    else:
        assert not upstream.heads


@pytest.mark.parametrize(
    "target",
    [
        b"/e?q=\x80",
        b"/e?q=\xc3\xa9",
        b"/\xe9",
        b"/e?q=\x01",
        b"/e?q=\x7f",
        b"/e?q=\0",
        b"/e?q=a b",
        b"/e?q=a\tb",
        b"/e?q=a\rb",
        b"/e?q=a\x0bb",
        b"/e#fragment",
        b"/e?q#fragment",
    ],
)
def test_bytes_that_no_target_may_hold_are_refused(rig: Rig, target: bytes) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    refused(rig.connect(gateway), b"GET " + target + b" HTTP/1.1\r\nHost: gw\r\n\r\n", 400)
    nothing_arrived(gateway, upstream)


def test_a_rewrite_keeps_the_query_as_it_is(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}}, [{"path": "/a/{id}", "service": "u", "rewrite": "/internal/{id}"}]
    )
    client = rig.connect(gateway)
    for target in (b"/a/1?k=9&flag&c=x;y&p=%2B+", b"/a/1?", b"/a/1", b"/a/%20?x=%"):
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert client.read_response().status == 200
    assert [r.target for r in upstream.requests] == [
        b"/internal/1?k=9&flag&c=x;y&p=%2B+",
        b"/internal/1?",
        b"/internal/1",
        b"/internal/%20?x=%",
    ]
