"""Requests that bypass the cache: unsafe ones invalidate what they change."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from passerelle.caching.policy import Invalidate, on_response
from passerelle.caching.response import OriginResponse
from passerelle.errors import Failure
from passerelle.http.messages import SAFE_METHODS
from passerelle.proxy_cache.heads import for_clients
from passerelle.proxy_cache.request import CacheRequest

if TYPE_CHECKING:
    from passerelle.http1.head import ResponseHead
    from passerelle.proxy_cache.interfaces import CacheClient
    from passerelle.proxy_cache.invalidation import Invalidator


class Passthrough:
    """Relays a response to ``client``, and invalidates stored responses after an unsafe method."""

    __slots__ = ("_client", "_epoch", "_invalidator", "_request", "_requested_at", "_trusted_host", "streams")

    def __init__(
        self, client: CacheClient, request: CacheRequest, invalidator: Invalidator | None, trusted_host: bytes = b""
    ) -> None:
        self._client = client
        self._request = request
        self._invalidator = invalidator
        self._trusted_host = trusted_host
        self._requested_at = time()
        self._epoch = request.plan.cache.store.epoch
        self.streams = client.streams

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for."""
        return self._client.client_key()

    def on_interim(self, head: ResponseHead) -> None:
        """Relay a 1xx response."""
        self._client.on_interim(head)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Invalidate what the request has changed, before the response is relayed (RFC 9111 §4.4)."""
        request = self._request
        if self._invalidator is not None and request.view.method not in SAFE_METHODS:
            response = OriginResponse(
                head.status, head.fields, request_time=self._requested_at, response_time=time(), relay=head.relay
            )
            outcome = on_response(
                request.view,
                response,
                None,
                request.plan.settings,
                authority=request.authority,
                believed=self._trusted_host,
                target=request.target,
                tags=request.tags(),
            )
            if isinstance(outcome, Invalidate):
                # A later invalidation may be newer than this response.
                current = request.plan.cache.store.is_current(request.key, self._epoch)
                self._invalidator.invalidate(request, outcome.targets)
                if outcome.draft is not None and complete and current and request.plan.stores:
                    self._invalidator.store(request, outcome.draft, data)
        self._client.on_response(for_clients(head), data, complete)

    def on_data(self, data: bytes) -> None:
        """Relay a piece of the body."""
        self._client.on_data(data)

    def on_end(self) -> None:
        """Relay the end of the body."""
        self._client.on_end()

    def on_failure(self, failure: Failure) -> None:
        """Relay a failure."""
        self._client.on_failure(failure)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Relay 101."""
        self._client.on_switch(head, data)
