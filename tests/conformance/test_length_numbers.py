"""Lengths are ASCII digits and nothing else, from clients and services (RFC 9110 §8.6, RFC 9112 §6.3, §7.1)."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.expect import nothing_arrived, problem, refused
from tests.support.gateways import Rig
from tests.support.upstream import answering, echo, ok, once
from tests.support.wire import Closed

NOT_LENGTHS = {
    "plus": b"+5",
    "underscore": b"5_0",
    "minus zero": b"-0",
    "minus": b"-5",
    "hex": b"0x5",
    "no-break space": b"\xa05",
    "vertical tab": b"\x0b5",
    "empty": b"",
    "space inside": b"5 0",
    "fraction": b"5.0",
    "exponent": b"5e0",
    "list": b"5,5",
    "trailing comma": b"5,",
    "quoted": b'"5"',
    "superscript": b"\xb2",
    "fullwidth digit": b"\xef\xbc\x95",
    "5000 digits": b"5" * 5000,
    "2^64": b"18446744073709551616",
    "2^64 + 5": b"18446744073709551621",
    "2^63": b"9223372036854775808",
}

NOT_CHUNK_SIZES = {
    "plus": b"+5",
    "minus zero": b"-0",
    "minus": b"-5",
    "hex prefix": b"0x5",
    "underscore": b"1_f",
    "empty": b"",
    "extension alone": b";a",
    "20 digits": b"00000000000000000005"[::-1],
    "17 digits": b"1" + b"0" * 15 + b"5",
    "2^64": b"10000000000000000",
    "no digit": b"g",
    "no-break space": b"\xa05",
    "space before": b" 5",
    "space inside": b"5 5",
    "fullwidth digit": b"\xef\xbc\x95",
    "digits then letters": b"5z",
    "tab": b"\t5",
    "bare LF": b"5\nhello",
    "bare CR": b"5\rhello",
    "NUL in extension": b"5;a\0",
    "LF in extension": b"5;a\nb",
    "CR in extension": b"5;a\rb",
}


@pytest.mark.parametrize("name", NOT_LENGTHS)
def test_a_request_with_a_bad_length_is_refused(rig: Rig, name: str) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    raw = b"POST /e HTTP/1.1\r\nHost: gw\r\nContent-Length: " + NOT_LENGTHS[name] + b"\r\n\r\nhello"
    refused(rig.connect(gateway), raw, 400, *([413] if name.startswith(("2^", "5000")) else []))
    nothing_arrived(gateway, upstream)


@pytest.mark.parametrize("name", NOT_LENGTHS)
def test_a_response_with_a_bad_length_is_a_502_and_its_connection_is_not_used_again(rig: Rig, name: str) -> None:
    bad = b"HTTP/1.1 200 OK\r\nContent-Length: " + NOT_LENGTHS[name] + b"\r\n\r\nhello"
    upstream = rig.upstream([once(bad), answering(ok())])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("POST", "/", body=b"x"), 502)
    assert client.request("GET", "/").body == b"ok"
    assert len(upstream.connections) == 2
    assert upstream.connections[0].gone.wait(5)


@pytest.mark.parametrize("name", NOT_CHUNK_SIZES)
def test_a_request_with_a_bad_chunk_size_is_refused(rig: Rig, name: str) -> None:
    upstream = rig.upstream(echo)
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    raw = (
        b"POST /e HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"
        + NOT_CHUNK_SIZES[name]
        + b"\r\nhello\r\n0\r\n\r\n"
    )
    refused(client, raw, 400)
    with gateway.connect() as probe:
        assert probe.request("GET", "/probe").status == 200
    assert [r.target for r in upstream.requests] == [b"/probe"]  # at most an incomplete request was forwarded


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"5\r\nhelloX\r\n0\r\n\r\n", id="data too long"),
        pytest.param(b"5\r\nhello0\r\n\r\n", id="no CRLF after the data"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="LF after the data"),
        pytest.param(b"5\r\nhello\r0\r\n\r\n", id="CR after the data"),
        pytest.param(b"5\nhello\r\n0\r\n\r\n", id="LF after the size"),
        pytest.param(b"5\r\nhello\r\n0\n\r\n", id="LF after the last size"),
        pytest.param(b"5\r\nhello\r\n0\r\n\n", id="LF as the last line"),
        pytest.param(b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", id="malformed trailer"),
        pytest.param(b"5\r\nhello\r\n0\r\nX: y\nZ: w\r\n\r\n", id="LF in the trailers"),
        pytest.param(b"5\r\nhello\r\n0\r\n folded: y\r\n\r\n", id="folded trailer"),
        pytest.param(b"5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n", id="length as a trailer"),
        pytest.param(b"5\r\nhello\r\n0\r\nX: y\r\ntransfer-encoding: chunked\r\n\r\n", id="coding as a trailer"),
        pytest.param(b"5\r\nhello\r\n0\r\nHOST: evil\r\n\r\n", id="host as a trailer"),
    ],
)
def test_a_badly_chunked_request_body_never_ends_well(rig: Rig, raw: bytes) -> None:
    upstream = rig.upstream(echo)
    gateway = rig.forward(upstream)
    refused(rig.connect(gateway), b"POST /e HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n" + raw, 400)
    with gateway.connect() as probe:
        assert probe.request("GET", "/probe").status == 200
    assert [r.target for r in upstream.requests] == [b"/probe"]


@pytest.mark.parametrize("name", NOT_CHUNK_SIZES)
def test_a_response_with_a_bad_chunk_size_never_ends_well(rig: Rig, name: str) -> None:
    bad = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + NOT_CHUNK_SIZES[name] + b"\r\nhello\r\n0\r\n\r\n"
    upstream = rig.upstream([once(bad), answering(ok())])
    gateway = rig.forward(upstream, route={"attempts": 1})
    client = rig.connect(gateway)
    with contextlib.suppress(Closed):  # if the head was sent already, the client sees a truncated message
        problem(client.request("POST", "/", body=b"x"), 502)
    with gateway.connect() as other:
        assert other.request("GET", "/").body == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((b"Content-Length: 5", b"Transfer-Encoding: chunked"), "both"),
        ((b"Content-Length: 5", b"Content-Length: 6"), "two lengths"),
        ((b"Transfer-Encoding: gzip, chunked",), "unknown coding"),
        ((b"Transfer-Encoding: chunked, chunked",), "chunked twice"),
        ((b"Transfer-Encoding : chunked",), "space before the colon"),
        ((b"X: a\nTransfer-Encoding: chunked",), "bare LF"),
        ((b"X: a\rb",), "bare CR"),
        ((b"X: a\0b",), "NUL"),
        ((b"no colon",), "no colon"),
        ((b": empty name",), "empty name"),
    ],
)
def test_an_ambiguous_or_malformed_response_head_is_a_502(rig: Rig, lines: tuple[bytes, ...], why: str) -> None:
    bad = b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(lines) + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    upstream = rig.upstream([once(bad), answering(ok())])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("POST", "/", body=b"x"), 502)
    assert client.request("GET", "/").body == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 99 Low",
        b"HTTP/1.1 1000 High",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1 600 Odd",
        b"HTTP/1.1",
        b"HTTP/2.0 200 OK",
        b"ICY 200 OK",
        b"200 OK",
        b"HTTP/1.1  200 OK",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_a_malformed_status_line_is_a_502(rig: Rig, line: bytes) -> None:
    upstream = rig.upstream([once(line + b"\r\nContent-Length: 0\r\n\r\n"), answering(ok())])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("POST", "/", body=b"x"), 502)
    assert client.request("GET", "/").body == b"ok"


@pytest.mark.parametrize("ended", [True, False])
def test_a_response_head_over_64_kib_is_a_502(rig: Rig, ended: bool) -> None:
    bad = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + (b"\r\n\r\n" if ended else b"")
    upstream = rig.upstream([once(bad), answering(ok())])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("POST", "/", body=b"x"), 502)
    assert client.request("GET", "/").body == b"ok"
