"""Client addresses: the single evaluation of X-Forwarded-For on which all guards rely.

Each proxy appends the address that connected to it, so the right-most entry comes from the nearest proxy. Entries are
trusted from right to left as long as the proxy that wrote them is trusted. Entries to the left of the first untrusted
address are unverified claims and are ignored (RFC 7239 §8.1). An entry that is not an address ends the evaluation at
the proxy that wrote it; entries further to the left are not used instead. ``Forwarded`` and ``X-Real-IP`` are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from passerelle.errors import Kind
from passerelle.security.guard import GuardedCall, RequestRefused

Network = IPv4Network | IPv6Network

# An entry: an address, with an optional port. An IPv6 address with a port is in brackets (as in RFC 7239 §6.1).
_ENTRY = re.compile(rb"\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|([0-9.]{7,15})(?::[0-9]{1,5})?|([0-9A-Fa-f:.]{2,45})")

# Addresses whose text form is cached. Once the cache is full it is cleared, after which each address costs 3 us again.
REMEMBERED = 10_000


def parse_address(text: bytes) -> IPv4Address | IPv6Address | None:
    """Parse an entry of X-Forwarded-For without its port; return IPv4-mapped IPv6 as IPv4, and None for a malformed
    entry."""
    if len(text) > 2 and text.startswith(b'"') and text.endswith(b'"'):
        text = text[1:-1]
    match = _ENTRY.fullmatch(text)
    if match is None:
        return None
    try:
        return _plain(ip_address((match[1] or match[2] or match[3]).decode("ascii")))
    except ValueError:
        return None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


class AddressSet:
    """The addresses in ``networks``."""

    __slots__ = ("_known", "_networks")

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._known: dict[bytes, bool] = {}

    def __bool__(self) -> bool:
        """Return whether any address is in the set."""
        return bool(self._networks)

    def has(self, text: bytes) -> bool:
        """Return whether the address ``text`` is in the set; what is no address is not."""
        if not self._networks:
            return False
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            address = parse_address(text)
            known = self._known[text] = address is not None and self._contains(address)
        return known

    def _contains(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


class Proxies(AddressSet):
    """Set of trusted proxies."""

    __slots__ = ()

    trusts = AddressSet.has  # one name for the question, no second call

    def chain(self, peer: bytes, forwarded_for: Sequence[bytes]) -> list[bytes]:
        """Return the trusted part of the chain, from the client to ``peer``, the other end of the connection.

        ``forwarded_for`` are the values of all X-Forwarded-For lines, in order. The first member of the result is the
        client's address; there is always one. Addresses are in canonical form, without ports.
        """
        chain = [peer]
        if not self.trusts(peer):
            return chain
        for entry in reversed(b",".join(forwarded_for).split(b",")):
            address = parse_address(entry.strip(b" \t"))
            if address is None:
                break
            chain.append(str(address).encode("ascii"))
            if not self._contains(address):
                break
        chain.reverse()
        return chain


class Subscribers:
    """Groups addresses by subscriber: IPv6 addresses by /64, the smallest network that one site receives (RFC 6177)."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def of(self, address: bytes) -> bytes:
        """Return the key under which ``address`` is counted; text that is not an address is its own key."""
        if b":" not in address:
            return address
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            parsed = parse_address(address.partition(b"%")[0])
            if isinstance(parsed, IPv6Address):
                known = str(IPv6Network((int(parsed) >> 64 << 64, 64))).encode("ascii")
            else:
                known = address if parsed is None else str(parsed).encode("ascii")
            self._known[address] = known
        return known


class AddressLists:
    """Guard for addresses: responds with 403 to addresses in ``deny``, or outside a non-empty ``allow``.

    Text that is not an address is in no network, so a non-empty ``allow`` excludes it.
    """

    __slots__ = ("_allow", "_deny", "_known")

    def __init__(self, allow: Iterable[Network], deny: Iterable[Network]) -> None:
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._known: dict[bytes, bool] = {}

    def __call__(self, call: GuardedCall) -> None:
        """Admit the request, or raise :class:`RequestRefused`."""
        known = self._known.get(call.address)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[call.address] = self._admits(call.address)
        if not known:
            raise RequestRefused(Kind.FORBIDDEN, "address not allowed", [])

    def _admits(self, text: bytes) -> bool:
        address = parse_address(text.partition(b"%")[0])
        if address is None:
            return not self._allow
        if any(address in network for network in self._deny):
            return False
        return not self._allow or any(address in network for network in self._allow)
