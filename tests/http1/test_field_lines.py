"""Field lines: valid and malformed lines, and layouts that are remembered without changing any result."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from passerelle.errors import Failure, Kind
from passerelle.http1 import field_lines
from passerelle.http1.field_lines import LayoutTable
from passerelle.http1.head import RequestHead, ResponseHead

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def request(line: bytes) -> RequestHead:
    return RequestHead(line + b"\r\n", 100)


def response(line: bytes) -> ResponseHead:
    return ResponseHead(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % line)


@pytest.mark.parametrize(
    "line",
    [
        b"X : a",
        b" X: a",
        b"\tX: a",
        b": a",
        b"X",
        b"",
        b"X\xa0: a",
        b"X\x85: a",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\x00b",
        b"X: a\x0bb",
        b"X: a\x7fb",
        b"X Y: a",
        b"X(): a",
        b"X\x00: a",
    ],
)
def test_a_malformed_line_is_refused(line: bytes) -> None:
    for lines in ([line], [b"A: b", line], [line, b"A: b"]):
        with pytest.raises(Failure) as failure:
            request(b"\r\n".join(lines))
        assert failure.value.kind is Kind.BAD_REQUEST


@pytest.mark.parametrize("value", [b"+5", b"5_0", b"-0", b"0x5", b"\xa05", b"", b"5 5", b"5,5", b"9" * 5000, b"\xb2"])
def test_a_length_is_digits_and_nothing_else(value: bytes) -> None:
    with pytest.raises(Failure):
        request(b"Content-Length: " + value)


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"5", 5), (b"007", 7), (b" 12\t", 12)])
def test_a_length_is_read(value: bytes, length: int) -> None:
    assert request(b"content-length:" + value).content_length == length


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"\x0bchunked", Kind.BAD_REQUEST),
        (b"chunked\xa0", Kind.BAD_REQUEST),
        (b"chunked, chunked", Kind.BAD_REQUEST),
        (b"chunked, gzip", Kind.BAD_REQUEST),
        (b"identity", Kind.BAD_REQUEST),
        (b"", Kind.BAD_REQUEST),
        (b"xchunked", Kind.BAD_REQUEST),
        (b"chunked;q=1", Kind.BAD_REQUEST),
        (b"gzip, chunked", Kind.CODING_UNSUPPORTED),
    ],
)
def test_a_transfer_coding_other_than_chunked_is_refused(value: bytes, kind: Kind) -> None:
    with pytest.raises(Failure) as failure:
        request(b"Transfer-Encoding: " + value)
    assert failure.value.kind is kind


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b" chunked ", b",chunked", b"chunked ,", b", ,chunked"])
def test_chunked_is_read_with_empty_list_members(value: bytes) -> None:
    assert request(b"Transfer-Encoding: " + value).chunked


@pytest.mark.parametrize(
    ("value", "chunked"),
    [(b"chunked", True), (b"identity", False), (b"Identity,", False), (b"cow", False), (b"gzipped", False)],
)
def test_a_coding_of_a_response_that_means_nothing_is_none(value: bytes, chunked: bool) -> None:
    head = response(b"Transfer-Encoding: " + value)
    assert (head.chunked, head.close) == (chunked, not chunked)


@pytest.mark.parametrize(
    "value",
    [
        *(b"gzip", b"X-Gzip", b"deflate", b"compress", b"x-compress", b"gzip, chunked", b"chunked, gzip"),
        *(b"xchunked", b"chunked-", b"Chunke", b"chunked;q=1", b"identity;q=1", b"identity, chunked", b"cow, cow"),
        *(b"", b",", b"a b", b"\x0bchunked", b"chunked\xa0", b'"cow"'),
    ],
)
def test_a_coding_of_a_response_that_means_something_is_refused(value: bytes) -> None:
    with pytest.raises(Failure) as failure:
        response(b"Transfer-Encoding: " + value)
    assert failure.value.kind is Kind.BAD_RESPONSE


@pytest.mark.parametrize("value", [b"a b", b"a/b", b"a@b", b"a:99999", b"a:b", b"[::1", b"a,b", b"a:1:2", b"<a>"])
def test_a_host_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(Failure):
        request(b"Host: " + value)


@pytest.mark.parametrize(
    ("value", "host"),
    [(b"Shop.Example", b"shop.example"), (b"a:8080", b"a"), (b"[::1]:80", b"[::1]"), (b"a.example.", b"a.example")],
)
def test_a_host_has_one_form(value: bytes, host: bytes) -> None:
    assert request(b"Host: " + value).host == host


def test_an_expectation_other_than_continue_is_refused() -> None:
    with pytest.raises(Failure) as failure:
        request(b"Expect: other")
    assert failure.value.kind is Kind.EXPECTATION_FAILED


def test_fields_that_only_the_gateway_sets_are_dropped() -> None:
    assert request(b"Passerelle-Instance: user-1").relay == b""
    assert response(b"Passerelle-Instance: user-1").relay == b"HTTP/1.1 200 OK\r\n"


def test_remembered_layouts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_lines, "REMEMBERED", 10)
    table = LayoutTable(Kind.BAD_REQUEST, {})
    for number in range(100):
        lines, layout = table.split(b"X-%d: a\r\nX: b\r\n" % number)
        assert (layout.names, lines) == ((b"x-%d" % number, b"x"), [b"X-%d: a" % number, b"X: b", b""])
        assert 0 < len(table.known) <= 10
        assert 0 < len(table._names) <= 10
    table.known.clear()
    for section in (b"X: a\r\n" * 51, b"X" * 1024 + b": a\r\n"):
        table.split(section)
        assert table.known == {}
    assert max(map(len, table._names)) <= 1024


def test_only_layouts_in_frequent_use_have_patterns_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_lines, "REMEMBERED", 10)
    monkeypatch.setattr(field_lines, "_MOST_PATTERNS", 2)
    table = LayoutTable(Kind.BAD_REQUEST, {})
    sections = [b"X-%d: a\r\n" % number for number in range(10)]
    layouts = [table.split(section)[1] for section in sections for _ in range(field_lines.PATTERN_AFTER)]

    def matching() -> int:
        found = {id(layout): layout for layout in table.known.values()}
        return sum(any(layout.fullmatch(section) for section in sections) for layout in found.values())

    assert matching() == 2
    assert layouts[0].fullmatch(sections[0])
    once = LayoutTable(Kind.BAD_REQUEST, {})
    rare = [once.split(sections[0])[1] for _ in range(field_lines.PATTERN_AFTER - 1)][-1]
    assert rare.fullmatch(sections[0]) is None
    # The table starts again when it is full, and so does the count of patterns.
    for _ in range(field_lines.PATTERN_AFTER):
        table.split(b"Y: a\r\n")
    assert [layout.fullmatch(b"Y: a\r\n") is not None for layout in table.known.values()] == [True]


def test_values_that_always_differ_fill_no_memory() -> None:
    table = LayoutTable(Kind.BAD_REQUEST, {})
    layouts = {table.split(b"Accept: */*\r\nX-Trace: %d\r\n" % number)[1] for number in range(1000)}
    assert len(layouts) == len(table.known) == 1


def test_fields_that_a_client_chooses_to_remove_fill_no_memory() -> None:
    head = None
    for number in range(1000):
        head = RequestHead(b"Host: a\r\nX: 1\r\nConnection: x, x-%d\r\n" % number, 100, head)
        assert head.relay == b"Host: a\r\n"
    assert head is not None and head.layout._kept_without == {}


def test_a_refused_section_is_not_remembered() -> None:
    table = LayoutTable(Kind.BAD_REQUEST, {b"host": field_lines.HOST})
    for section in (b"X : a\r\n", b"Host: a\r\nHost: a\r\n"):
        with pytest.raises(Failure):
            table.split(section)
    assert table.known == {}


def test_a_section_without_its_last_crlf_is_refused() -> None:
    table = LayoutTable(Kind.BAD_REQUEST, {})
    like = table.split(b"X: a\r\nY: b\r\n")[1]
    like.compile()
    assert like.fullmatch is not None
    for section in (b"X: a", b"X: a\r\nY: b", b"X: a\r\nY: b\r\nHost: c", b"X: a\r\nY: b\r"):
        assert like.fullmatch(section) is None
        with pytest.raises(Failure):
            table.split(section)


@given(st.text(TOKEN, min_size=1, max_size=40), st.binary(max_size=60))
@example("X", b"a\xff\t b")
def test_a_line_is_read_back_or_refused(name: str, value: bytes) -> None:
    line = name.encode() + b":" + value
    allowed = all(byte == 9 or 32 <= byte < 127 or byte >= 128 for byte in value)
    table = LayoutTable(Kind.BAD_RESPONSE, {})
    if not allowed:
        with pytest.raises(Failure):
            table.split(line + b"\r\n")
        _, layout = table.split(name.encode() + b":\r\n")
        layout.compile()
        assert layout.fullmatch is not None
        assert layout.fullmatch(line + b"\r\n") is None
        return
    lines, layout = table.split(line + b"\r\n")
    assert (layout.names, lines) == ((name.lower().encode(),), [line, b""])
    layout.compile()
    assert layout.fullmatch is not None
    match = layout.fullmatch(line + b"\r\n")
    assert match is not None
    assert [match[number] for number in layout.groups] == lines
    assert table.split(line + b"\r\n") == (lines, layout)
