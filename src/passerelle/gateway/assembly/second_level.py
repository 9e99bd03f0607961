"""The second level of a worker's cache across reloads, and the propagation of invalidations to other workers.

The Redis client is an optional dependency, so its modules are imported only where a configuration has a Redis.
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
    """The second level of the cache of one worker, and its reports of invalidations to other workers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._on_invalidated: Callable[[Sequence[bytes], Sequence[bytes]], None] | None = None
        self._loop = loop
        self._cache: Cache | None = None
        self._tier: RedisTier | None = None
        self._started = False
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect, now and whenever a reload names another Redis."""
        self._started = True
        if self._tier is not None:
            self._tier.start()

    async def stop(self) -> None:
        """Disconnect."""
        self._started = False
        if self._tier is not None:
            await self._tier.stop()
        await asyncio.gather(*self._ending)

    def report_invalidations_to(self, on_invalidated: Callable[[Sequence[bytes], Sequence[bytes]], None]) -> None:
        """Report the keys and tags that requests invalidate, for the memory of other workers."""
        self._on_invalidated = on_invalidated
        if self._cache is not None:
            self._cache.on_invalidated = on_invalidated

    def apply_invalidations(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        """Apply invalidations that another worker has reported."""
        if self._cache is not None:
            self._cache.invalidate_local(keys, tags)

    def configure(self, config: Config, cache: Cache | None) -> None:
        """Give ``cache`` the second level of ``config``; an unchanged Redis keeps its connection."""
        before = self._tier
        redis = config.redis
        if redis is None or cache is None:
            self._tier = None
        elif before is None or before.key != (redis.url, config.cache.namespace):
            from passerelle.proxy_cache.redis_tier import RedisTier

            self._tier = RedisTier(redis.url, str(redis.where), config.cache.namespace, cache.store)
            if self._started:
                self._tier.start()
        if cache is not None:
            cache.redis_tier = self._tier
            cache.on_invalidated = self._on_invalidated
        self._cache = cache
        if before is not None and before is not self._tier and self._started:
            task = self._loop.create_task(before.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
