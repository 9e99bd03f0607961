"""A request with two length signals, or an unusual one, never becomes two requests (RFC 9112 §6.1, §6.3, §11.2)."""

from __future__ import annotations

import pytest

from tests.support.client import chunks
from tests.support.expect import nothing_arrived, refused
from tests.support.gateways import Rig
from tests.support.upstream import answering, echo, ok

SMUGGLE = b"0\r\n\r\nX"  # read as chunked: an empty body, then the start of another request


def post(*lines: bytes, version: bytes = b"HTTP/1.1", body: bytes = SMUGGLE) -> bytes:
    return b"\r\n".join([b"POST /e " + version, b"Host: gw", *lines]) + b"\r\n\r\n" + body


REFUSED = {
    "both": (post(b"Content-Length: 6", b"Transfer-Encoding: chunked"), 400),
    "both, other order": (post(b"Transfer-Encoding: chunked", b"Content-Length: 6"), 400),
    "both, empty list member": (post(b"Content-Length: 6", b"Transfer-Encoding: ,chunked"), 400),
    "both, TE empty": (post(b"Content-Length: 6", b"Transfer-Encoding:"), 400),
    "both, TE identity": (post(b"Content-Length: 6", b"Transfer-Encoding: identity"), 400, 501),
    "vertical tab": (post(b"Transfer-Encoding: \x0bchunked"), 400),
    "form feed": (post(b"Transfer-Encoding: chunked\x0c"), 400),
    "no-break space": (post(b"Transfer-Encoding: chunked\xa0"), 400, 501),
    "next line": (post(b"Transfer-Encoding: \x85chunked"), 400, 501),
    "NUL": (post(b"Transfer-Encoding: chunked\0"), 400),
    "quoted": (post(b'Transfer-Encoding: "chunked"'), 400, 501),
    "chunked twice": (post(b"Transfer-Encoding: chunked, chunked"), 400),
    "chunked on two lines": (post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "identity": (post(b"Transfer-Encoding: identity"), 400, 501),
    "gzip": (post(b"Transfer-Encoding: gzip"), 400, 501),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked"), 400, 501),
    "chunked, gzip": (post(b"Transfer-Encoding: chunked, gzip"), 400),
    "chunked, identity": (post(b"Transfer-Encoding: chunked, identity"), 400),
    "identity and chunked lines": (post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"), 400, 501),
    "parameter": (post(b"Transfer-Encoding: chunked;q=1"), 400, 501),
    "prefix": (post(b"Transfer-Encoding: xchunked"), 400, 501),
    "suffix": (post(b"Transfer-Encoding: chunkedx"), 400, 501),
    "space inside": (post(b"Transfer-Encoding: chun ked"), 400, 501),
    "empty": (post(b"Transfer-Encoding:"), 400),
    "commas alone": (post(b"Transfer-Encoding: , ,"), 400),
    "name with a no-break space": (post(b"Transfer-Encoding\xa0: chunked"), 400),
    "name with a next line": (post(b"Transfer-Encoding\x85: chunked"), 400),
    "space before the colon": (post(b"Transfer-Encoding : chunked"), 400),
    "tab before the colon": (post(b"Transfer-Encoding\t: chunked"), 400),
    "space before the colon of CL": (post(b"Content-Length : 6"), 400),
    "folded": (post(b"Transfer-Encoding:", b" chunked"), 400),
    "folded value": (post(b"X-A: b", b"\tTransfer-Encoding: chunked"), 400),
    "first line folded": (b"POST /e HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: gw\r\n\r\n" + SMUGGLE, 400),
    "two equal lengths": (post(b"Content-Length: 6", b"Content-Length: 6"), 400),
    "two different lengths": (post(b"Content-Length: 6", b"Content-Length: 5"), 400),
    "a list of equal lengths": (post(b"Content-Length: 6, 6"), 400),
    "a list of different lengths": (post(b"Content-Length: 6, 0"), 400),
    "a length and an empty one": (post(b"Content-Length: 6", b"Content-Length:"), 400),
    "bare LF after a field": (
        b"POST /e HTTP/1.1\r\nHost: gw\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLE,
        400,
    ),
    "bare LF head": (b"POST /e HTTP/1.1\nHost: gw\nContent-Length: 6\n\n" + SMUGGLE, 400),
    "bare LF as blank line": (b"POST /e HTTP/1.1\r\nHost: gw\r\nContent-Length: 6\r\n\n" + SMUGGLE, 400),
    "bare CR in a value": (post(b"X: a\rTransfer-Encoding: chunked", b"Content-Length: 6"), 400),
    "bare CR in a name": (post(b"X\rTransfer-Encoding: chunked"), 400),
    "CR CR LF": (b"POST /e HTTP/1.1\r\nHost: gw\r\nContent-Length: 6\r\r\n\r\n" + SMUGGLE, 400),
    "HTTP/1.0 with chunked": (post(b"Connection: keep-alive", b"Transfer-Encoding: chunked", version=b"HTTP/1.0"), 400),
    "HTTP/1.0 with both": (
        post(b"Connection: keep-alive", b"Content-Length: 6", b"Transfer-Encoding: chunked", version=b"HTTP/1.0"),
        400,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_request_is_refused_and_the_connection_closed(rig: Rig, name: str) -> None:
    raw, *statuses = REFUSED[name]
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    refused(rig.connect(gateway), raw, *statuses)
    nothing_arrived(gateway, upstream)


@pytest.mark.parametrize("name", ["both", "two different lengths", "chunked twice", "bare LF head"])
def test_it_is_refused_byte_by_byte_too(rig: Rig, name: str) -> None:
    raw, *statuses = REFUSED[name]
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    client.send(*(raw[i : i + 1] for i in range(raw.index(b"0\r\n\r\nX") - 1)))
    refused(client, raw[raw.index(b"0\r\n\r\nX") - 1 :], *statuses)
    nothing_arrived(gateway, upstream)


@pytest.mark.parametrize(
    "value", [b"chunked", b",chunked", b"chunked,", b" , chunked ,,", b"CHUNKED", b"Chunked", b"\tchunked\t"]
)
def test_chunked_with_empty_list_members_is_chunked(rig: Rig, value: bytes) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    client.send(post(b"Transfer-Encoding: " + value, body=chunks(b"hello", b" world")))
    assert client.read_response().body == b"hello world"
    assert client.request("GET", "/next").status == 200
    assert [r.body for r in upstream.requests] == [b"hello world", b""]


def test_bytes_after_a_chunked_body_are_the_next_request_and_not_part_of_it(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\nX"))
    assert client.read_response("POST").status == 200
    assert [r.method for r in upstream.requests] == [b"POST"]
    refused(client, b"\r\n\r\n", 400)  # "X" alone is not a request line
    assert len(upstream.heads) == 1


def test_a_length_covers_just_its_bytes(rig: Rig) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    inner = b"GET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n"
    client.send(post(b"Content-Length: %d" % len(inner), body=inner))
    assert client.read_response().body == inner
    assert client.request("GET", "/next").status == 200
    assert [r.target for r in upstream.requests] == [b"/e", b"/next"]


def test_an_http_1_0_client_may_send_a_length_and_keep_alive(rig: Rig) -> None:
    upstream = rig.upstream(echo)
    client = rig.connect(rig.forward(upstream))
    client.send(post(b"Connection: keep-alive", b"Content-Length: 5", version=b"HTTP/1.0", body=b"hello"))
    assert client.read_response().body == b"hello"
