"""Applications that record complete requests, one line of JSON each, in the file that ``RECORD`` names.

They respond with the received request, like :func:`tests.attack.chains.recording`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any


def note(method: str, target: str, fields: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """Record one request before the response; return the response body."""
    line = json.dumps({"line": f"{method} {target}", "fields": list(fields), "body": body.decode("latin-1")})
    # A single write, so that concurrent records do not mix.
    file = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode("ascii") + b"\n")
    finally:
        os.close(file)
    return f"{method} {target}".encode("latin-1")


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """WSGI application."""
    names = [name for name in environ if name.startswith(("HTTP_", "CONTENT_"))]
    fields = [(name.removeprefix("HTTP_").replace("_", "-").lower(), environ[name]) for name in names]
    body = environ["wsgi.input"].read()
    answer = note(environ["REQUEST_METHOD"], environ["REQUEST_URI"], fields, body)
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer]


async def asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[..., Awaitable[None]]
) -> None:
    """ASGI application. A request with a truncated body is not recorded."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    target = (scope["raw_path"] + query).decode("latin-1")
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    answer = note(scope["method"], target, fields, body)
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})
