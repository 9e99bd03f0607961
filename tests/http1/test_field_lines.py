"""Field lines: valid and malformed lines, and a cache that does not change any result."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from passerelle.errors import Failure, Kind
from passerelle.http1 import field_lines
from passerelle.http1.field_lines import REQUEST_FIELDS, RESPONSE_FIELDS, FieldTable

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def learn(line: bytes) -> field_lines.FieldLine:
    return FieldTable(Kind.BAD_REQUEST, REQUEST_FIELDS._roles).learn(line)


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
    with pytest.raises(Failure) as failure:
        learn(line)
    assert failure.value.kind is Kind.BAD_REQUEST


@pytest.mark.parametrize("value", [b"+5", b"5_0", b"-0", b"0x5", b"\xa05", b"", b"5 5", b"5,5", b"9" * 5000, b"\xb2"])
def test_a_length_is_digits_and_nothing_else(value: bytes) -> None:
    with pytest.raises(Failure):
        learn(b"Content-Length: " + value)


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"5", 5), (b"007", 7), (b" 12\t", 12)])
def test_a_length_is_read(value: bytes, length: int) -> None:
    assert learn(b"content-length:" + value).data == length


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
        learn(b"Transfer-Encoding: " + value)
    assert failure.value.kind is kind


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b" chunked ", b",chunked", b"chunked ,", b", ,chunked"])
def test_chunked_is_read_with_empty_list_members(value: bytes) -> None:
    assert learn(b"Transfer-Encoding: " + value).role == field_lines.TRANSFER_ENCODING


@pytest.mark.parametrize(
    ("value", "chunked"),
    [(b"chunked", True), (b"identity", False), (b"Identity,", False), (b"cow", False), (b"gzipped", False)],
)
def test_a_coding_of_a_response_that_means_nothing_is_none(value: bytes, chunked: bool) -> None:
    assert FieldTable(Kind.BAD_RESPONSE, RESPONSE_FIELDS._roles).learn(b"Transfer-Encoding: " + value).data is chunked


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
        FieldTable(Kind.BAD_RESPONSE, RESPONSE_FIELDS._roles).learn(b"Transfer-Encoding: " + value)
    assert failure.value.kind is Kind.BAD_RESPONSE


@pytest.mark.parametrize("value", [b"a b", b"a/b", b"a@b", b"a:99999", b"a:b", b"[::1", b"a,b", b"a:1:2", b"<a>"])
def test_a_host_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(Failure):
        learn(b"Host: " + value)


@pytest.mark.parametrize(
    ("value", "host"),
    [(b"Shop.Example", b"shop.example"), (b"a:8080", b"a"), (b"[::1]:80", b"[::1]"), (b"a.example.", b"a.example")],
)
def test_a_host_has_one_form(value: bytes, host: bytes) -> None:
    assert learn(b"Host: " + value).data == host


def test_an_expectation_other_than_continue_is_refused() -> None:
    with pytest.raises(Failure) as failure:
        learn(b"Expect: other")
    assert failure.value.kind is Kind.EXPECTATION_FAILED


@pytest.mark.parametrize("table", [REQUEST_FIELDS, RESPONSE_FIELDS])
def test_fields_that_only_the_gateway_sets_are_dropped(table: FieldTable) -> None:
    assert table.learn(b"Passerelle-Instance: user-1").role == field_lines.DROPPED


def test_remembered_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_lines, "REMEMBERED", 10)
    table = FieldTable(Kind.BAD_REQUEST, {})
    for number in range(100):
        table.learn(b"X-Trace: %d" % number)
        assert len(table.known) <= 10
    table.learn(b"X: " + b"a" * field_lines.LONGEST_REMEMBERED)
    assert all(len(line) <= field_lines.LONGEST_REMEMBERED for line in table.known)


def test_a_field_that_always_differs_pushes_out_none_but_itself() -> None:
    table = FieldTable(Kind.BAD_REQUEST, {})
    table.learn(b"Accept: */*")
    for number in range(field_lines.VALUES_REMEMBERED):
        table.learn(b"X-Trace: %d" % number)
        assert table.known[b"X-Trace: %d" % number].value == b"%d" % number
    kept = 0
    for number in range(10 * field_lines.VALUES_REMEMBERED):
        line = b"X-Trace: of %d" % number
        assert table.learn(line).value == b"of %d" % number
        kept += line in table.known
        assert len(table.known) <= field_lines.VALUES_REMEMBERED + 1
    assert b"Accept: */*" in table.known
    # Few of so many values are cached, but some are: a line that a client repeats is cached sooner or later.
    assert 0 < kept < 3 * field_lines.VALUES_REMEMBERED


def test_a_refused_line_is_not_remembered() -> None:
    table = FieldTable(Kind.BAD_REQUEST, {})
    with pytest.raises(Failure):
        table.learn(b"X : a")
    assert table.known == {}


@given(st.text(TOKEN, min_size=1, max_size=40), st.binary(max_size=60))
@example("X", b"a\xff\t b")
def test_a_line_is_read_back_or_refused(name: str, value: bytes) -> None:
    line = name.encode() + b":" + value
    allowed = all(byte == 9 or 32 <= byte < 127 or byte >= 128 for byte in value)
    table = FieldTable(Kind.BAD_RESPONSE, {})
    if not allowed:
        with pytest.raises(Failure):
            table.learn(line)
        return
    field = table.learn(line)
    assert (field.name, field.value, field.line) == (name.lower().encode(), value.strip(b" \t"), line)
