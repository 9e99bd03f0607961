"""The handler of CORS preflights (Fetch standard)."""

from __future__ import annotations

from passerelle.access.interfaces import HandlerExchange
from passerelle.security.cors import CorsPolicy


class PreflightHandler:
    """Handles the preflights of one route without a request to a service."""

    __slots__ = ("_cors",)

    def __init__(self, cors: CorsPolicy) -> None:
        self._cors = cors

    def __call__(self, exchange: HandlerExchange) -> None:
        """Respond with what the page may request, or with 403 (:meth:`.CorsPolicy.preflight`)."""
        call = exchange.guarded_call()
        method = call.get(b"access-control-request-method") or b""
        names = [field.value for field in call.lines(b"access-control-request-headers")]
        exchange.respond(self._cors.preflight(exchange.origin or b"", method, names))
