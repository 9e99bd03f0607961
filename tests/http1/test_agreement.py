"""Heads are read as by a slow and plain parser: the same ones are refused, and the others mean the same.

The sections are mutations of real ones, read one after another as on one connection, so that whatever is remembered of
the earlier ones is in use. Each is read again with the pattern that a layout in frequent use has.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

from hypothesis import example, given
from hypothesis import strategies as st

from passerelle.errors import Failure
from passerelle.http1.field_lines import PATTERN_AFTER
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.http1.varied_head import next_head
from passerelle.security.addresses import Proxies
from passerelle.upstream.request_headers import cache_origin, client_address, part_fields, upstream_fields
from tests.http1 import reference

NAMES = [
    *(b"Host", b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"Transfer_Encoding"),
    *(b"Connection", b"CONNECTION", b"Upgrade", b"Expect", b"TE", b"Trailer", b"Keep-Alive", b"Proxy", b"Date"),
    *(b"Passerelle-Debug", b"Passerelle-X", b"X-Consumer-Id", b"X_Consumer", b"X-Forwarded-For", b"X_Forwarded_For"),
    *(b"X-Real-IP", b"Forwarded", b"X-Request-Id", b"User-Agent", b"User_Agent", b"Cookie", b"Authorization"),
    *(b"If-None-Match", b"Range", b"Cache-Control", b"Accept", b"X-A", b"x-b", b"Content-Type", b"ETag"),
]
VALUES = [
    *(b"", b"a", b"a:8080", b"a.example.", b"[::1]:80", b"a b", b"a:99999", b"0", b"5", b"007", b"+5", b"5,5"),
    *(b"chunked", b",Chunked", b"gzip, chunked", b"identity", b"cow", b"close", b"keep-alive, x-a", b"Upgrade"),
    *(b"upgrade, x-b, close", b"cookie, te", b"host, content-length", b"websocket", b"h2c", b"100-continue", b"1"),
    *(b"a\xff\t\xe9", b"x" * 600, b"max-age=0", b", ".join(b"x-%d" % number for number in range(65))),
]
BROWSER = (
    b"Host: shop.example\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b'Connection: keep-alive\r\nCookie: sid=1; theme=dark\r\nIf-None-Match: "a"\r\nX-Request-Id: 1\r\n'
    b"traceparent: 00-1-2-01\r\n"
)
SERVICE = b'Server: a\r\nDate: a\r\nContent-Length: 5\r\nETag: "a"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n'
LINES = st.builds(
    lambda name, before, value, after: name + b":" + before + value + after + b"\r\n",
    st.sampled_from(NAMES),
    st.sampled_from([b"", b" ", b"\t "]),
    st.sampled_from(VALUES) | st.binary(max_size=6),
    st.sampled_from([b"", b"", b" "]),
)
PIECES = [b"\r", b"\n", b"\r\n", b"\r\n ", b"\0", b":", b" ", b"\t", b"\x0b", b"\x7f", b"\x85", b"\xa0", b"_", b"A"]


@st.composite
def sections(draw: st.DrawFn, real: bytes) -> bytes:
    """A section of some lines, or a real one with further lines; some of its octets are lost, others added."""
    lines = draw(st.sampled_from([[], real.splitlines(keepends=True)]))
    for line in draw(st.lists(LINES, max_size=5)):
        lines = [*lines, line] if draw(st.booleans()) else [line, *lines]
    section = b"".join(lines)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(section)))
        section = section[:place] + draw(st.sampled_from(PIECES)) + section[place + draw(st.integers(0, 3)) :]
    return section


WITHOUT = frozenset({b"cookie", b"accept"})


Parser = Callable[[bytes, int, RequestHead | None], RequestHead]


def meaning_of_request(
    section: bytes, last: RequestHead | None, parse: Parser = RequestHead
) -> tuple[object, RequestHead | None]:
    try:
        head = parse(section, 1000, last)
    except Failure:
        return "refused", last
    framing = (head.authority, head.host, head.chunked, head.content_length, head.close, head.expect, head.upgrade)
    passed = (head.relay, head.relay_without(WITHOUT), head.end_to_end(), head.selecting(), head.forwarded)
    lines = [(field.name, field.value) for field in head.lines]
    found = [(name, head.get(name), [field.value for field in head.named(name)]) for name, _ in lines]
    return (framing, passed, head.plain, head.debug, head.user_agent, head.fields, lines, found), head


def expected_of_request(section: bytes) -> object:
    try:
        one = reference.Request(section)
    except reference.Refused:
        return "refused"
    framing = (one.authority, one.host, one.chunked, one.length, one.close, one.expect, one.upgrade)
    passed = (one.relay, one.without(WITHOUT), one.end_to_end, one.selecting, one.forwarded)
    found = []
    for name, _ in one.fields:
        values = [value for other, value in one.fields if other == name]
        found.append((name, values[0], values))
    return framing, passed, one.plain, one.debug, one.user_agent, one.fields, one.fields, found


@given(st.lists(sections(BROWSER), min_size=1, max_size=4))
@example([b"X: a\r\n", b"\r\n"])
@example([b"X: a\r\nY: b\r\n", b"X: a\r\n\r\n", b"X: a\r\nY: b"])
@example([b"X: a\r\n", b"Y: a\r\nX: b\r\n", b"X: c\r\n", b"Y: d\r\nX: \0\r\n"])
@example([b"A: b\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"])
def test_requests_are_read_as_by_a_plain_parser(received: list[bytes]) -> None:
    last = None
    for section in received:
        expected = expected_of_request(section)
        for before in (None, last):
            meaning, head = meaning_of_request(section, before)
            assert meaning == expected, section
        if meaning != "refused" and head is not None:
            head.layout.compile()
            meaning, head = meaning_of_request(section, head)
            assert meaning == expected, section
            assert head is not None
            assert head._match is not None
        last = head


@st.composite
def varied_sections(draw: st.DrawFn) -> list[bytes]:
    """Sections of one connection that differ from each other in a few lines, and sometimes in their octets."""
    lines = draw(st.sampled_from([[], BROWSER.splitlines(keepends=True)])) + draw(st.lists(LINES, max_size=5))
    varying = draw(st.lists(st.integers(0, max(0, len(lines) - 1)), min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(3, 8))):
        received = list(lines)
        for number in varying[: draw(st.integers(0, 3))] if lines else []:
            name = lines[number].partition(b":")[0]
            received[number] = b"%b: %b\r\n" % (name, draw(st.sampled_from(VALUES) | st.binary(max_size=6)))
        section = b"".join(received)
        if draw(st.sampled_from([False] * 9 + [True])):
            place = draw(st.integers(0, len(section)))
            section = section[:place] + draw(st.sampled_from(PIECES)) + section[place + draw(st.integers(0, 3)) :]
        found.append(section)
    return found


@given(varied_sections(), st.sampled_from([b"10.0.0.1", b"192.0.2.1"]))
def test_requests_that_vary_in_a_few_lines_are_read_as_by_a_plain_parser(received: list[bytes], client: bytes) -> None:
    proxies = Proxies([ip_network("10.0.0.0/8")])
    last = None
    for section in received:
        if last is not None and last.section == section:
            continue
        expected = expected_of_request(section)
        meaning, head = meaning_of_request(section, last, next_head)
        assert meaning == expected, section
        if meaning == "refused" or head is None:
            continue
        # What is kept with a head is what a head without a predecessor would get.
        alone = RequestHead(section, 1000)
        for derive, name in (
            (upstream_fields, "upstream"),
            (part_fields, "part_fields"),
            (cache_origin, "cache_origin"),
        ):
            lines = derive(alone, client, proxies, b"http")
            assert getattr(head, name) in (None, lines), name
            setattr(head, name, lines)
        assert client_address(head, client, proxies) == client_address(alone, client, proxies)
        if not head.layout.uses >= PATTERN_AFTER:
            head.layout.uses = PATTERN_AFTER
            head.layout.compile()
        last = head


@given(st.lists(sections(SERVICE), min_size=1, max_size=4))
@example([b"X: a\r\nY: b\r\n", b"X: a\r\n\r\n"])
@example([b"X: a\r\n", b"Y: a\r\nX: b\r\n", b"X: c\r\n", b"Y: d\r\nX: \0\r\n"])
def test_responses_are_read_as_by_a_plain_parser(received: list[bytes]) -> None:
    last = None
    for section in received:
        try:
            one = reference.Response(section)
            expected: object = (one.relay, one.chunked, one.length, one.close, one.upgrade, one.has_date, one.fields)
        except reference.Refused:
            expected = "refused"
        for compiled in (False, False, True):
            meaning: object
            try:
                head = ResponseHead(b"HTTP/1.1 200 OK\r\n%b\r\n" % section, last)
            except Failure:
                meaning = "refused"
            else:
                length, fields = head.content_length, head.fields
                meaning = (head.relay, head.chunked, length, head.close, head.upgrade, head.has_date, fields)
                assert not compiled or head._match is not None
                head.layout.compile()
                last = head
            assert meaning == expected, section
