"""The ALPN protocols of a ClientHello, for input split at arbitrary positions and for input that is no ClientHello."""

from __future__ import annotations

import ssl
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.http1.tls_handshake import ClientHello


@cache  # a context takes 50 ms of processor time: it reads the certificates of the system
def hello(*protocols: str) -> bytes:
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="shop.example").do_handshake()
    return outgoing.read()


def offered_protocols(data: bytes) -> tuple[bytes, ...] | None:
    return ClientHello().offered_protocols(data)


def in_records(data: bytes, size: int) -> bytes:
    """Distribute the ClientHello of one record over records of ``size`` bytes."""
    body = data[5:]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01%b%b" % (len(piece).to_bytes(2), piece) for piece in pieces)


def test_the_protocols_are_those_that_the_client_offers() -> None:
    assert offered_protocols(hello("h2", "http/1.1")) == (b"h2", b"http/1.1")
    assert offered_protocols(hello("h2") + b"more") == (b"h2",)
    assert offered_protocols(hello()) == ()


def test_an_incomplete_hello_is_waited_for() -> None:
    data = hello("h2")
    assert all(offered_protocols(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_a_hello_may_be_in_several_records(size: int) -> None:
    data = in_records(hello("h2"), size)
    assert offered_protocols(data) == (b"h2",)
    assert offered_protocols(data[:-1]) is None


@given(st.data())
def test_a_hello_that_arrives_in_segments_is_read_once(draws: st.DataObject) -> None:
    data = in_records(hello("h2", "http/1.1"), draws.draw(st.integers(1, 60)))
    ends = sorted(draws.draw(st.sets(st.integers(0, len(data) - 1), max_size=12)))
    reader = ClientHello()
    for end in ends:
        assert reader.offered_protocols(data[:end]) is None
        # What was read is not read again: only the records that are complete count.
        assert bytes(reader._hello) == b"".join(bodies(data[:end]))
    assert reader.offered_protocols(data) == (b"h2", b"http/1.1")


def bodies(data: bytes) -> list[bytes]:
    """Return the bodies of the complete records."""
    found, position = [], 0
    while len(data) >= position + 5 and len(data) >= position + 5 + int.from_bytes(data[position + 3 : position + 5]):
        end = position + 5 + int.from_bytes(data[position + 3 : position + 5])
        found.append(data[position + 5 : end])
        position = end
    return found


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01", b"\x16\x03\x01\x00\x00", b"\x15\x03"])
def test_what_is_no_hello_is_left_to_openssl(data: bytes) -> None:
    assert offered_protocols(data) == ()


@given(st.data())
def test_no_input_is_an_error(data: st.DataObject) -> None:
    whole = bytearray(hello("h2", "http/1.1"))
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    offered_protocols(bytes(whole))
    offered_protocols(data.draw(st.binary(max_size=200)))
