"""The header section of a request for an upstream: the end-to-end fields of the client, and the gateway's own."""

from __future__ import annotations

import re
from hashlib import blake2b

from passerelle.http.messages import NOT_FOR_PARTS
from passerelle.http1.head import RequestHead
from passerelle.security.addresses import Proxies

# RFC 9110 §7.6.3: a gateway adds a Via field to each request that it forwards.
VIA = b"Via: 1.1 passerelle\r\n"

# The path before that of the request, as a trusted proxy states it in X-Forwarded-Prefix.
_PREFIX = re.compile(rb"(?:/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+/?")

_ACCEPT_OF_PARTS = b"Accept: application/json\r\nAccept-Encoding: identity\r\n"


def client_address(head: RequestHead, peer: bytes, proxies: Proxies) -> bytes:
    """Return the address of the client: ``peer``, or the address that a trusted proxy forwards."""
    if not head.forwarded:
        return peer
    if head.chain is None:
        values = [field.value for field in head.named(b"x-forwarded-for")]
        head.chain = proxies.chain(peer, values) if values else [peer]
    return head.chain[0]


def is_client_secure(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bool:
    """Whether the client uses TLS: to this gateway (``scheme``), or to a trusted proxy according to that proxy."""
    forwarded = head.get(b"x-forwarded-proto") if head.forwarded and proxies.trusts(peer) else None
    return (forwarded or scheme) == b"https"


def trusted_host(head: RequestHead, peer: bytes, proxies: Proxies) -> bytes:
    """Return the host that the client requested according to a trusted proxy, in lower case; empty without one."""
    forwarded = head.get(b"x-forwarded-host") if head.forwarded and proxies.trusts(peer) else None
    return (forwarded or b"").lower()


def client_hosts(head: RequestHead, peer: bytes, proxies: Proxies) -> tuple[bytes, bytes]:
    """Return the hosts that the client used, in lower case with their ports: its Host, and :func:`trusted_host`."""
    return head.authority.lower(), trusted_host(head, peer, proxies)


def cache_origin(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bytes:
    """Return the origin as it stands in cache keys: all that a service is sent about it, port and scheme included.

    A response may depend on the origin (a redirect to https, an absolute link), so it must not be served to clients of
    another one.
    """
    authority = head.authority.lower()
    if not head.forwarded or not proxies.trusts(peer):
        return authority
    host = (head.get(b"x-forwarded-host") or authority).lower()
    proto = head.get(b"x-forwarded-proto") or scheme
    prefix = head.get(b"x-forwarded-prefix") or b""
    if (host, proto, prefix) == (authority, scheme, b""):
        return authority
    # The proxy chooses the values, which need not be hosts, so the key contains a digest instead of their octets. No
    # Host begins with a slash, so a client that chooses its Host cannot choose a digest.
    return b"/" + blake2b(b"%b\0%b\0%b\0%b" % (authority, host, proto, prefix), digest_size=16).hexdigest().encode(
        "ascii"
    )


# Forwarding lines by (peer, Host, scheme), which are the same for all requests of a client. Clients choose the key, so
# the number of entries is bounded. Making the lines costs 0.6 us.
_known_lines: dict[tuple[bytes, bytes, bytes], bytes] = {}
_MOST_KNOWN = 1024


def forwarding_lines(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bytes:
    """Return the Via and X-Forwarded lines.

    The chain contains only addresses that trusted proxies vouch for, so that no client can forge the chain that the
    upstream reads (RFC 7239 §8.1).
    """
    if head.forwarded and proxies.trusts(peer):
        client_address(head, peer, proxies)
        host = head.get(b"x-forwarded-host") or head.authority
        sent = _lines(b", ".join(head.chain or [peer]), host, head.get(b"x-forwarded-proto") or scheme)
        prefix = head.get(b"x-forwarded-prefix") or b""
        # A list, or a path that begins with two slashes and so is a link to another host, is not believed.
        if not _PREFIX.fullmatch(prefix):
            return sent
        return b"%bX-Forwarded-Prefix: %b\r\n" % (sent, prefix)
    key = (peer, head.authority, scheme)
    lines = _known_lines.get(key)
    if lines is None:
        lines = _lines(peer, head.authority, scheme)
        if len(_known_lines) >= _MOST_KNOWN:
            _known_lines.clear()
        if len(head.authority) < 256:
            _known_lines[key] = lines
    return lines


def _lines(chain: bytes, host: bytes, proto: bytes) -> bytes:
    host_line = b"X-Forwarded-Host: %b\r\n" % host if host else b""
    return b"%bX-Forwarded-For: %b\r\n%bX-Forwarded-Proto: %b\r\n" % (VIA, chain, host_line, proto)


def upstream_fields(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bytes:
    """Return all field lines for the upstream except the request ID. They are the same for equal heads of a client."""
    fields = head.relay + forwarding_lines(head, peer, proxies, scheme)
    if head.host is None:
        fields = b"Host: \r\n" + fields  # RFC 9112 §3.2: a client need not send it with HTTP/1.0, the gateway must
    if head.plain:
        return fields
    if head.chunked:
        fields += b"Transfer-Encoding: chunked\r\n"
    if head.expect:
        fields += b"Expect: 100-continue\r\n"
    if head.upgrade is not None:
        fields += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    return fields


def part_fields(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bytes:
    """Return all field lines for a part of a composition except the request ID."""
    kept = head.relay_without(NOT_FOR_PARTS)
    fields = kept + _ACCEPT_OF_PARTS + forwarding_lines(head, peer, proxies, scheme)
    return fields if head.host is not None else b"Host: \r\n" + fields
