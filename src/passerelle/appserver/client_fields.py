"""What the gateway states about the client, as applications receive it: address, scheme, host, prefix of the path."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def apply_to_environ(environ: MutableMapping[str, Any], *, keep_host: bool) -> None:
    """Put the client into the ``environ`` of a WSGI application.

    The first address of X-Forwarded-For is the client's; those of trusted proxies follow. Its port is not known. The
    prefix that the gateway has stripped from the path is SCRIPT_NAME (PEP 3333). ``keep_host``: the service is to
    receive another Host than that of the client.
    """
    scheme = environ.get("HTTP_X_FORWARDED_PROTO")
    if scheme in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme
    client = environ.get("HTTP_X_FORWARDED_FOR", "").partition(",")[0].strip(" ")
    if client:
        environ["REMOTE_ADDR"] = client
        environ["REMOTE_PORT"] = "0"
    host = environ.get("HTTP_X_FORWARDED_HOST")
    if host and not keep_host:
        environ["HTTP_HOST"] = host
    prefix = environ.get("HTTP_X_FORWARDED_PREFIX")
    if prefix:
        environ["SCRIPT_NAME"] = prefix.rstrip("/")


def apply_to_scope(scope: MutableMapping[str, Any], *, keep_host: bool) -> None:
    """Put the client into the ``scope`` of an ASGI application, as :func:`apply_to_environ`.

    The prefix is ``root_path``, with which ``path`` and ``raw_path`` begin (ASGI HTTP specification, since 2.4).
    """
    found = {name: value for name, value in scope["headers"] if name.startswith(b"x-forwarded-")}
    scheme = found.get(b"x-forwarded-proto")
    if scheme in (b"http", b"https"):
        secure = scheme == b"https"
        if scope["type"] == "websocket":
            scope["scheme"] = "wss" if secure else "ws"
        else:
            scope["scheme"] = "https" if secure else "http"
    client = found.get(b"x-forwarded-for", b"").partition(b",")[0].strip(b" ")
    if client:
        scope["client"] = (client.decode("latin-1"), 0)
    host = found.get(b"x-forwarded-host")
    if host and not keep_host:
        scope["headers"] = [(name, host if name == b"host" else value) for name, value in scope["headers"]]
    prefix = found.get(b"x-forwarded-prefix", b"").rstrip(b"/")
    if prefix:
        scope["root_path"] = prefix.decode("latin-1")
        scope["path"] = scope["root_path"] + scope["path"]
        if scope.get("raw_path") is not None:
            scope["raw_path"] = prefix + scope["raw_path"]
