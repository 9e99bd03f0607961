"""The field lines that a request carries upstream: those of the client that are end to end, and the gateway's own."""

from __future__ import annotations

from hashlib import blake2b

from passerelle.http1.head import RequestHead
from passerelle.security.addresses import Proxies

# RFC 9110 §7.6.3: a gateway says in each request that it forwards that it was here.
VIA = b"Via: 1.1 passerelle\r\n"

# What a part of a composition must not inherit: conditions, ranges and codings are about the whole answer (RFC 9110
# §13, §14, §12.5.3), and there is no body.
_NOT_FOR_PARTS = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"accept-ranges",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-type",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    }
)


def client_address(head: RequestHead, peer: bytes, proxies: Proxies) -> bytes:
    """The client's address: that of ``peer``, unless it is a trusted proxy and vouches for another one."""
    if not head.forwarded:
        return peer
    if head.chain is None:
        said = [f.value for f in head.lines if f.name == b"x-forwarded-for"]
        head.chain = proxies.chain(peer, said) if said else [peer]
    return head.chain[0]


def is_client_secure(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bool:
    """Whether the client came over TLS: to here (``scheme``), or to a proxy that is trusted and says so."""
    said = head.get(b"x-forwarded-proto") if head.forwarded and proxies.trusts(peer) else None
    return (said or scheme) == b"https"


def trusted_host(head: RequestHead, peer: bytes, proxies: Proxies) -> bytes:
    """The host that the client has asked by the word of a trusted proxy, in lower case; empty where there is none."""
    said = head.get(b"x-forwarded-host") if head.forwarded and proxies.trusts(peer) else None
    return (said or b"").lower()


def cache_origin(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bytes:
    """What stands for the origin in cache keys: all that services are told of it, the port and the scheme too.

    An answer may repeat it (a redirect to https, an absolute link), so it must not reach who asked elsewhere.
    """
    authority = head.authority.lower()
    if not head.forwarded or not proxies.trusts(peer):
        return authority
    host = (head.get(b"x-forwarded-host") or authority).lower()
    proto = head.get(b"x-forwarded-proto") or scheme
    if (host, proto) == (authority, scheme):
        return authority
    # Its octets are the proxy's word and no host's, so they must not be read as a part of a key. No Host begins with a
    # slash: who may choose his own cannot choose a digest.
    return b"/" + blake2b(b"%b\0%b\0%b" % (authority, host, proto), digest_size=16).hexdigest().encode("ascii")


# Forwarding lines by (peer, Host, scheme): the same for all of a client's requests. Clients choose them, so it is
# bounded; making a line anew costs 0.6 us.
_known_lines: dict[tuple[bytes, bytes, bytes], bytes] = {}
_MOST_KNOWN = 1024


def forwarding_lines(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bytes:
    """Via and the X-Forwarded lines. The chain holds what trusted proxies vouch for and nothing else: an upstream reads
    one that no client could forge (RFC 7239 §8.1)."""
    if head.forwarded and proxies.trusts(peer):
        client_address(head, peer, proxies)
        host = head.get(b"x-forwarded-host") or head.authority
        return _lines(b", ".join(head.chain or [peer]), host, head.get(b"x-forwarded-proto") or scheme)
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
    """All field lines for the upstream but the request id. The same for as long as a client repeats its head."""
    fields = head.relay + forwarding_lines(head, peer, proxies, scheme)
    if head.host is None:
        fields = b"Host: \r\n" + fields  # RFC 9112 §3.2: an HTTP/1.0 client need not send one, we must
    if head.chunked:
        fields += b"Transfer-Encoding: chunked\r\n"
    if head.expect:
        fields += b"Expect: 100-continue\r\n"
    if head.upgrade is not None:
        fields += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    return fields


def part_fields(head: RequestHead, peer: bytes, proxies: Proxies, scheme: bytes) -> bytes:
    """All field lines for a part of a composition but the request id."""
    relayed = [line for line in head.relay.split(b"\r\n") if line]
    kept = [line for line in relayed if line.partition(b":")[0].lower() not in _NOT_FOR_PARTS]
    kept += [b"Accept: application/json", b"Accept-Encoding: identity", b""]
    fields = b"\r\n".join(kept) + forwarding_lines(head, peer, proxies, scheme)
    return fields if head.host is not None else b"Host: \r\n" + fields
