"""Evaluation of X-Forwarded-For."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Kind
from passerelle.http1.head import RequestHead
from passerelle.security.addresses import REMEMBERED, AddressLists, Proxies, Subscribers, parse_address
from passerelle.security.guard import GuardedCall, RequestRefused

LOOPBACK = Proxies([ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
PEER = b"127.0.0.1"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"203.0.113.5", "203.0.113.5"),
        (b"203.0.113.5:4711", "203.0.113.5"),
        (b'"203.0.113.5:4711"', "203.0.113.5"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b'"[2001:DB8::1]:80"', "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"::ffff:203.0.113.5", "203.0.113.5"),
        (b"[::ffff:203.0.113.5]:80", "203.0.113.5"),
    ],
)
def test_an_entry_is_an_address_with_or_without_a_port(text: bytes, address: str) -> None:
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        *(b"unknown", b"", b"_hidden", b"\xf0\xfd", b"203.0.113", b"203.0.113.256", b"0203.0.113.5", b"203.0.113.5:"),
        *(b"203.0.113.5:123456", b"203.0.113.5 ", b"[203.0.113.5", b"[::1]x", b"[::1]:", b"::1%eth0", b"1::2::3"),
        *(b'"', b'""', b"203.0.113.5\r\nX-A: b", b"2130706433", b"0x7f.0.0.1", "²03.0.113.5".encode()),
    ],
)
def test_anything_else_is_none(text: bytes) -> None:
    assert parse_address(text) is None


@given(st.binary(max_size=60))
def test_no_octets_break_the_reader(text: bytes) -> None:
    found = parse_address(text)
    assert found is None or parse_address(str(found).encode()) == found


def test_an_untrusted_peer_cannot_name_another_client() -> None:
    assert LOOPBACK.chain(b"203.0.113.9", [b"198.51.100.9"]) == [b"203.0.113.9"]
    assert Proxies([]).chain(PEER, [b"198.51.100.9"]) == [PEER]
    assert not Proxies([]).trusts(PEER)


@pytest.mark.parametrize(
    ("said", "chain"),
    [
        ([b"198.51.100.9, 203.0.113.5"], [b"203.0.113.5", PEER]),
        ([b"198.51.100.9", b"203.0.113.5"], [b"203.0.113.5", PEER]),
        ([b"203.0.113.5, 10.1.2.3"], [b"203.0.113.5", b"10.1.2.3", PEER]),
        ([b"10.9.9.9, 10.1.2.3"], [b"10.9.9.9", b"10.1.2.3", PEER]),
        ([b"203.0.113.5:4711"], [b"203.0.113.5", PEER]),
        ([b"198.51.100.9, ::ffff:203.0.113.5"], [b"203.0.113.5", PEER]),
        ([b"198.51.100.9, [fd00::1]:80"], [b"198.51.100.9", b"fd00::1", PEER]),
        # An entry that is not an address ends the evaluation at the proxy that wrote it.
        ([b"198.51.100.9, unknown"], [PEER]),
        ([b"198.51.100.9,"], [PEER]),
        ([b""], [PEER]),
        ([b"198.51.100.9, \xf0\xfd, 10.1.2.3"], [b"10.1.2.3", PEER]),
        ([b", ".join([b"198.51.100.9"] * 500)], [b"198.51.100.9", PEER]),
    ],
)
def test_the_chain_is_walked_from_the_right(said: list[bytes], chain: list[bytes]) -> None:
    assert LOOPBACK.chain(PEER, said) == chain


ADDRESSES = st.one_of(st.ip_addresses().map(lambda a: str(a).encode()), st.sampled_from([b"10.1.1.1", b"127.0.0.9"]))
GARBAGE = st.sampled_from([b"unknown", b"", b"x", b"1.2.3", b"\xff"])


@given(st.lists(ADDRESSES | GARBAGE, max_size=8), st.lists(ADDRESSES | GARBAGE, max_size=8))
def test_what_a_client_puts_in_front_changes_nothing(forged: list[bytes], tail: list[bytes]) -> None:
    """Entries to the left of the first untrusted address do not affect the result."""
    honest = [b"203.0.113.5", *[entry for entry in tail if LOOPBACK.trusts(entry)]]
    with_forgery = LOOPBACK.chain(PEER, [b", ".join([*forged, *honest])])
    assert with_forgery == LOOPBACK.chain(PEER, [b", ".join(honest)])
    assert with_forgery[0] == b"203.0.113.5"


def test_an_ipv4_peer_in_ipv6_form_is_trusted_as_ipv4() -> None:
    assert LOOPBACK.trusts(b"::ffff:127.0.0.1")
    assert not LOOPBACK.trusts(b"::ffff:203.0.113.5")
    assert not LOOPBACK.trusts(b"local")


def test_what_is_remembered_of_peers_is_bounded() -> None:
    proxies = Proxies([ip_network("10.0.0.0/8")])
    for number in range(REMEMBERED + 10):
        proxies.trusts(str(ip_address(number)).encode())
    assert len(proxies._known) <= REMEMBERED
    assert proxies.trusts(b"10.0.0.1")


@pytest.mark.parametrize(
    ("address", "payer"),
    [
        (b"203.0.113.5", b"203.0.113.5"),
        (b"2001:db8:1:2:3:4:5:6", b"2001:db8:1:2::/64"),
        (b"2001:db8:1:2::", b"2001:db8:1:2::/64"),
        (b"2001:db8:1:3::1", b"2001:db8:1:3::/64"),
        (b"::ffff:203.0.113.5", b"203.0.113.5"),
        (b"fe80::1%eth0", b"fe80::/64"),
        (b"local", b"local"),
    ],
)
def test_ipv6_is_counted_by_64(address: bytes, payer: bytes) -> None:
    subscribers = Subscribers()
    assert subscribers.of(address) == payer
    assert subscribers.of(address) == payer


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        (b"10.1.2.3", True),
        (b"::ffff:10.1.2.3", True),
        (b"10.9.9.9", False),
        (b"::ffff:10.9.9.9", False),
        (b"192.0.2.1", False),
        (b"fd00::1", True),
        (b"fe80::1%eth0", False),
        (b"local", False),
    ],
)
def test_lists_of_addresses(address: bytes, admitted: bool) -> None:
    guard = AddressLists([ip_network("10.0.0.0/8"), ip_network("fd00::/8")], [ip_network("10.9.0.0/16")])
    request = GuardedCall(b"GET", b"/", address, RequestHead(b"", 100))
    for _ in range(2):  # the second time it is cached
        if admitted:
            guard(request)
        else:
            with pytest.raises(RequestRefused) as refused:
                guard(request)
            assert refused.value.kind is Kind.FORBIDDEN


def test_a_deny_list_admits_all_other_addresses() -> None:
    guard = AddressLists([], [ip_network("10.0.0.0/8")])
    guard(GuardedCall(b"GET", b"/", b"192.0.2.1", RequestHead(b"", 100)))
    guard(GuardedCall(b"GET", b"/", b"local", RequestHead(b"", 100)))
    with pytest.raises(RequestRefused):
        guard(GuardedCall(b"GET", b"/", b"10.0.0.1", RequestHead(b"", 100)))
