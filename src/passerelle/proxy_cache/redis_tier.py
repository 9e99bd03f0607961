"""The second level of the cache, in the Redis that several workers and gateways share (docs/reference/caching.md).

The methods that requests call return at once; tasks of their own wait for Redis. A request waits only for a lookup,
whose duration the store bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine
from time import time
from typing import Any, Final

from passerelle.caching.entry import Entry, Variants
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.redis.store import TIMEOUT, RedisStore
from passerelle.caching.request import RequestView
from passerelle.observability.events import STORE

logger = logging.getLogger("passerelle")

# The most responses being written to Redis at once, each held in memory; further ones are not shared.
_WRITES: Final = 1000
# The most invalidations in the queue; one more replaces them all by an invalidation of everything.
_CHANGES: Final = 1000
# How long queued writes and invalidations may take when the gateway stops (seconds).
_STOP_SECONDS: Final = 1.0

_Invalidation = tuple[str, bytes]


class RedisTier:
    """The connection of one worker to the second level at ``url``; created and used on the event loop."""

    def __init__(self, url: str, address: str, namespace: str, memory: MemoryStore) -> None:
        self.key = (url, namespace)
        self.loop = asyncio.get_running_loop()
        self._address = address
        self.store = RedisStore(url, memory, namespace=namespace, on_change=self._on_change)
        self._memory = memory
        self._tasks: set[asyncio.Task[None]] = set()
        self._invalidations: deque[_Invalidation] = deque()
        self._invalidating: asyncio.Task[None] | None = None
        self._invalidated: asyncio.Future[None] | None = None  # done when the queue is empty
        self.hits = 0
        self.misses = 0
        self.stores = 0

    @property
    def up(self) -> bool:
        """Whether Redis is in use now."""
        return self.store.up

    def start(self) -> None:
        """Start to connect."""
        self.store.bus.start()

    async def stop(self) -> None:
        """Finish queued writes and invalidations, for at most a second, then disconnect."""
        pending = [task for task in (*self._tasks, self._invalidating) if task is not None]
        if pending:
            _, late = await asyncio.wait(pending, timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.store.stop()

    def snapshot(self) -> dict[str, int]:
        """Return the counters as JSON values."""
        return {
            "connected": int(self.up),
            "errors": self.store.errors,
            "hits": self.hits,
            "misses": self.misses,
            "stores": self.stores,
        }

    def _on_change(self, up: bool) -> None:
        if up:
            logger.warning("redis: %s is available again", self._address, extra=STORE)
        else:
            logger.warning("redis: cannot reach %s; each worker uses its own memory", self._address, extra=STORE)

    # ---- invalidation

    def invalidate(self, what: str, subject: bytes) -> None:
        """Invalidate in Redis and in the memory of all other workers (``what``: key, tag, path, all)."""
        if len(self._invalidations) >= _CHANGES:
            self._invalidations.clear()
            what, subject = "all", b""
        self._invalidations.append((what, subject))
        if self._invalidating is None:
            self._invalidated = self.loop.create_future()
            self._invalidating = self.loop.create_task(self._run_invalidations())

    async def _run_invalidations(self) -> None:
        """Execute the queued invalidations one by one, in order, over one connection."""
        store = self.store
        try:
            while self._invalidations:
                what, subject = self._invalidations.popleft()
                if what == "key":
                    await store.delete(subject)
                elif what == "tag":
                    await store.purge_tag(subject)
                elif what == "path":
                    await store.purge_path(subject)
                else:
                    await store.clear()
        finally:
            self._invalidating = None
            if self._invalidated is not None:
                self._invalidated.set_result(None)
                self._invalidated = None

    # ---- looking up

    async def find(self, key: bytes, view: RequestView) -> tuple[Entry | None, Variants | None]:
        """Look a request up in Redis; return its entry and the note of its URI's variants.

        A response that this worker has just invalidated is not found.
        """
        pending = self._invalidated
        if pending is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(pending), TIMEOUT)
            if not pending.done():
                return None, None
        found = await self.store.find(key, view)
        if found[0] is not None:
            self.hits += 1
        else:
            self.misses += 1
        return found

    # ---- storing

    def share(self, key: bytes, entry: Entry, requested_at: float, claim: bytes | None) -> None:
        """Write ``entry``, which is stored in memory under ``key``, to Redis.

        Its request was sent upstream at ``requested_at``. ``claim`` is the slot that this worker has claimed for the
        fetch; the write releases it.
        """
        if len(self._tasks) >= _WRITES or not self.up:
            self.release(claim)
            return
        note = self._memory.peek(key)
        self._run(self._share(entry, note if isinstance(note, Variants) else None, requested_at, claim))

    async def _share(self, entry: Entry, note: Variants | None, requested_at: float, claim: bytes | None) -> None:
        now = time()
        store = self.store
        kept = await store.put(entry, now, now - requested_at)
        # The note is written last: it wakes the workers that wait for the URI, which then look up the entry.
        if note is not None and kept:
            kept = await store.put(note, now, now - requested_at)
        self.stores += kept
        if claim is not None and not (kept and claim in (entry.key, note.key if note is not None else b"")):
            await store.release(claim)

    def release(self, claim: bytes | None) -> None:
        """Release ``claim`` without a response, so that each worker waiting for it sends its own request upstream."""
        if claim is not None and self.up:
            self._run(self.store.release(claim))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
