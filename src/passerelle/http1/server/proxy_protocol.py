"""The header of the PROXY protocol, versions 1 and 2, which a proxy sends before the bytes of its client.

The format is that of HAProxy's specification (proxy-protocol.txt). Everything that it does not allow is refused, and
both versions are bounded, so a header is never more than :data:`LONGEST` bytes.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST_V1 = 107  # with its CRLF
LONGEST = 4096  # of version 2: its addresses take 36 bytes at most, the rest is for TLVs
_V2_HEAD = 16  # the bytes of version 2 before its addresses

_LOCAL, _PROXY = 0x20, 0x21
_STREAM_4, _STREAM_6 = 0x11, 0x21
# The size of the addresses by family and transport. Only TCP has an address that is used.
_SIZES = {0x00: 0, _STREAM_4: 12, 0x12: 12, _STREAM_6: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_ADDRESS, _PORT = rb"([0-9a-fA-F.:]{2,45})", rb"(0|[1-9][0-9]{0,4})"
_V1 = re.compile(rb"PROXY (TCP4|TCP6) %b %b %b %b" % (_ADDRESS, _ADDRESS, _PORT, _PORT)).fullmatch


class MalformedHeader(ValueError):
    """The bytes are no header of the PROXY protocol. The text is a few words for the log."""


class ProxyHeader(NamedTuple):
    """A header of ``size`` bytes. ``source`` is the address of the client; None for that of the connection itself."""

    size: int
    source: bytes | None


def parse_header(data: bytes) -> ProxyHeader | None:
    """Parse the header at the beginning of ``data``; None while it is incomplete.

    :raises MalformedHeader: as soon as ``data`` cannot become a header.
    """
    if data[:1] == b"P":
        return _parse_v1(data)
    if not SIGNATURE.startswith(data[:12]):
        raise MalformedHeader("no header of the PROXY protocol")
    return _parse_v2(data) if len(data) >= _V2_HEAD else None


def _parse_v1(data: bytes) -> ProxyHeader | None:
    if not b"PROXY ".startswith(data[:6]):
        raise MalformedHeader("no header of the PROXY protocol")
    end = data.find(b"\r\n", 0, LONGEST_V1)
    if end < 0:
        if len(data) >= LONGEST_V1:
            raise MalformedHeader(f"a header of version 1 over {LONGEST_V1} bytes")
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(end + 2, None)
    match = _V1(line)
    if match is None or int(match[4]) > 65535 or int(match[5]) > 65535:
        raise MalformedHeader("a malformed header of version 1")
    kind = IPv4Address if match[1] == b"TCP4" else IPv6Address
    try:
        source, _ = kind(match[2].decode("ascii")), kind(match[3].decode("ascii"))
    except AddressValueError:
        raise MalformedHeader("a malformed address in a header of version 1") from None
    return ProxyHeader(end + 2, _text(source))


def _parse_v2(data: bytes) -> ProxyHeader | None:
    command, kind, length = data[12], data[13], int.from_bytes(data[14:16])
    if command not in (_LOCAL, _PROXY):
        raise MalformedHeader("an unknown version or command in a header of version 2")
    size = _V2_HEAD + length
    if size > LONGEST:
        raise MalformedHeader(f"a header of version 2 over {LONGEST} bytes")
    addresses = _SIZES.get(kind)
    if command == _PROXY and (addresses is None or length < addresses):
        raise MalformedHeader("an unknown family or too few addresses in a header of version 2")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(size, None)  # the proxy's own connection, such as a probe: its addresses mean nothing
    assert addresses is not None
    _check_tlvs(data[_V2_HEAD + addresses : size])
    if kind == _STREAM_4:
        return ProxyHeader(size, _text(IPv4Address(data[16:20])))
    if kind == _STREAM_6:
        return ProxyHeader(size, _text(IPv6Address(data[16:32])))
    return ProxyHeader(size, None)


def _check_tlvs(data: bytes) -> None:
    """Check that ``data`` is a sequence of TLVs, which are otherwise ignored."""
    position = 0
    while position < len(data):
        if len(data) < position + 3:
            raise MalformedHeader("a truncated TLV in a header of version 2")
        position += 3 + int.from_bytes(data[position + 1 : position + 3])
    if position != len(data):
        raise MalformedHeader("a truncated TLV in a header of version 2")


def _text(address: IPv4Address | IPv6Address) -> bytes:
    """Return the canonical form; an IPv4-mapped address is the same client as with IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address).encode("ascii")
