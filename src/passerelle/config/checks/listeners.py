"""Checks of ``listen``: addresses, TLS, redirects to https, and the PROXY protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from passerelle.config.models.addresses import Address
from passerelle.config.models.config import Config
from passerelle.config.models.listeners import UNIX, Listener, PassedSocket
from passerelle.config.problems import Finding, Loc

WILDCARD_ADDRESSES = ("0.0.0.0", "::")


def same_socket(one: Address, other: Address) -> bool:
    """Whether two addresses denote the same socket. Port 0 never does: it is another port each time."""
    if isinstance(one, PassedSocket) or isinstance(other, PassedSocket) or one.is_socket or other.is_socket:
        return type(one) is type(other) and one.host == other.host
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or bool({one.host, other.host} & set(WILDCARD_ADDRESSES))


def has_ipv4(listen: Sequence[Listener], port: int) -> bool:
    """Whether a listener has an IPv4 address with ``port``, so that ``[::]`` with that port is for IPv6 alone."""
    return any(
        each.address.port == port and port and ":" not in each.address.host and not each.address.is_socket
        for each in listen
    )


def listener_findings(listen: Sequence[Listener], has_tls: bool) -> Iterator[Finding]:
    """Find what cannot work in ``listen``; ``has_tls`` is whether the file has ``tls``."""
    for index, listener in enumerate(listen):
        loc: Loc = ("listen", index) if len(listen) > 1 or not listener.plain else ("listen",)
        for before in listen[:index]:
            if _collide(before.address, listener.address):
                yield Finding(loc, f"found {listener.address}, which {before.address} before it has already")
                break
        yield from _keys(loc, listener, listen, has_tls)
    if listen and all(each.https_redirect is not None for each in listen):
        yield Finding(("listen",), "all listeners redirect; one of them must forward requests")


def _collide(one: Address, other: Address) -> bool:
    """Whether two listeners cannot both have their address: an address and all addresses of its own family do.

    With IPv4 on its port, ``[::]`` is for IPv6 alone.
    """
    if not same_socket(one, other):
        return False
    return one.host == other.host or (":" in one.host) == (":" in other.host)


def _keys(loc: Loc, listener: Listener, listen: Sequence[Listener], has_tls: bool) -> Iterator[Finding]:
    if listener.tls and not has_tls:
        yield Finding((*loc, "tls"), "found true without tls in the file, which has the certificate")
    if listener.https_redirect is not None:
        if listener.tls:
            yield Finding((*loc, "https_redirect"), "found together with tls: true; clients already use https there")
        if not any(each.is_secure(has_tls) for each in listen) and listener.https_port is None:
            why = "no listener has TLS; if TLS ends in front of the gateway, write https_port: 443"
            yield Finding((*loc, "https_redirect"), why)
    elif listener.https_port is not None:
        yield Finding((*loc, "https_port"), "found without https_redirect", at_key=True)
    if listener.mode is not None and not listener.address.is_socket:
        yield Finding((*loc, "mode"), "allowed for unix:/path only; systemd sets that of its sockets", at_key=True)
    if isinstance(listener.address, PassedSocket):
        return
    for index, peer in enumerate(listener.proxy_protocol or ()):
        place = (*loc, "proxy_protocol", index)
        if peer == UNIX and not listener.address.is_socket:
            yield Finding(place, "found unix for a TCP address; allowed are address ranges, such as 10.0.0.0/8")
        elif peer != UNIX and listener.address.is_socket:
            yield Finding(place, f"found {peer} for a Unix socket, whose clients have no address; write unix")


def listener_hints(config: Config) -> Iterator[Finding]:
    """Find what works but is probably a mistake."""
    if config.tls is not None and not any(map(config.is_secure, config.listen)):
        yield Finding(("tls",), "no listener uses it", at_key=True)
    auto = config.tls.auto if config.tls is not None else None
    if auto is not None and auto.challenge == "http-01" and all(map(config.is_secure, config.listen)):
        text = "authorities validate http-01 over plain HTTP on port 80, and no listener speaks it"
        yield Finding(("tls", "auto", "challenge"), text)
