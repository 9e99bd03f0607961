"""What uvicorn's HTTP protocol lacks for instances behind the gateway."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from passerelle.appserver import refusal


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
