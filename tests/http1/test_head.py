"""Heads: framing, forwarding, and agreement with an independent parser."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Failure, Kind
from passerelle.http1 import framing, head
from passerelle.http1.framing import REQUEST_FRAMINGS
from passerelle.http1.head import REQUEST_LINE, RequestHead, ResponseHead


def request(*lines: bytes, limit: int = 100) -> RequestHead:
    return RequestHead(b"".join(line + b"\r\n" for line in lines), limit)


def response(*lines: bytes) -> ResponseHead:
    return ResponseHead(b"\r\n".join(lines) + b"\r\n\r\n")


@pytest.mark.parametrize(
    "lines",
    [
        (b"Host: a", b"Content-Length: 6", b"Transfer-Encoding: chunked"),
        (b"Host: a", b"Content-Length: 5", b"Content-Length: 5"),
        (b"Host: a", b"Content-Length: 5", b"Content-Length: 6"),
        (b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Host: a", b"Host: a"),
        (b"Host: a", b"X: b", b" folded"),
        (b"Host: a", b"", b"X: b"),
    ],
)
def test_ambiguous_framing_is_refused(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(Failure) as failure:
        request(*lines)
    assert failure.value.kind is Kind.BAD_REQUEST


def test_ambiguous_framing_is_refused_each_time() -> None:
    """The lines are also refused after valid heads that contain them separately, whose meaning is remembered."""
    for _ in range(3):
        assert request(b"Host: a", b"Content-Length: 5").content_length == 5
        assert request(b"Host: a", b"Transfer-Encoding: chunked").chunked
        with pytest.raises(Failure):
            request(b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked")


def test_an_upgrade_beside_a_body_is_ignored_each_time() -> None:
    for _ in range(3):
        lines = (b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket")
        assert request(*lines).upgrade == b"websocket"
        assert request(*lines, b"Content-Length: 0").upgrade == b"websocket"
        assert request(*lines, b"Content-Length: 5").upgrade is None
        assert request(*lines, b"Transfer-Encoding: chunked").upgrade is None


def test_heads_that_frame_alike_share_nothing_else() -> None:
    framing = (b"Host: a", b"Connection: keep-alive, X-B", b"User-Agent: one")
    first = request(*framing, b"X-A: 1", b"X-B: 1")
    first.cache_view = first.chain = first.upstream = "of the first"  # type: ignore[assignment]
    second = request(framing[0], b"X-A: 2", *framing[1:], b"Authorization: x", b"X-C: 3")
    assert (first.host, first.keep_alive, first.user_agent) == (second.host, second.keep_alive, second.user_agent)
    assert first.relay == b"Host: a\r\nUser-Agent: one\r\nX-A: 1\r\n"
    assert second.relay == b"Host: a\r\nX-A: 2\r\nUser-Agent: one\r\nAuthorization: x\r\nX-C: 3\r\n"
    assert (first.selecting(), second.selecting()) == ([], [(b"authorization", b"x")])
    assert second.cache_view is second.chain is second.upstream is None


def test_framings_are_remembered_in_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    framings = REQUEST_FRAMINGS
    framings.clear()
    monkeypatch.setattr(framing, "_MOST_FRAMINGS", 8)
    for number in range(100):
        assert request(b"Host: h%d" % number, b"Content-Length: %d" % number).host == b"h%d" % number
        assert 0 < len(framings) <= 8
    framings.clear()
    for number in range(100):
        assert request(b"Host: a", b"Content-Length: %d" % number).content_length == number
    assert len(framings) == 1, "a length differs with each body"
    framings.clear()
    options = [b"Connection: x-%d" % number for number in range(50)]
    assert request(b"Host: a", *options).host == b"a"
    assert request(b"Host: a", b"Connection: keep-alive, %b" % (b"y" * 512)).keep_alive
    assert framings == {}, "lines that a client can make as long as it wants"


def test_status_lines_are_remembered_in_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[bytes, tuple[int, bool, bytes]] = {}
    monkeypatch.setattr(head, "_known_status_lines", known)
    for number in range(1000):
        assert response(b"HTTP/1.1 200 %d" % number).relay == b"HTTP/1.1 200 %d\r\n" % number
        assert response(b"HTTP/1.0 404 %d" % number).close
    assert 0 < len(known) <= 128
    assert response(b"HTTP/1.1 200 " + b"x" * 100).status == 200
    assert max(map(len, known)) <= 64


@pytest.mark.parametrize("lines", [1, 5])
def test_connection_has_a_bounded_number_of_options(lines: int) -> None:
    def told(count: int) -> list[bytes]:
        names = [b"x-%d" % number for number in range(count)]
        return [b"Connection: " + b", ".join(names[first::lines] + names[:1]) for first in range(lines)]

    kept = request(b"Host: a", b"X-63: b", b"X-64: c", *told(64))
    assert kept.relay == b"Host: a\r\nX-64: c\r\n"
    with pytest.raises(Failure) as failure:
        request(b"Host: a", *told(65))
    assert failure.value.kind is Kind.BAD_REQUEST


def test_a_response_s_connection_line_has_a_bounded_number_of_options() -> None:
    options = b"Connection: " + b",".join(b"x-%d" % number for number in range(65))
    with pytest.raises(Failure) as failure:
        response(b"HTTP/1.1 200 OK", options)
    assert failure.value.kind is Kind.BAD_RESPONSE


def test_a_plain_request_relays_its_section_byte_for_byte() -> None:
    lines = (b"hOST: a", b"Accept:  */*", b"X-A: 1", b"X-A: 2", b"Content-Length: 0")
    head = request(*lines)
    assert head.plain
    assert head.relay == b"".join(line + b"\r\n" for line in lines)
    assert head.fields[2:4] == [(b"x-a", b"1"), (b"x-a", b"2")]


def test_fields_of_one_hop_are_not_relayed() -> None:
    head = request(
        b"Host: a",
        b"Connection: keep-alive, X-Internal",
        b"connection: x-b",
        b"X-Internal: 1",
        b"X-B: 2",
        b"X-C: 3",
        b"TE: trailers",
        b"Keep-Alive: 5",
        b"Proxy-Authorization: x",
        b"X-Forwarded-For: 198.51.100.1",
        b"Passerelle-Debug: 1",
        b"Passerelle-Other: 1",
    )
    assert head.relay == b"Host: a\r\nX-C: 3\r\n"
    assert head.forwarded
    assert head.debug


@pytest.mark.parametrize("named", [b"Host", b"Content-Length", b"content-type"])
def test_connection_cannot_remove_what_frames_or_routes(named: bytes) -> None:
    head = request(b"Host: a", b"Content-Length: 3", b"Content-Type: text/plain", b"Connection: " + named)
    assert head.relay == b"Host: a\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n"


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(Failure) as failure:
        request(*[b"X: 1"] * 11, limit=10)
    assert failure.value.kind is Kind.HEAD_TOO_LARGE


def test_an_upgrade_needs_its_connection_option() -> None:
    assert request(b"Host: a", b"Upgrade: websocket").upgrade is None
    assert request(b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket").upgrade == b"websocket"
    assert request(b"Host: a", b"Connection: Upgrade", b"Upgrade: h2c").upgrade is None


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1 ",
        b"GET  / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\x80 HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET /a\\b HTTP/1.1",
        b"GET /a\\b?c HTTP/1.1",
        b"GET \\?c HTTP/1.1",
        b"GET ?a HTTP/1.1",
        b"GET /?a<b HTTP/1.1",
        b"GET /?\\#b HTTP/1.1",
        b"GET /" + b"?" * 10_000 + b"\x80 HTTP/1.1",
        b"GET / HTTP/1",
        b"GET / http/1.1",
        b"GE(T / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"/ HTTP/1.1",
        b"GET /",
    ],
)
def test_a_malformed_request_line_is_none(line: bytes) -> None:
    assert REQUEST_LINE.fullmatch(line) is None


@pytest.mark.parametrize(
    "lines",
    [
        (b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Content-Length: 6"),
        (b"HTTP/1.1 200 OK", b"Content-Length: +5"),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked"),
        (b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"),
        (b"HTTP/1.0 200 OK", b"Transfer-Encoding: identity"),
        (b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Transfer-Encoding: identity"),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
        (b"HTTP/1.1 200 OK", b"Transfer-Encoding: cow", b"Transfer-Encoding: cow"),
        (b"HTTP/2 200 OK",),
        (b"HTTP/1.1 99 No",),
        (b"HTTP/1.1 2000 No",),
        (b"HTTP/1.1  200 OK",),
        (b"HTTP/1.1 200 a\rb",),
        (b"200 OK",),
    ],
)
def test_a_malformed_response_is_refused(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(Failure) as failure:
        response(*lines)
    assert failure.value.kind is Kind.BAD_RESPONSE


def test_a_response_is_relayed_in_order_with_repetitions() -> None:
    head = response(
        b"HTTP/1.1 200 Fine",
        b"Set-Cookie: a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT",
        b"Connection: close, X-Hop",
        b"X-Hop: 1",
        b"Set-Cookie: b=2",
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT",
    )
    assert head.whole == (
        b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        b"Set-Cookie: b=2\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
    )
    assert head.close


@pytest.mark.parametrize(("status", "kept"), [(b"204", False), (b"103", False), (b"304", True), (b"200", True)])
def test_no_length_where_none_may_be(status: bytes, kept: bool) -> None:
    head = response(b"HTTP/1.1 " + status + b" x", b"Content-Length: 5")
    assert (b"Content-Length: 5\r\n" in head.relay) is kept
    assert head.bodied is (status == b"200")


def test_a_head_without_date_is_not_ready_made() -> None:
    assert response(b"HTTP/1.1 200 OK", b"Content-Length: 0").whole is None


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    b"Content-Length: 5",
                    b"Content-Length: 0",
                    b"Content-Length: +5",
                    b"Transfer-Encoding: chunked",
                    b"Transfer-Encoding : chunked",
                    b"Transfer-Encoding: gzip",
                    b" folded",
                    b"X: \x00",
                    b"Connection: close",
                    b"Host: b",
                ]
            ),
            st.binary(max_size=30).filter(lambda b: b"\n" not in b and b"\r" not in b),
        ),
        max_size=6,
    )
)
def test_what_is_accepted_is_read_alike_by_another_strict_parser(extra: list[bytes]) -> None:
    lines = [b"Host: a", *extra]
    try:
        head = request(*lines)
    except Failure:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(b"GET / HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert [(name, value) for name, value in event.headers] == head.fields


def test_connections_that_alternate_between_two_layouts_match_both_patterns():
    def request(number):
        condition = b'If-None-Match: "%d"\r\n' % number if number % 3 else b""
        return RequestHead(b"Host: a\r\n" + condition + b"X-Trace: %d\r\n" % number, 100, last)

    last = None
    for number in range(8):
        last = request(number)
        last.layout.compile()
    for number in range(8, 16):
        last = request(number)
        assert last._match is not None
        assert last.get(b"x-trace") == b"%d" % number
        assert last.get(b"if-none-match") == (b'"%d"' % number if number % 3 else None)
        for other in (b"If-None-Match: \0\r\n", b""):
            with pytest.raises(Failure):
                RequestHead(b"Host: a\r\n" + other + b"X-Trace: \0\r\n", 100, last)


def test_services_that_alternate_between_two_layouts_match_both_patterns():
    last = None
    for number in range(16):
        cookie = b"Set-Cookie: a=%d\r\n" % number if number % 4 == 0 else b""
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n" % (number, cookie)
        last = ResponseHead(raw, last)
        last.layout.compile()
        assert number < 8 or last._match is not None
        assert (last.content_length, last.get(b"set-cookie")) == (number, cookie[12:-2] or None)
