"""Responses to requests that an application server cannot pass on to its application."""

from __future__ import annotations

import re
import sys

import httptools

RETRY_AFTER = 5  # seconds
_TITLES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    507: "Insufficient Storage",
}
# The beginning of a request line, when a method is all that can be wrong with it.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} [^ ]")


def response(status: int) -> bytes:
    """Return a whole response with ``status``, after which the connection closes."""
    title = _TITLES[status]
    body = f'{{"type":"about:blank","title":"{title}","status":{status}}}'
    head = f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n"
    if status == 503:
        head += f"Retry-After: {RETRY_AFTER}\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def has_unknown_method(data: bytes) -> bool:
    """Whether the error of the parser that is being handled comes from a method that it does not know (RFC 9110,
    section 9.1), and not from bytes that are no request. ``data`` is what the parser has been given last."""
    return isinstance(sys.exc_info()[1], httptools.HttpParserInvalidMethodError) and bool(_METHOD.match(data))
