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
    from passerelle.proxy_cache.redis_tier import Sharing


class Shared:
    """Which Redis a gateway uses, from one configuration to the next, and who else is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._on_forgotten: Callable[[Sequence[bytes], Sequence[bytes]], None] | None = None
        self._loop = loop
        self._cache: Cache | None = None
        self._sharing: Sharing | None = None
        self._begun = False
        self._ending: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to connect, now and whenever the configuration names another."""
        self._begun = True
        if self._sharing is not None:
            self._sharing.start()

    async def stop(self) -> None:
        """Disconnect."""
        self._begun = False
        if self._sharing is not None:
            await self._sharing.stop()
        await asyncio.gather(*self._ending)

    def tell(self, on_forgotten: Callable[[Sequence[bytes], Sequence[bytes]], None]) -> None:
        """Tell of the keys and tags that requests have changed: there are siblings without this worker's memory."""
        self._on_forgotten = on_forgotten
        if self._cache is not None:
            self._cache.on_forgotten = on_forgotten

    def hear(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        """A sibling's request has changed these."""
        if self._cache is not None:
            self._cache.drop(keys, tags)

    def go_by(self, config: Config, cache: Cache | None) -> None:
        """Give ``cache`` what ``config`` says is shared; the same Redis keeps its connection."""
        before = self._sharing
        redis = config.redis
        if redis is None or cache is None:
            self._sharing = None
        elif before is None or before.key != (redis.url, config.cache.namespace):
            from passerelle.proxy_cache.redis_tier import Sharing

            self._sharing = Sharing(redis.url, str(redis.address), config.cache.namespace, cache.store)
            if self._begun:
                self._sharing.start()
        if cache is not None:
            cache.sharing = self._sharing
            cache.on_forgotten = self._on_forgotten
        self._cache = cache
        if before is not None and before is not self._sharing and self._begun:
            task = self._loop.create_task(before.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
