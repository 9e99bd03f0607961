"""Request targets other than a plain path, and requests without a Host (RFC 9112 §3.2)."""

from __future__ import annotations

import re

from passerelle.errors import Failure, Kind
from passerelle.http1.head import RequestHead

# RFC 9112 §3.2.2: scheme "://" authority path. Userinfo is refused (RFC 9110 §4.2.4).
_ABSOLUTE = re.compile(rb"https?://([^/?#@\\]+)((?:[/?].*)?)", re.IGNORECASE)


def resolve_target(
    method: bytes, target: bytes, head: RequestHead, version11: bool, max_fields: int
) -> tuple[bytes, RequestHead]:
    """Return the target in origin-form (or ``*``) and a head whose Host agrees with the target.

    Raise Failure for a target that is malformed or not allowed.
    """
    if version11 and head.host is None:
        raise Failure(Kind.BAD_REQUEST, "no Host")
    if target == b"*":
        if method != b"OPTIONS":
            raise Failure(Kind.BAD_REQUEST, "asterisk-form without OPTIONS")
        return target, head
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Failure(Kind.BAD_REQUEST, "malformed request target")
    authority, rest = absolute.groups()
    path = rest if rest[:1] == b"/" else b"/" + rest
    if not rest and method == b"OPTIONS":
        path = b"*"  # about the server as a whole (RFC 9112 §3.2.4)
    if head.get(b"host") == authority:
        return path, head
    # RFC 9112 §3.2.2: the authority of the target replaces the Host field, here and upstream.
    lines = [b"Host: " + authority] + [f.line for f in head.lines if f.name != b"host"]
    return path, RequestHead(b"\r\n".join([*lines, b""]), max_fields + 1)
