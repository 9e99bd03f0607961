"""Preflights: what a browser asks before it sends a request of a page of another origin (Fetch standard)."""

from __future__ import annotations

from passerelle.access.interfaces import HandlerExchange
from passerelle.security.cors import CorsPolicy


class PreflightHandler:
    """Answers the preflights of one route; none of its services is asked."""

    __slots__ = ("_cors",)

    def __init__(self, cors: CorsPolicy) -> None:
        self._cors = cors

    def __call__(self, exchange: HandlerExchange) -> None:
        """Tell the browser what the page may, or refuse with 403 (:meth:`.CorsPolicy.preflight`)."""
        asked = exchange.guarded_call()
        method = asked.get(b"access-control-request-method") or b""
        names = [field.value for field in asked.lines(b"access-control-request-headers")]
        exchange.respond(self._cors.preflight(exchange.origin or b"", method, names))
