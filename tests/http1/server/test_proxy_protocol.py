"""The header of the PROXY protocol: what is a header, what is not one, and when that is certain."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.http1.server.proxy_protocol import (
    LONGEST,
    LONGEST_V1,
    SIGNATURE,
    MalformedHeader,
    ProxyHeader,
    parse_header,
)

FOUR = bytes([192, 0, 2, 1, 198, 51, 100, 2, 0, 80, 1, 187])
SIX = IPv6Address("2001:db8::1").packed + IPv6Address("2001:db8::2").packed + b"\0\x50\1\xbb"


def v2(command: int, kind: int, rest: bytes = b"", length: int | None = None) -> bytes:
    size = len(rest) if length is None else length
    return SIGNATURE + bytes([command, kind]) + size.to_bytes(2) + rest


HEADERS: list[tuple[bytes, bytes | None]] = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", b"192.0.2.1"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", b"255.255.255.255"),
    (b"PROXY TCP6 2001:DB8:0::1 ::2 0 443\r\n", b"2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:10.0.0.1 1 2\r\n", b"192.0.2.1"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * (LONGEST_V1 - 16) + b"\r\n", None),
    (v2(0x21, 0x11, FOUR), b"192.0.2.1"),
    (v2(0x21, 0x21, SIX), b"2001:db8::1"),
    (v2(0x21, 0x11, FOUR + b"\x04\0\3abc\xee\0\0"), b"192.0.2.1"),
    (v2(0x21, 0x11, FOUR + b"\x04" + (LONGEST - 16 - 12 - 3).to_bytes(2) + b"x" * (LONGEST - 31)), b"192.0.2.1"),
    (v2(0x20, 0x00), None),
    (v2(0x20, 0x11, FOUR), None),
    (v2(0x20, 0xFF, b"anything"), None),
    (v2(0x21, 0x00), None),
    (v2(0x21, 0x12, FOUR), None),
    (v2(0x21, 0x31, bytes(216)), None),
]
"""Headers, and the address of the client in each."""
REFUSED = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"\r\n\r\n\0\r\nQUIT\r",
    b"PROXX",
    b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n\r\n",
    b"PROXY UNKNOWN " + b"x" * (LONGEST_V1 - 15) + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * LONGEST_V1,
    v2(0x11, 0x11, FOUR),
    v2(0x22, 0x11, FOUR),
    v2(0x21, 0x11, FOUR[:-1]),
    v2(0x21, 0x21, FOUR),
    v2(0x21, 0x41, FOUR),
    v2(0x21, 0x13, FOUR),
    v2(0x21, 0x11, FOUR + b"\x04\0"),
    v2(0x21, 0x11, FOUR + b"\x04\0\4abc"),
    v2(0x21, 0x11, FOUR, length=LONGEST - 15),
    v2(0x20, 0x00, length=0xFFFF),
]


@pytest.mark.parametrize(("data", "source"), HEADERS)
def test_headers(data: bytes, source: bytes | None) -> None:
    assert parse_header(data) == ProxyHeader(len(data), source)
    assert parse_header(data + b"GET / HTTP/1.1\r\n") == ProxyHeader(len(data), source)
    for end in range(len(data)):
        assert parse_header(data[:end]) is None


@pytest.mark.parametrize("data", REFUSED)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedHeader):
        parse_header(data)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: SIGNATURE + data))
def test_no_bytes_do_more_than_that(data: bytes) -> None:
    try:
        found = parse_header(data)
    except MalformedHeader:
        return
    assert found is None or 0 < found.size <= min(len(data), LONGEST)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(0, 65535), st.binary(max_size=50))
def test_both_versions_state_the_same_client(address: IPv4Address | IPv6Address, port: int, rest: bytes) -> None:
    version, kind = address.version, 0x11 if address.version == 4 else 0x21
    line = f"PROXY TCP{version} {address} {address} {port} {port}\r\n".encode()
    one = parse_header(line + rest)
    block = v2(0x21, kind, address.packed * 2 + port.to_bytes(2) * 2)
    two = parse_header(block + rest)
    assert one is not None and two is not None
    assert (one.size, two.size) == (len(line), len(block))
    assert one.source == two.source
