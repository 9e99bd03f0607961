"""What uvicorn's HTTP protocol lacks for instances behind the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from passerelle.appserver import refusal
from passerelle.appserver.client_fields import apply_to_scope
from passerelle.appserver.gateway_peer import is_gateway
from passerelle.appserver.paths import decode_path

Application = Callable[[Any, Any, Any], Awaitable[None]]

# Of the connection whose data is handled. uvicorn starts the application in a task, which inherits it; WebSockets, too,
# whose connections are objects of other classes.
_from_gateway: ContextVar[bool] = ContextVar("from_gateway", default=False)


class BehindGateway:
    """An ASGI 3 application that sees the client, and in whose paths encoded slashes stay encoded."""

    def __init__(self, application: Application, *, keep_host: bool = False) -> None:
        self._application = application
        self._keep_host = keep_host

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Correct the path, which uvicorn has decoded, and add what the gateway states about the client."""
        raw = scope.get("raw_path")
        if raw and (b"%2F" in raw or b"%2f" in raw):
            scope["path"] = decode_path(raw.decode("ascii"), "utf-8")
        if scope["type"] != "lifespan" and _from_gateway.get():
            apply_to_scope(scope, keep_host=self._keep_host)
        return self._application(scope, receive, send)


class AsgiConnection(HttpToolsProtocol):
    """One client connection. A method that the parser does not know is 501 (RFC 9110, section 9.1), not 400."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._latest = b""  # what the parser has been given last
        self._from_gateway = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Register the connection."""
        super().connection_made(transport)
        self._from_gateway = is_gateway(transport)

    def data_received(self, data: bytes) -> None:
        """Parse ``data``."""
        self._latest = data
        _from_gateway.set(self._from_gateway)
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed; ``msg`` is uvicorn's text for 400."""
        if not refusal.has_unknown_method(self._latest):
            super().send_400_response(msg)
            return
        self.transport.write(refusal.response(501))
        self.transport.close()
