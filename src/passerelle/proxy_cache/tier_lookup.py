"""Before a miss goes upstream: whether another worker or gateway has the response, or is just fetching it."""

from __future__ import annotations

import asyncio
from time import time
from typing import TYPE_CHECKING, Final

from passerelle.caching.entry import Entry, Variants
from passerelle.caching.policy import Decision, lookup
from passerelle.proxy_cache.request import CacheRequest

if TYPE_CHECKING:
    from passerelle.proxy_cache.redis_tier import RedisTier

# How long a claim to fetch holds when its gateway dies, and how often one that lives renews it (seconds).
CLAIM: Final = 3.0
RENEW: Final = 1.0

# How often a search looks again after another's fetch has ended: the first may have brought another variant.
_LOOKS: Final = 3


class TierLookup:
    """A look in the second level for ``request``. ``claim`` is the slot that is ours to fetch, None where none is."""

    __slots__ = ("_epoch", "_request", "_tier", "claim")

    def __init__(self, request: CacheRequest, tier: RedisTier, epoch: int) -> None:
        self._request = request
        self._tier = tier
        self._epoch = epoch
        self.claim: bytes | None = None

    async def run(self, known: Entry | None) -> tuple[Entry, Decision] | None:
        """A response that is better than the one ``known`` and what to do with it, or None: go upstream.

        Waits while another worker fetches, as long as that one lives; the caller has the deadline.
        """
        store, request = self._tier.store, self._request
        best: tuple[Entry, Decision] | None = None
        for _ in range(_LOOKS):
            entry = await self._find()
            if entry is not None and (known is None or entry.fresh_until > known.fresh_until):
                now = time()
                best = entry, lookup(request.view, entry, now, request.plan.settings)
                if now < entry.fresh_until:
                    return best
            slot = request.plan.cache.variants.slot(request.key, request.view)[0]
            if not self._tier.up:
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

    async def _find(self) -> Entry | None:
        """What Redis has; in this worker's memory then, under the name that it has there."""
        request = self._request
        memory = request.plan.cache.store
        entry, note = await self._tier.find(request.key, request.view)
        if note is not None:
            own = memory.peek(request.key)
            if isinstance(own, Variants) and own.salt != note.salt:
                if not set(own.names) <= set(note.names):
                    return None  # this worker knows of more fields that choose: what was chosen by fewer may be wrong
                own = None
            if not isinstance(own, Variants):
                memory.put_since(note, self._epoch)
        if entry is not None:
            request.remember_route(entry)
            memory.put_since(entry, self._epoch)
        return entry

    async def keep_claim(self) -> None:
        """Renew the claim until cancelled."""
        while self.claim is not None:
            await asyncio.sleep(RENEW)
            if self.claim is not None:
                await self._tier.store.renew(self.claim, CLAIM)
