"""API keys in the query: taken out of the target before anything else sees it.

URLs are logged, cached and passed on, so that a key must not remain in one. A request with the parameter is handled as
if its key had come in a field that no service receives (:data:`.QUERY_KEY_FIELD`). Without ``keys.query``, nothing of
this module is in use.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from passerelle.errors import Failure
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import RequestHandler, ServerConnection
from passerelle.security.credentials.authentication import QUERY_KEY_FIELD

_VISIBLE = re.compile(rb"[!-~]{1,1024}").fullmatch
# Stands for a value that is no key; no key has this form.
_NO_KEY = b"?"
# More parameters of the name than this are one too many.
_MOST = 2


class QueryKeyHandler:
    """Passes requests to ``handler``, without their parameters called ``name``."""

    def __init__(self, handler: RequestHandler, name: str) -> None:
        self._handler = handler
        self._name = name.encode("ascii")

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Handle a request."""
        path, mark, query = target.partition(b"?")
        # A name with an encoded letter is another spelling of the same.
        if mark and (self._name in query or b"%" in query):
            rest, keys = take(query, self._name)
            if keys:
                target = path + mark + rest if rest else path
                head = with_keys(head, keys[:_MOST])
        self._handler.on_request(connection, method, target, head)

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Count and log a message that is not a valid request; return the id given to it."""
        return self._handler.on_refused(connection, failure)


def take(query: bytes, name: bytes) -> tuple[bytes, list[bytes]]:
    """Return ``query`` without its parameters called ``name``, and the decoded values of these."""
    kept, values = [], []
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name or (b"%" in key and unquote_to_bytes(key) == name):
            values.append(unquote_to_bytes(value))
        else:
            kept.append(pair)
    return (b"&".join(kept) if values else query), values


def with_keys(head: RequestHead, keys: list[bytes]) -> RequestHead:
    """Return ``head`` with the field for each of ``keys``."""
    lines = [field.line for field in head.lines]
    lines += [b"%b: %b" % (QUERY_KEY_FIELD, key if _VISIBLE(key) else _NO_KEY) for key in keys]
    made = RequestHead(b"\r\n".join([*lines, b""]), len(lines))
    # The connection has judged these: HTTP/1.0 has neither (RFC 9110 §7.8, §10.1.1).
    made.expect = head.expect
    if head.upgrade is None:
        made.upgrade = None
    return made
