"""Fixed responses."""

from __future__ import annotations

from collections.abc import Mapping

from passerelle.actions.interfaces import ActionExchange, Encoder
from passerelle.http.messages import Fields, Response
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.http1.serialize import serialize


class Respond:
    """Sends the same response to all requests of one route, compressed by ``encoder`` if there is one."""

    __slots__ = ("_encoder", "_head", "_response")

    def __init__(self, status: int, fields: Fields, body: bytes, encoder: Encoder | None) -> None:
        self._response = Response(status, fields, body)
        self._encoder = encoder
        length = b"" if status == 204 else b"Content-Length: %d\r\n" % len(body)
        self._head = ResponseHead(serialize(self._response) + length + b"\r\n") if encoder is not None else None

    def __call__(self, exchange: ActionExchange, head: RequestHead, path: bytes, params: Mapping[str, bytes]) -> None:
        """Respond."""
        if self._encoder is None or self._head is None:
            exchange.respond(self._response)
        else:
            self._encoder(exchange).on_response(self._head, self._response.body, True)
