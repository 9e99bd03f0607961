"""The lookup in the second level before a miss is forwarded: another worker may have the response, or fetch it."""

from __future__ import annotations

import asyncio
from time import time
from typing import TYPE_CHECKING, Final

from passerelle.caching.entry import Entry, Variants
from passerelle.caching.policy import Decision, lookup
from passerelle.proxy_cache.request import CacheRequest

if TYPE_CHECKING:
    from passerelle.proxy_cache.redis_tier import RedisTier

# How long a claim to fetch remains after its gateway has died, and how often a live gateway renews it (seconds).
CLAIM: Final = 3.0
RENEW: Final = 1.0

# How often a lookup is repeated after another worker's fetch: the first fetch may have stored another variant.
_LOOKS: Final = 3


class TierLookup:
    """One lookup of ``request`` in the second level. ``claim`` is the slot that this worker has claimed, or None."""

    __slots__ = ("_epoch", "_request", "_tier", "claim")

    def __init__(self, request: CacheRequest, tier: RedisTier, epoch: int) -> None:
        self._request = request
        self._tier = tier
        self._epoch = epoch
        self.claim: bytes | None = None

    async def run(self, known: Entry | None) -> tuple[Entry, Decision] | None:
        """Return an entry fresher than ``known`` with the decision about it, or None for a request upstream.

        Waits while another live worker fetches the response; the caller enforces the deadline.
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
            # None: the wait has timed out. The next one finds out whether the claim is still held.
            while (stored := await store.wait(slot, RENEW)) is None:
                pass
            if not stored:
                return best
        return best

    async def _find(self) -> Entry | None:
        """Return the entry that Redis has, after storing it and its note of variants in the memory of this worker."""
        request = self._request
        memory = request.plan.cache.store
        entry, note = await self._tier.find(request.key, request.view)
        if note is not None:
            own = memory.peek(request.key)
            if isinstance(own, Variants) and own.salt != note.salt:
                if not set(own.names) <= set(note.names):
                    return None  # fewer fields than this worker knows select the variant: it may be the wrong one
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
