"""Requests that the cache lets pass: it only notes what they change."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from passerelle.caching.policy import Invalidate, on_response
from passerelle.caching.response import Received
from passerelle.errors import Failure
from passerelle.http.messages import SAFE_METHODS
from passerelle.proxy_cache.heads import without_tags
from passerelle.proxy_cache.request import Wanted

if TYPE_CHECKING:
    from passerelle.http1.head import ResponseHead
    from passerelle.proxy_cache.interfaces import Asker
    from passerelle.proxy_cache.invalidation import Invalidator


class Relay:
    """Between a forward and its asker where the cache only listens: an unsafe method changes what is stored."""

    __slots__ = ("_asker", "_believed", "_epoch", "_invalidator", "_since", "_wanted", "streams")

    def __init__(self, asker: Asker, wanted: Wanted, invalidator: Invalidator | None, believed: bytes = b"") -> None:
        self._asker = asker
        self._wanted = wanted
        self._invalidator = invalidator
        self._believed = believed
        self._since = time()
        self._epoch = wanted.plan.cache.store.epoch
        self.streams = asker.streams

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""
        self._asker.on_interim(head)

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The answer: what it changed is let go of before anybody hears of it (RFC 9111 §4.4)."""
        wanted = self._wanted
        if self._invalidator is not None and wanted.facts.method not in SAFE_METHODS:
            response = Received(
                head.status, head.fields, request_time=self._since, response_time=time(), relay=head.relay
            )
            outcome = on_response(
                wanted.facts,
                response,
                None,
                wanted.plan.settings,
                authority=wanted.authority,
                believed=self._believed,
                target=wanted.target,
                tags=wanted.tags(),
            )
            if isinstance(outcome, Invalidate):
                # What was invalidated after this went upstream may be newer than what it says.
                current = wanted.plan.cache.store.is_current(wanted.key, self._epoch)
                self._invalidator.invalidate(wanted, outcome.targets)
                if outcome.draft is not None and complete and current and wanted.plan.stores:
                    self._invalidator.store(wanted, outcome.draft, data)
        self._asker.on_response(without_tags(head), data, complete)

    def on_data(self, data: bytes) -> None:
        """More of the body."""
        self._asker.on_data(data)

    def on_end(self) -> None:
        """The body is complete."""
        self._asker.on_end()

    def on_failure(self, failure: Failure) -> None:
        """There is no answer."""
        self._asker.on_failure(failure)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """The protocol changes."""
        self._asker.on_switch(head, data)
