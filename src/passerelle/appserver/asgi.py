"""What uvicorn's HTTP protocol lacks for instances behind the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from passerelle.appserver import refusal
from passerelle.appserver.paths import decode_path

Application = Callable[[Any, Any, Any], Awaitable[None]]


class WithEncodedSlashes:
    """An ASGI 3 application in whose paths encoded slashes stay encoded, also those of WebSockets."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Correct the path, which uvicorn has decoded."""
        raw = scope.get("raw_path")
        if raw and (b"%2F" in raw or b"%2f" in raw):
            scope["path"] = decode_path(raw.decode("ascii"), "utf-8")
        return self._application(scope, receive, send)


class AsgiConnection(HttpToolsProtocol):
    """One client connection. A method that the parser does not know is 501 (RFC 9110, section 9.1), not 400."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._latest = b""  # what the parser has been given last

    def data_received(self, data: bytes) -> None:
        """Parse ``data``."""
        self._latest = data
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed; ``msg`` is uvicorn's text for 400."""
        if not refusal.has_unknown_method(self._latest):
            super().send_400_response(msg)
            return
        self.transport.write(refusal.response(501))
        self.transport.close()
