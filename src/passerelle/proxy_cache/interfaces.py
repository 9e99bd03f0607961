"""Who is told of the answer that a request upstream for the cache brings (see :mod:`passerelle.proxy_cache.fetch`)."""

from __future__ import annotations

from typing import Protocol

from passerelle.caching.entry import Entry
from passerelle.caching.request import RequestView
from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.upstream.interfaces import ResponseReceiver


class FetchClient(Protocol):
    """The client who asked first. Each answer is one call of ``on_entry`` or of those of a forward's receiver."""

    @property
    def streams(self) -> bool:
        """Whether it takes a body as it comes; then the deadline is for the head alone."""

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""

    def on_entry(self, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...], outcome: str) -> None:
        """The answer is in the cache now."""

    def on_relayed(self, head: ResponseHead, data: bytes, complete: bool, status_line: bytes) -> None:
        """The answer begins as it comes."""

    def on_data(self, data: bytes) -> None:
        """More of it."""

    def on_end(self) -> None:
        """That was all."""

    def on_failure(self, failure: Failure) -> None:
        """There is no answer, or it broke off."""


class CacheClient(ResponseReceiver, Protocol):
    """Who wants the answer: a client's exchange, or a part of a composition.

    ``cache_status`` is the field line for an answer from upstream, ``cache_outcome`` what became of the request (see
    :data:`passerelle.proxy_cache.cache.OUTCOMES`).
    """

    cache_status: bytes
    cache_outcome: str | None

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """The answer to a request with these ``view``, out of the store."""


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
