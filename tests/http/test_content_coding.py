"""Content codings: selection, responses that may be encoded, and the adjusted header fields."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from passerelle.http.content_coding import (
    AVAILABLE,
    SMALLEST,
    CodingRule,
    choose,
    coded_fields,
    encode,
    is_codable,
    is_compressible,
    select_coding,
    stream,
    varied_fields,
)
from passerelle.http.messages import Fields, get, get_all

ALL = (b"zstd", b"br", b"gzip")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (b"", None),
        (b"gzip", b"gzip"),
        (b"GZIP", b"gzip"),
        (b"x-gzip", b"gzip"),
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"gzip, deflate, br", b"br"),
        (b"deflate", None),
        (b"br;q=0.5, gzip", b"gzip"),
        (b"br ; q=0.5 , gzip;Q=0.4", b"br"),
        (b"gzip;q=0", None),
        (b"*", b"zstd"),
        (b"*;q=0", None),
        (b"zstd;q=0, *", b"br"),
        (b"identity, gzip;q=0.5", None),
        (b"identity, gzip", b"gzip"),
        (b"identity;q=0, gzip;q=0.1", b"gzip"),
        (b"gzip;q=2", None),
        (b"gzip;q=x, br;q=0.1", b"br"),
        (b"gzip;level=9", None),
        (b",,gzip,,", b"gzip"),
    ],
)
def test_choice(value: bytes | None, expected: bytes | None) -> None:
    assert choose(value, ALL) == expected


def test_only_what_is_offered_is_chosen() -> None:
    assert choose(b"br, gzip", (b"gzip",)) == b"gzip"
    assert choose(b"br", (b"gzip",)) is None


@given(st.binary(max_size=60))
def test_any_value_gives_a_choice(value: bytes) -> None:
    assert choose(value, ALL) in (None, *ALL)


@given(st.binary(max_size=2000))
def test_a_coded_body_decodes_to_itself_and_is_always_the_same(body: bytes) -> None:
    decoders = {b"gzip": gzip.decompress, b"br": brotli.decompress, b"zstd": zstandard.ZstdDecompressor().decompress}
    assert set(AVAILABLE) == set(decoders)
    for coding, decode in decoders.items():
        coded = encode(coding, body)
        assert decode(coded) == body and encode(coding, body) == coded


JSON = (b"content-type", b"application/json")


@pytest.mark.parametrize(
    ("status", "fields", "length", "may"),
    [
        (200, [JSON], SMALLEST, True),
        (404, [(b"content-type", b"application/problem+json; charset=utf-8")], 1000, True),
        (200, [JSON], SMALLEST - 1, False),
        (204, [JSON], 1000, False),
        (206, [JSON], 1000, False),
        (304, [JSON], 1000, False),
        (200, [JSON, (b"content-range", b"bytes 0-1/2")], 1000, False),
        (200, [JSON, (b"content-encoding", b"gzip")], 1000, False),
        (200, [JSON, (b"content-encoding", b"identity")], 1000, False),
        (200, [JSON, (b"cache-control", b"max-age=1, No-Transform")], 1000, False),
        (200, [JSON, (b"cache-control", b"max-age=1"), (b"cache-control", b"no-transform")], 1000, False),
        (200, [JSON, (b"content-digest", b"sha-256=:x:")], 1000, False),
        (200, [JSON, (b"content-md5", b"x")], 1000, False),
        (200, [(b"content-type", b"image/png")], 1000, False),
        (200, [], 1000, False),
    ],
)
def test_what_may_be_coded(status: int, fields: Fields, length: int, may: bool) -> None:
    assert is_codable(status, fields, length) is may


@pytest.mark.parametrize(
    ("media_type", "worth"),
    [
        (b"text/html", True),
        (b"TEXT/CSS ; charset=x", True),
        (b"application/vnd.api+json", True),
        (b"image/svg+xml", True),
        (b"text/event-stream", False),
        (b"image/jpeg", False),
        (b"application/zip", False),
        (b"application/octet-stream", False),
        (b"", False),
    ],
)
def test_media_types(media_type: bytes, worth: bool) -> None:
    assert is_compressible(media_type) is worth


def test_the_fields_describe_the_coded_body() -> None:
    fields: Fields = [
        JSON,
        (b"content-length", b"1000"),
        (b"etag", b'"a"'),
        (b"accept-ranges", b"bytes"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    coded = coded_fields(fields, b"br", 123)
    assert get_all(coded, b"content-length") == [b"123"]
    assert get_all(coded, b"content-encoding") == [b"br"]
    assert get(coded, b"etag") == b'W/"a"'
    assert get(coded, b"accept-ranges") is None
    assert get_all(coded, b"set-cookie") == [b"a=1", b"b=2"]
    assert get_all(coded, b"vary") == [b"Accept-Encoding"]
    assert get(coded_fields([(b"etag", b'W/"a"')], b"br", 1), b"etag") == b'W/"a"'


def test_vary_is_added_to_once() -> None:
    assert varied_fields([(b"vary", b"Cookie")]) == [(b"vary", b"Cookie"), (b"vary", b"Accept-Encoding")]
    for value in (b"accept-encoding", b"Cookie, ACCEPT-Encoding", b"*"):
        assert varied_fields([(b"vary", value)]) == [(b"vary", value)]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.sampled_from(AVAILABLE))
def test_each_piece_of_a_stream_is_there_when_it_was_coded(pieces: list[bytes], coding: bytes) -> None:
    decode = {
        b"gzip": lambda: zlib.decompressobj(31).decompress,
        b"br": lambda: brotli.Decompressor().process,
        b"zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
    }[coding]()
    piece, finish = stream(coding)
    for data in pieces:
        assert decode(piece(data)) == data
    assert decode(finish()) == b""


@given(st.binary(max_size=200), st.booleans())
def test_what_is_remembered_of_a_request_changes_no_choice(value: bytes, forbidden: bool) -> None:
    fields = [(b"accept-encoding", value)]
    if forbidden:
        fields.append((b"cache-control", b"max-age=0, No-Transform"))
    assert select_coding(fields, CodingRule()) == (None if forbidden else choose(value, CodingRule().codings))


def test_lines_of_accept_encoding_are_one_list() -> None:
    assert (
        select_coding([(b"accept-encoding", b"br;q=0.5"), (b"accept-encoding", b"gzip")], CodingRule((b"br", b"gzip")))
        == b"gzip"
    )
    assert select_coding([], CodingRule()) is None
