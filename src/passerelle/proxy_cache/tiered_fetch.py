"""A fetch with a second level: it looks there first, and shares what it stores."""

from __future__ import annotations

import asyncio
import logging
from time import time
from typing import TYPE_CHECKING

from passerelle.caching.entry import Entry
from passerelle.caching.policy import Decision, Fresh, Miss, Stale
from passerelle.caching.serving import HIT, STALE_HIT
from passerelle.caching.single_flight import Flight
from passerelle.errors import Failure, Kind
from passerelle.proxy_cache.fetch import Fetch
from passerelle.proxy_cache.interfaces import FetchClient
from passerelle.proxy_cache.request import CacheRequest, conditional_request, make_upstream_request
from passerelle.proxy_cache.tier_lookup import TierLookup

if TYPE_CHECKING:
    from passerelle.proxy_cache.redis_tier import RedisTier

logger = logging.getLogger("passerelle")


class TieredFetch(Fetch):
    """A fetch that looks in ``tier`` before it goes upstream: another worker may have the response, or fetch it."""

    __slots__ = ("_background", "_claim_holder", "_search", "_search_done", "_searching", "_tier")

    def __init__(
        self,
        request: CacheRequest,
        decision: Miss | Stale,
        entry: Entry | None,
        client: FetchClient | None,
        flight: Flight[Entry] | None,
        tier: RedisTier,
    ) -> None:
        super().__init__(request, decision, entry, client, flight)
        self._tier = tier
        self._background = client is None
        self._search_done = flight is None or request.view.method != b"GET"
        self._searching = False
        self._search: asyncio.Task[None] | None = None  # the lookup, which afterwards renews the claim
        self._claim_holder: TierLookup | None = None

    def start(self) -> None:
        """Look in the second level at the first call; send the request upstream at any other."""
        if self._search_done or not self._tier.up:
            super().start()
            return
        self._search_done = self._searching = True
        request = self._request
        self._epoch = request.plan.cache.store.epoch
        self._requested_at = time()
        request.origin.deadlines.add(self, request.started_at)
        self._search = self._tier.loop.create_task(self._search_tier(TierLookup(request, self._tier, self._epoch)))

    async def _search_tier(self, lookup: TierLookup) -> None:
        """Serve from the second level, or go upstream with what it has to validate; then renew the claim to fetch."""
        found: tuple[Entry, Decision] | None = None
        try:
            found = await lookup.run(self._entry)
        except Exception as error:
            logger.error("looking up in Redis failed within the gateway", exc_info=error)
        request = self._request
        request.origin.deadlines.entries.pop(self, None)
        self._searching = False
        if lookup.claim is not None:
            self._claim_holder = lookup
        if found is not None:
            entry, decision = found
            if isinstance(decision, Fresh) and not (decision.stale and self._background):
                self._search = None
                outcome, line = ("stale", STALE_HIT) if decision.stale else ("hit", HIT)
                self._serve_entry(entry, line, (), outcome)
                return
            if isinstance(decision, Stale):
                self._entry, self._decision = entry, decision
                self.source = make_upstream_request(
                    request, self, conditional_request(request.message, decision, request.view), None
                )
        super().start()
        if self._paused:
            self.source.pause()
        await lookup.keep_claim()

    def leave(self) -> None:
        """Detach the reader, which has disconnected. A lookup continues only for waiters."""
        if not self._searching:
            super().leave()
            return
        self._client = None
        if self._flight is None or not len(self._flight):
            self._end(None)

    def on_deadline(self) -> None:
        """Fail: Redis, or the fetch of another worker, takes longer than this request may."""
        self._release()
        self.on_failure(Failure(Kind.TIMEOUT, f"no response within {self._request.origin.deadlines.limit:g} s"))

    def _share(self, entry: Entry) -> None:
        self._tier.share(self._request.key, entry, self._requested_at, self._end_search())

    def _release(self) -> None:
        self._tier.release(self._end_search())

    def _end_search(self) -> bytes | None:
        """Stop looking up and renewing; return the claimed slot, if there is one."""
        if self._searching:
            self._searching = False
            self._request.origin.deadlines.entries.pop(self, None)
        if self._search is not None:
            self._search.cancel()
            self._search = None
        lookup, self._claim_holder = self._claim_holder, None
        if lookup is None:
            return None
        slot, lookup.claim = lookup.claim, None
        return slot
