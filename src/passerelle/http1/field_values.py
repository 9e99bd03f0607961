"""Values of the field lines that frame or route an HTTP/1.1 message (RFC 9110, RFC 9112)."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from passerelle.errors import Failure, Kind
from passerelle.http.messages import list_members

# 1*DIGIT (RFC 9110 §8.6), and no more digits than those of a petabyte. int() alone would accept more.
_LONGEST_LENGTH = 15

# A transfer coding without a meaning: none of RFC 9112 §7.2, whose bytes are not the content, and nothing that
# resembles chunked.
_UNKNOWN_CODING = re.compile(
    rb"(?!(?:x-)?(?:gzip|compress|deflate)$)(?!.*chunk)[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.IGNORECASE
)

# RFC 9110 §7.2 with RFC 3986 §3.2.2: a name, an IPv4 address or a bracketed IPv6 address, with an optional port.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z!$&'()*+;=._~%-]+)(?::([0-9]{0,5}))?")

# Maximum number of options in all Connection lines of a message. Few have a meaning besides names of fields, and as a
# set, a head full of options takes fifty times its size.
MOST_OPTIONS = 64


def parse_length(value: bytes, kind: Kind) -> int:
    """Return a Content-Length in bytes (RFC 9110 §8.6: 1*DIGIT, ASCII); raise a Failure of ``kind`` otherwise."""
    if not value.isdigit() or len(value) > _LONGEST_LENGTH:
        raise Failure(kind, "malformed Content-Length")
    return int(value)


def parse_host(value: bytes, kind: Kind) -> bytes:
    """Return a Host in lower case, without port and trailing dot (RFC 9110 §4.2.1, §7.2).

    Raise a Failure of ``kind`` if it is malformed.
    """
    match = _HOST.fullmatch(value)
    if match is None or (match[2] and int(match[2]) > 65535):
        raise Failure(kind, "malformed Host")
    if match[1].startswith(b"["):
        try:
            IPv6Address(match[1][1:-1].decode("ascii"))
        except ValueError:
            raise Failure(kind, "malformed Host") from None
    return match[1].lower().rstrip(b".")


def parse_transfer_encoding(value: bytes, kind: Kind) -> bool:
    """Return whether the transfer coding is ``chunked``; raise Failure if it is malformed or not supported.

    Empty list members are ignored (RFC 9110 §5.6.1.2, RFC 9112 §6.1). The result is False only for a response with one
    name that denotes no known coding (such as the former ``identity``). The body of such a response ends with the
    connection (RFC 9112 §6.3 item 4) and is relayed unchanged. A name with a meaning, or one that could be taken for
    ``chunked``, is refused.
    """
    codings = [m.lower() for m in list_members(value)]
    if codings == [b"chunked"]:
        return True
    if kind is Kind.BAD_RESPONSE and len(codings) == 1 and _UNKNOWN_CODING.fullmatch(codings[0]):
        return False
    if kind is Kind.BAD_REQUEST and codings and codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
        raise Failure(Kind.CODING_UNSUPPORTED, "transfer coding other than chunked")
    raise Failure(kind, "malformed Transfer-Encoding")


def parse_options(value: bytes, kind: Kind) -> frozenset[bytes]:
    """Return the options of a Connection line in lower case; raise Failure if there are more than MOST_OPTIONS."""
    options = frozenset(m.lower() for m in list_members(value))
    if len(options) > MOST_OPTIONS:
        raise Failure(kind, f"more than {MOST_OPTIONS} Connection options")
    return options


def parse_expectation(value: bytes) -> bool:
    """Return True for ``100-continue`` (RFC 9110 §10.1.1); raise Failure for any other expectation."""
    if value.lower() != b"100-continue":
        raise Failure(Kind.EXPECTATION_FAILED, "unknown expectation")
    return True
