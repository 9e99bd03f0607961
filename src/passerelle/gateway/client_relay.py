"""What the steps between a response and its client have in common: compression, and filters of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from passerelle.errors import Failure
    from passerelle.http1.head import ResponseHead
    from passerelle.proxy_cache.interfaces import CacheClient


class ClientRelay:
    """A client of the cache in front of ``client``, to which it relays what it does not change."""

    __slots__ = ("_client",)

    streams = True

    def __init__(self, client: CacheClient) -> None:
        self._client = client

    @property
    def cache_status(self) -> bytes:
        """The Cache-Status line of the client."""
        return self._client.cache_status

    @cache_status.setter
    def cache_status(self, line: bytes) -> None:
        self._client.cache_status = line

    @property
    def cache_outcome(self) -> str | None:
        """What the cache did with the request, as the client's exchange records it."""
        return self._client.cache_outcome

    @cache_outcome.setter
    def cache_outcome(self, outcome: str | None) -> None:
        self._client.cache_outcome = outcome

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for."""
        return self._client.client_key()

    def on_interim(self, head: ResponseHead) -> None:
        """Relay a 1xx response."""
        self._client.on_interim(head)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Relay 101: the bytes that follow are no content."""
        self._client.on_switch(head, data)

    def on_failure(self, failure: Failure) -> None:
        """Relay a failure."""
        self._client.on_failure(failure)
