"""The second level of the cache: what the workers and gateways that use one Redis share (docs/reference/caching.md).

Requests call plain methods here. What must wait for Redis is done by tasks beside them: a request waits only for a
look-up, and that is bounded by the store.
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

logger = logging.getLogger("passerelle")

# Responses on their way to Redis at once, each held in memory; more are not shared.
_WRITES: Final = 1000
# Changes that wait their turn; more become one of everything.
_CHANGES: Final = 1000
# How long what is still to be told may take when the gateway stops (seconds).
_LAST_WORDS: Final = 1.0

_Invalidation = tuple[str, bytes]


class RedisTier:
    """One worker's use of the Redis at ``url``. Made and used on the event loop."""

    def __init__(self, url: str, address: str, namespace: str, memory: MemoryStore) -> None:
        self.key = (url, namespace)
        self.loop = asyncio.get_running_loop()
        self._address = address
        self.store = RedisStore(url, memory, namespace=namespace, on_change=self._on_change)
        self._memory = memory
        self._tasks: set[asyncio.Task[None]] = set()
        self._invalidations: deque[_Invalidation] = deque()
        self._invalidating: asyncio.Task[None] | None = None
        self._invalidated: asyncio.Future[None] | None = None  # the end of what waits in ``_invalidations`` now
        self.hits = 0
        self.misses = 0
        self.stores = 0

    @property
    def up(self) -> bool:
        """Whether Redis is used at the moment."""
        return self.store.up

    def start(self) -> None:
        """Begin to connect."""
        self.store.bus.start()

    async def stop(self) -> None:
        """Say what is still to be said, for at most a second, then disconnect."""
        pending = [task for task in (*self._tasks, self._invalidating) if task is not None]
        if pending:
            _, late = await asyncio.wait(pending, timeout=_LAST_WORDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.store.stop()

    def snapshot(self) -> dict[str, int]:
        """Counters as JSON-able values."""
        return {
            "connected": int(self.up),
            "errors": self.store.errors,
            "hits": self.hits,
            "misses": self.misses,
            "stores": self.stores,
        }

    def _on_change(self, up: bool) -> None:
        if up:
            logger.warning("redis: %s is back", self._address)
        else:
            logger.warning("redis: cannot reach %s; each worker goes on with its own memory", self._address)

    # ---- what changes

    def invalidate(self, what: str, about: bytes) -> None:
        """Let go of something in Redis and in the memory of all others (``what``: key, tag, path, all)."""
        if len(self._invalidations) >= _CHANGES:
            self._invalidations.clear()
            what, about = "all", b""
        self._invalidations.append((what, about))
        if self._invalidating is None:
            self._invalidated = self.loop.create_future()
            self._invalidating = self.loop.create_task(self._run_invalidations())

    async def _run_invalidations(self) -> None:
        """One after another, in order: a burst needs one connection, and nothing overtakes."""
        store = self.store
        try:
            while self._invalidations:
                what, about = self._invalidations.popleft()
                if what == "key":
                    await store.delete(about)
                elif what == "tag":
                    await store.purge_tag(about)
                elif what == "path":
                    await store.purge_path(about)
                else:
                    await store.clear()
        finally:
            self._invalidating = None
            if self._invalidated is not None:
                self._invalidated.set_result(None)
                self._invalidated = None

    # ---- looking up

    async def find(self, key: bytes, view: RequestView) -> tuple[Entry | None, Variants | None]:
        """What Redis has for a request, and the note of the URI. What this worker has let go of is not found again."""
        changed = self._invalidated
        if changed is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(changed), TIMEOUT)
            if not changed.done():
                return None, None
        found = await self.store.find(key, view)
        if found[0] is not None:
            self.hits += 1
        else:
            self.misses += 1
        return found

    # ---- what is stored

    def share(self, key: bytes, entry: Entry, asked_at: float, claim: bytes | None) -> None:
        """Share ``entry``, just placed in memory for the URI's ``key``; its request went upstream at ``asked_at``.

        ``claim`` is the slot that this worker claimed for it, to be given up with that.
        """
        if len(self._tasks) >= _WRITES or not self.up:
            self.release(claim)
            return
        note = self._memory.peek(key)
        self._run(self._share(entry, note if isinstance(note, Variants) else None, asked_at, claim))

    async def _share(self, entry: Entry, note: Variants | None, asked_at: float, claim: bytes | None) -> None:
        now = time()
        store = self.store
        kept = await store.put(entry, now, now - asked_at)
        # The note last: whoever waits for the URI is told with it, and then finds what it leads to.
        if note is not None and kept:
            kept = await store.put(note, now, now - asked_at)
        self.stores += kept
        if claim is not None and not (kept and claim in (entry.key, note.key if note is not None else b"")):
            await store.release(claim)

    def release(self, claim: bytes | None) -> None:
        """Nothing will be shared: who waits for ``claim`` goes upstream."""
        if claim is not None and self.up:
            self._run(self.store.release(claim))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
