"""A request upstream for a cache with a second level: looks there first, and tells others of what it brings."""

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
from passerelle.proxy_cache.interfaces import Reader
from passerelle.proxy_cache.request import Wanted, begin, edited
from passerelle.proxy_cache.tier_lookup import Search

if TYPE_CHECKING:
    from passerelle.proxy_cache.redis_tier import Sharing

logger = logging.getLogger("passerelle")


class SharedFetch(Fetch):
    """Before it goes upstream for several it asks ``sharing``: others may have the response, or be fetching it."""

    __slots__ = ("_background", "_claimed", "_looking", "_search", "_searched", "_sharing")

    def __init__(
        self,
        wanted: Wanted,
        decision: Miss | Stale,
        entry: Entry | None,
        reader: Reader | None,
        flight: Flight[Entry] | None,
        sharing: Sharing,
    ) -> None:
        super().__init__(wanted, decision, entry, reader, flight)
        self._sharing = sharing
        self._background = reader is None
        self._searched = flight is None or wanted.facts.method != b"GET"
        self._looking = False
        self._search: asyncio.Task[None] | None = None  # looks, then renews the claim
        self._claimed: Search | None = None

    def start(self) -> None:
        """Look in the second level, the first time, else go upstream."""
        if self._searched or not self._sharing.up:
            super().start()
            return
        self._searched = self._looking = True
        wanted = self._wanted
        self._epoch = wanted.plan.cache.store.epoch
        self._asked_at = time()
        wanted.leg.deadlines.add(self, wanted.started)
        self._search = self._sharing.loop.create_task(self._look(Search(wanted, self._sharing, self._epoch)))

    async def _look(self, search: Search) -> None:
        """Answer from the second level, or go upstream with what was found there; then hold the claim to fetch."""
        found: tuple[Entry, Decision] | None = None
        try:
            found = await search.run(self._entry)
        except Exception as error:
            logger.error("looking up in Redis failed within the gateway", exc_info=error)
        wanted = self._wanted
        wanted.leg.deadlines.entries.pop(self, None)
        self._looking = False
        if search.claim is not None:
            self._claimed = search
        if found is not None:
            entry, decision = found
            if isinstance(decision, Fresh) and not (decision.stale and self._background):
                self._search = None
                outcome, line = ("stale", STALE_HIT) if decision.stale else ("hit", HIT)
                self._answer(entry, line, (), outcome)
                return
            if isinstance(decision, Stale):
                self._entry, self._decision = entry, decision
                self.forward = begin(wanted, self, edited(wanted.message, decision, wanted.facts), None)
        super().start()
        if self._paused:
            self.forward.pause()
        await search.hold()

    def leave(self) -> None:
        """The reader is gone. A search goes on where somebody waits for it."""
        if not self._looking:
            super().leave()
            return
        self._reader = None
        if self._flight is None or not len(self._flight):
            self._end(None)

    def on_deadline(self) -> None:
        """Redis, or another worker's request, takes longer than this request may take."""
        self._release()
        self.on_failure(Failure(Kind.TIMEOUT, f"no answer within {self._wanted.leg.deadlines.limit:g} s"))

    def _share(self, entry: Entry) -> None:
        self._sharing.keep(self._wanted.key, entry, self._asked_at, self._give_up())

    def _release(self) -> None:
        self._sharing.release(self._give_up())

    def _give_up(self) -> bytes | None:
        """No more searching or renewing; gives the slot that was claimed."""
        if self._looking:
            self._looking = False
            self._wanted.leg.deadlines.entries.pop(self, None)
        if self._search is not None:
            self._search.cancel()
            self._search = None
        search, self._claimed = self._claimed, None
        if search is None:
            return None
        slot, search.claim = search.claim, None
        return slot
