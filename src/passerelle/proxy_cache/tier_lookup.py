"""Before a miss goes upstream: whether another worker or gateway has the response, or is just fetching it."""

from __future__ import annotations

import asyncio
from time import time
from typing import TYPE_CHECKING, Final

from passerelle.caching.entry import Entry, Variants
from passerelle.caching.policy import Decision, lookup
from passerelle.proxy_cache.request import Wanted

if TYPE_CHECKING:
    from passerelle.proxy_cache.redis_tier import Sharing

# How long a claim to fetch holds when its gateway dies, and how often one that lives renews it (seconds).
CLAIM: Final = 3.0
RENEW: Final = 1.0

# How often a search looks again after another's fetch has ended: the first may have brought another variant.
_LOOKS: Final = 3


class Search:
    """A look in the second level for ``wanted``. ``claim`` is the slot that is ours to fetch, None where none is."""

    __slots__ = ("_epoch", "_sharing", "_wanted", "claim")

    def __init__(self, wanted: Wanted, sharing: Sharing, epoch: int) -> None:
        self._wanted = wanted
        self._sharing = sharing
        self._epoch = epoch
        self.claim: bytes | None = None

    async def run(self, known: Entry | None) -> tuple[Entry, Decision] | None:
        """A response that is better than the one ``known`` and what to do with it, or None: go upstream.

        Waits while another worker fetches, as long as that one lives; the caller has the deadline.
        """
        store, wanted = self._sharing.store, self._wanted
        best: tuple[Entry, Decision] | None = None
        for _ in range(_LOOKS):
            entry = await self._look()
            if entry is not None and (known is None or entry.fresh_until > known.fresh_until):
                now = time()
                best = entry, lookup(wanted.facts, entry, now, wanted.plan.settings)
                if now < entry.fresh_until:
                    return best
            slot = wanted.plan.cache.shelf.slot(wanted.key, wanted.facts)[0]
            if not self._sharing.up:
                return best
            if await store.claim(slot, CLAIM):
                self.claim = slot
                return best
            # None: a second is over, and the claim stands or its holder has died, which the next wait tells.
            while (stored := await store.wait(slot, RENEW)) is None:
                pass
            if not stored:
                return best
        return best

    async def _look(self) -> Entry | None:
        """What Redis has; in this worker's memory then, under the name that it has there."""
        wanted = self._wanted
        memory = wanted.plan.cache.store
        entry, note = await self._sharing.find(wanted.key, wanted.facts)
        if note is not None:
            own = memory.peek(wanted.key)
            if isinstance(own, Variants) and own.salt != note.salt:
                if not set(own.names) <= set(note.names):
                    return None  # this worker knows of more fields that choose: what was chosen by fewer may be wrong
                own = None
            if not isinstance(own, Variants):
                memory.put_since(note, self._epoch)
        if entry is not None:
            wanted.own(entry)
            memory.put_since(entry, self._epoch)
        return entry

    async def hold(self) -> None:
        """Renew the claim until cancelled."""
        while self.claim is not None:
            await asyncio.sleep(RENEW)
            if self.claim is not None:
                await self._sharing.store.renew(self.claim, CLAIM)
