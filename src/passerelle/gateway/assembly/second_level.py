"""Which Redis a gateway's cache uses, and who else hears of what its requests have changed.

The client of Redis is an extra: its modules are imported where a configuration names one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from passerelle.config.models.config import Config
from passerelle.proxy_cache.cache import Cache

if TYPE_CHECKING:
    from passerelle.proxy_cache.redis_tier import RedisTier


class SecondLevel:
    """Which Redis a gateway uses, from one configuration to the next, and who else is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._on_invalidated: Callable[[Sequence[bytes], Sequence[bytes]], None] | None = None
        self._loop = loop
        self._cache: Cache | None = None
        self._tier: RedisTier | None = None
        self._begun = False
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to connect, now and whenever the configuration names another."""
        self._begun = True
        if self._tier is not None:
            self._tier.start()

    async def stop(self) -> None:
        """Disconnect."""
        self._begun = False
        if self._tier is not None:
            await self._tier.stop()
        await asyncio.gather(*self._ending)

    def report_invalidations_to(self, on_invalidated: Callable[[Sequence[bytes], Sequence[bytes]], None]) -> None:
        """Tell of the keys and tags that requests have changed: there are siblings without this worker's memory."""
        self._on_invalidated = on_invalidated
        if self._cache is not None:
            self._cache.on_invalidated = on_invalidated

    def apply_invalidations(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        """A sibling's request has changed these."""
        if self._cache is not None:
            self._cache.invalidate_local(keys, tags)

    def configure(self, config: Config, cache: Cache | None) -> None:
        """Give ``cache`` what ``config`` says is shared; the same Redis keeps its connection."""
        before = self._tier
        redis = config.redis
        if redis is None or cache is None:
            self._tier = None
        elif before is None or before.key != (redis.url, config.cache.namespace):
            from passerelle.proxy_cache.redis_tier import RedisTier

            self._tier = RedisTier(redis.url, str(redis.address), config.cache.namespace, cache.store)
            if self._begun:
                self._tier.start()
        if cache is not None:
            cache.redis_tier = self._tier
            cache.on_invalidated = self._on_invalidated
        self._cache = cache
        if before is not None and before is not self._tier and self._begun:
            task = self._loop.create_task(before.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
