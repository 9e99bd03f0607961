"""Bodies: the chunked grammar, for input split at arbitrary positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Failure, Kind
from passerelle.http1.body import (
    LAST_CHUNK,
    MAX_LINE,
    MAX_OVERHEAD,
    MAX_TRAILER,
    ChunkedDecoder,
    CountedDecoder,
    encode_chunk,
)


def decode(data: bytes) -> tuple[bytes, bool, bytes]:
    decoder = ChunkedDecoder(Kind.BAD_REQUEST)
    return decoder.feed(data), decoder.done, decoder.rest


def feed_each_byte(decoder: ChunkedDecoder, data: bytes) -> None:
    for byte in data:
        decoder.feed(bytes([byte]))


@pytest.mark.parametrize(
    "data",
    [
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"1_f\r\n",
        b"\r\n",
        b"f" * 20 + b"\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5;a\n\r\nhello\r\n",
        b"5;a=\x00\r\n",
        b"5;=b\r\n",
        b"0\r\n bad: folded\r\n\r\n",
        b"0\r\nbad : x\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nX: a\nb\r\n\r\n",
        b"0\n\r\n",
    ],
)
def test_what_breaks_the_grammar_is_refused_whole_or_byte_by_byte(data: bytes) -> None:
    with pytest.raises(Failure):
        decode(data)
    with pytest.raises(Failure) as failure:
        feed_each_byte(ChunkedDecoder(Kind.BAD_RESPONSE), data)
    assert failure.value.kind is Kind.BAD_RESPONSE


def test_extensions_and_trailers_are_dropped() -> None:
    data = b'5;a=b ; c="d;\\"e"\r\nhello\r\n0;x\r\nX-Trailer: 1\r\n\r\nrest'
    assert decode(data) == (b"hello", True, b"rest")


@pytest.mark.parametrize("kind", [Kind.BAD_REQUEST, Kind.BAD_RESPONSE])
def test_the_sum_of_chunk_extensions_is_bounded(kind: Kind) -> None:
    chunk = b"1;" + b"a" * 1000 + b"\r\nx\r\n"
    with pytest.raises(Failure) as failure:
        ChunkedDecoder(kind).feed(chunk * (MAX_OVERHEAD // 1000 + 2))
    assert failure.value.kind is kind


def test_a_signature_in_each_chunk_passes_whatever_the_length_of_the_body() -> None:
    chunk = b"2000;chunk-signature=" + b"f" * 64 + b"\r\n" + b"x" * 0x2000 + b"\r\n"
    decoder = ChunkedDecoder(Kind.BAD_REQUEST)
    assert sum(len(decoder.feed(chunk)) for _ in range(1000)) == 0x2000 * 1000


def test_trailers_are_bounded() -> None:
    line = b"X: " + b"a" * 1000 + b"\r\n"
    with pytest.raises(Failure):
        decode(b"0\r\n" + line * (MAX_TRAILER // len(line) + 1) + b"\r\n")


def test_what_is_held_back_is_bounded() -> None:
    with pytest.raises(Failure):
        feed_each_byte(ChunkedDecoder(Kind.BAD_REQUEST), b"5" + b";" * MAX_LINE)


def test_a_cut_body_is_not_done() -> None:
    assert decode(b"5\r\nhel") == (b"hel", False, b"")
    assert decode(b"5\r\nhello\r\n0\r\n") == (b"hello", False, b"")


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.binary(max_size=20), st.randoms())
def test_any_split_gives_the_same_payload(chunks: list[bytes], after: bytes, random) -> None:  # type: ignore[no-untyped-def]
    data = b"".join(map(encode_chunk, chunks)) + LAST_CHUNK + after
    decoder = ChunkedDecoder(Kind.BAD_REQUEST)
    payload = b""
    position = 0
    while not decoder.done:
        step = random.randint(1, 20)
        payload += decoder.feed(data[position : position + step])
        position += step
    assert payload == b"".join(chunks)
    assert decoder.rest + data[position:] == after


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(1, 20))
def test_a_counted_body_ends_after_its_length(data: bytes, length: int, step: int) -> None:
    decoder = CountedDecoder(length)
    payload = b""
    position = 0
    while not decoder.done and position < len(data):
        payload += decoder.feed(data[position : position + step])
        position += step
    assert payload == data[:length]
    assert decoder.done == (len(data) >= length)
    if decoder.done:
        assert decoder.rest + data[position:] == data[length:]
