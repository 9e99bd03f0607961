"""The protocols between the cache and its clients, and between fetches and requests that wait for them."""

from __future__ import annotations

from typing import Protocol

from passerelle.caching.entry import Entry
from passerelle.caching.request import RequestView
from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.upstream.interfaces import ResponseReceiver


class FetchClient(Protocol):
    """The reader of a fetch: the request that caused it.

    A response is either one call of ``on_entry``, or the calls of a :class:`.ResponseReceiver`.
    """

    @property
    def streams(self) -> bool:
        """Whether the body is relayed piece by piece; then the deadline holds for the head alone."""

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for; None if it is of no single client."""

    def on_interim(self, head: ResponseHead) -> None:
        """Receive a 1xx response."""

    def on_entry(self, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...], outcome: str) -> None:
        """Receive the stored response."""

    def on_relayed(self, head: ResponseHead, data: bytes, complete: bool, status_line: bytes) -> None:
        """Receive the head of a relayed response, and the first bytes of its body."""

    def on_data(self, data: bytes) -> None:
        """Receive a piece of the body."""

    def on_end(self) -> None:
        """Receive the end of the body."""

    def on_failure(self, failure: Failure) -> None:
        """Receive a failure: there is no response, or it is incomplete."""


class CacheClient(ResponseReceiver, Protocol):
    """The receiver of the response to a lookup: the exchange of a client, or a part of a composition.

    ``cache_status`` is the Cache-Status field line of a response from upstream; ``cache_outcome`` is one of
    :data:`passerelle.proxy_cache.cache.OUTCOMES`.
    """

    cache_status: bytes
    cache_outcome: str | None

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """Receive the stored response ``entry`` to the request with this ``view``."""


class RunningFetch(Protocol):
    """A fetch in flight, as other requests for the same response see it."""

    @property
    def is_current(self) -> bool:
        """Whether nothing of its response was invalidated since it was forwarded: only then may requests join it."""

    @property
    def has_head(self) -> bool:
        """Whether the head of a response that other requests may share has arrived."""

    def stop_pausing(self) -> None:
        """Read the response without waiting for the client that started the fetch."""
