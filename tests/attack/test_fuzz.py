"""A few seconds of the fuzzer of the listener with a fixed seed, and one process of what hypothesis makes up."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.errors import Failure, Kind
from passerelle.http1.body import ChunkedDecoder
from passerelle.http1.head import RequestHead, parse_request_line
from tests.attack import fuzz
from tests.attack.payloads import PAYLOADS
from tests.conformance.test_mutations import ODD, REQUESTS

REQUESTS_SENT = 3000
RAW = [*REQUESTS, *(payload.raw for payload in PAYLOADS.values())]
PIECES = st.one_of(
    st.sampled_from(RAW),
    st.sampled_from(ODD),
    st.sampled_from([line + b"\r\n" for raw in RAW for line in raw.split(b"\r\n")]),
    st.binary(max_size=20),
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[fuzz.Gateway]:
    with fuzz.gateway() as running:
        yield running


def test_malformed_requests_end_in_no_error_of_ours_and_in_no_growth(gateway: fuzz.Gateway) -> None:
    found = fuzz.run(REQUESTS_SENT, 20261125, gateway)
    assert found.wrong == []
    assert found.requests == REQUESTS_SENT
    assert {200, 400, 404, 405, 501, 505} <= found.statuses.keys(), found.statuses


@settings(max_examples=300)
@given(st.lists(PIECES, min_size=1, max_size=8))
def test_whatever_comes_is_answered_or_closed(gateway: fuzz.Gateway, pieces: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=fuzz.WAIT) as client:
        received = b""
        try:
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(1 << 16):
                received += data
        except (ConnectionResetError, BrokenPipeError):
            pass  # it may close while we send
    answers = fuzz.statuses(received)
    assert answers is not None, received
    assert [status for status in answers if status >= 500 and status not in fuzz.DOCUMENTED] == []
    assert gateway.process.poll() is None


@given(st.lists(PIECES, max_size=6).map(b"".join))
def test_the_parsers_say_yes_or_refuse(data: bytes) -> None:
    """Nothing but a Failure comes out of them, whatever goes in."""
    line, _, section = data.partition(b"\r\n")
    refusals = []
    for parse in (lambda: parse_request_line(line), lambda: RequestHead(section, 100)):
        try:
            parse()
        except Failure as failure:
            refusals.append(failure.status)
    assert all(status < 500 or status in fuzz.DOCUMENTED for status in refusals)


@given(st.lists(PIECES, max_size=6))
def test_a_chunked_body_is_the_same_in_whatever_pieces_it_comes(pieces: list[bytes]) -> None:
    whole, parts = ChunkedDecoder(Kind.BAD_REQUEST), ChunkedDecoder(Kind.BAD_REQUEST)
    data = b"".join(pieces)

    def fed(decoder: ChunkedDecoder, pieces: list[bytes]) -> tuple[bytes, bool, bool]:
        payload, left = b"", pieces
        try:
            while left and not decoder.done:
                payload += decoder.feed(left[0])
                left = left[1:]
        except Failure:
            return b"", False, True
        return payload, decoder.done, False

    assert fed(whole, [data]) == fed(parts, [data[i : i + 1] for i in range(len(data))])
