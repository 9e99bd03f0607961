"""Keys in the query: what becomes of the head of their requests."""

from __future__ import annotations

from passerelle.gateway.query_keys import with_keys
from passerelle.http1.head import RequestHead


def test_what_the_connection_has_refused_stays_refused() -> None:
    lines = [b"Host: a", b"Connection: upgrade", b"Upgrade: websocket", b"Expect: 100-continue", b"Content-Length: 1"]
    head = RequestHead(b"\r\n".join([*lines[:3], b""]), 3)
    assert head.upgrade is not None and with_keys(head, [b"k" * 20]).upgrade == head.upgrade
    head.upgrade = None  # as for HTTP/1.0
    assert with_keys(head, [b"k" * 20]).upgrade is None
    head = RequestHead(b"\r\n".join([lines[0], *lines[3:], b""]), 3)
    assert head.expect and with_keys(head, [b"k" * 20]).expect == head.expect
    head.expect = False
    assert not with_keys(head, [b"k" * 20]).expect
