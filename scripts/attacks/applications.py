"""Applications under attack: each response names the handler that was reached.

``wsgi`` and ``asgi`` read a path as leniently as any server might: they merge slashes and resolve dot segments after
decoding. ``flask`` reads it as Flask does.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

HANDLERS = ("admin", "internal", "verify")


def handler_of(path: str) -> str:
    """Return the handler for a decoded path; ``open`` for any path that no other handler has."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    first = segments[0] if segments else ""
    if first == "internal" and len(segments) > 2:
        return "internal/delete"
    return first if first in HANDLERS else "open"


def _response(handler: str, path: str) -> bytes:
    return json.dumps({"handler": handler, "path": path}).encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Respond as a WSGI application."""
    path = environ["PATH_INFO"]
    body = _response(handler_of(path), path)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Respond as an ASGI application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = _response(handler_of(scope["path"]), scope["path"])
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def flask() -> Any:
    """Return a Flask application."""
    from flask import Flask, Response, request

    application = Flask("under_attack")

    def respond(handler: str) -> Response:
        return Response(_response(handler, request.path), content_type="application/json")

    def add(name: str, rule: str, handler: str) -> None:
        def view(**_values: str) -> Response:
            return respond(handler)

        application.add_url_rule(rule, name, view)

    add("admin", "/admin", "admin")
    add("admin below", "/admin/<path:rest>", "admin")
    add("verify", "/verify", "verify")
    add("internal", "/internal/<id>", "internal")
    add("delete", "/internal/<id>/<path:rest>", "internal/delete")
    add("root", "/", "open")
    add("open", "/<path:rest>", "open")
    return application
