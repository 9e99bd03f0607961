"""Second cache level: a store in Redis, shared by workers and replicas, behind each worker's memory store.

No operation raises, and each is bounded in time. While Redis is unavailable, every read is a miss and every write is
dropped; invalidations made meanwhile are published before the first read after Redis is back. Invalidations by one
worker reach the memory stores of all others over :mod:`.invalidation_bus`.

Requires Redis 6.2 or later, without cluster mode: the scripts access keys of any slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from passerelle.caching.entry import Entry, StoredItem, Variants
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.redis.clients import connect
from passerelle.caching.redis.codec import decode, encode
from passerelle.caching.redis.invalidation_bus import (
    CLEAR,
    DELETE,
    KEPT_OF_PATH,
    PATH,
    TAG,
    InvalidationBus,
    RedisNames,
    may_have_path,
    shorten,
)
from passerelle.caching.redis.location import locate
from passerelle.caching.redis.reconnect import CONNECT
from passerelle.caching.redis.scripts import PUT
from passerelle.caching.request import RequestView
from passerelle.caching.variants import variant_of

T = TypeVar("T")

# Timeout of an operation in seconds. A hit in Redis on the same network takes less than a millisecond; after the
# timeout the request is forwarded as if there were no Redis.
TIMEOUT: Final = 0.1

# How long a response is kept in Redis after it became stale, for revalidation or for use while upstream is unavailable.
GRACE: Final = 3600.0
_LONGEST: Final = 30 * 86_400.0

# Concurrent operations. The client opens a connection for each and raises an error beyond its maximum.
_MAX_CONCURRENT: Final = 48


class RedisStore:
    """Second level behind ``memory``. ``namespace`` separates gateways that share a Redis.

    ``errors`` counts operations that failed or timed out. ``on_change`` is called with False once Redis cannot be
    reached, and with True when it is back.
    """

    def __init__(
        self,
        url: str,
        memory: MemoryStore,
        *,
        namespace: str = "default",
        worker: str = "",
        timeout: float | None = None,
        grace: float = GRACE,
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        self._client, self._sentinels = connect(locate(url))
        self._timeout = TIMEOUT if timeout is None else timeout
        self._grace = grace
        self._names = RedisNames(namespace)
        self._put: Any = self._client.register_script(PUT)
        self.bus = InvalidationBus(self._client, memory, self._names, worker, self._unlink, on_change)
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        self.errors = 0

    @property
    def up(self) -> bool:
        """Whether Redis is currently used."""
        return self.bus.ready

    async def start(self) -> None:
        """Start connecting; return at once. Until the connection is established, all reads are misses."""
        self.bus.start()

    async def stop(self) -> None:
        """Close all connections."""
        await self.bus.stop()
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def find(self, key: bytes, view: RequestView) -> tuple[Entry | None, Variants | None]:
        """Return the entry under the URI's ``key`` that may serve this request, and the variants record if there is
        one."""
        item = await self.get(key)
        if not isinstance(item, Variants):
            return (item, None) if isinstance(item, Entry) else (None, None)
        entry = await self.get(variant_of(item, view.variant(item.names)))
        return (entry if isinstance(entry, Entry) else None), item

    async def get(self, key: bytes) -> StoredItem | None:
        """Return the item under ``key``, or None, also if Redis is unavailable or slow, or holds other data there."""
        data = await self._run(self._client.get(self._names.entry(key)))
        return decode(data, key) if isinstance(data, bytes) else None

    async def put(self, item: StoredItem, now: float, since: float) -> bool:
        """Store ``item``; return whether it was stored. ``since``: seconds since its request was forwarded.

        By Redis's clock, an item is refused if its URI was invalidated, or anything purged, after its request was
        forwarded (RFC 9111 §4.4).
        """
        lifetime = self._lifetime(item, now)
        if lifetime <= 0:
            return False
        names = self._names
        keys = [
            names.entry(item.key),
            names.tombstone(item.key),
            names.purged,
            names.lock(item.key),
            *(names.tags + tag for tag in item.tags),
        ]
        arguments = [encode(item), int(lifetime * 1000), int(since * 1000) + 1, names.flights, shorten(item.key)]
        return bool(await self._run(self._put(keys=keys, args=arguments)))

    async def delete(self, key: bytes) -> None:
        """Delete the item under ``key``, here and in the memory stores of all other workers."""
        await self.bus.invalidate(DELETE, key, self._names.entry(key))

    async def purge_tag(self, tag: bytes) -> None:
        """Delete every item with ``tag``, here and in the memory stores of all other workers."""
        await self.bus.invalidate(TAG, tag, self._names.tags + tag)

    async def purge_path(self, path: bytes) -> None:
        """Delete every item with this path (a trailing ``*`` matches any suffix), here and in all other workers."""
        await self.bus.invalidate(PATH, path)

    async def clear(self) -> None:
        """Delete everything, here and in the memory stores of all other workers."""
        await self.bus.invalidate(CLEAR, b"")

    async def claim(self, slot: bytes, seconds: float) -> bool:
        """Claim ``slot`` for at most ``seconds``; return whether this worker fetches it. True while Redis is
        unavailable."""
        key = self._names.lock(slot)
        if not self.up:
            return True
        claimed = await self._run(self._client.set(key, b"1", nx=True, px=int(seconds * 1000)))
        # None: another worker holds the claim. False is a reply that SET never gives.
        if claimed is False:
            self._mark_unavailable()
        return bool(claimed) or not self.up

    async def renew(self, slot: bytes, seconds: float) -> None:
        """Extend a claim by ``seconds``."""
        await self._run(self._client.pexpire(self._names.lock(slot), int(seconds * 1000)))

    async def release(self, slot: bytes) -> None:
        """Release a claim without a shareable response: waiting workers forward their own requests."""
        await self._run(self.bus.release(slot))

    async def wait(self, slot: bytes, seconds: float) -> bool | None:
        """Wait for the worker that claimed ``slot``; return whether it stored a response, None after ``seconds``."""

        async def is_claimed() -> bool | None:
            found = await self._run(self._client.exists(self._names.lock(slot)))
            if found is not None and found not in (0, 1):
                # An invalid reply; without this, the wait could last as long as the request may.
                self._mark_unavailable()
                return None
            return None if found is None else bool(found)

        return await self.bus.wait(slot, seconds, is_claimed)

    def _lifetime(self, item: StoredItem, now: float) -> float:
        if not isinstance(item, Entry):
            # A variants record must outlive its variants, which are unreachable without it.
            return _LONGEST
        window = max(item.stale_while_revalidate, item.stale_if_error, self._grace)
        return min(max(item.fresh_until - now, 0.0) + window, _LONGEST)

    async def _run(self, operation: Awaitable[T]) -> T | None:
        """Return the result of ``operation``, or None if Redis is unavailable or slow, or too many operations are
        queued."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            _discard(operation)
            return None
        try:
            if not self.bus.ready:
                _discard(operation)
                return None
            async with asyncio.timeout(self._timeout):
                return await operation
        except Exception:
            # Redis is unavailable or slow. Or it sends invalid data, on which its client may raise any exception.
            self._mark_unavailable()
            return None
        finally:
            self._slots.release()

    def _mark_unavailable(self) -> None:
        """Count an error and stop using Redis until a new connection succeeds."""
        self.errors += 1
        self.bus.mark_unavailable()

    async def _unlink(self, path: bytes | None) -> None:
        """Delete the entries with this path (None: all), a thousand at a time, yielding to other tasks in between."""
        names = self._names
        prefix = len(names.entries)
        pattern = _literal(names.entries) + b"*"
        if path is not None:
            pattern += b" " + _literal(path.removesuffix(b"*")[:KEPT_OF_PATH]) + b"*"
        batch: list[bytes] = []
        cursor = 0
        while True:
            # One timeout per call: the complete scan may take long, but a dead connection is still noticed soon.
            async with asyncio.timeout(CONNECT):
                cursor, keys = await self._client.scan(cursor, match=pattern, count=1000)
            for key in cast("list[bytes]", keys):
                if path is None or may_have_path(key[prefix:], path):
                    batch.append(key)
            if batch and (len(batch) >= 1000 or not cursor):
                async with asyncio.timeout(CONNECT):
                    await self._client.unlink(*batch)
                batch.clear()
            if not cursor:
                return


def _discard(operation: Awaitable[object]) -> None:
    """Close a coroutine that will not be awaited, which avoids Python's warning about it."""
    close = getattr(operation, "close", None)
    if close is not None:
        close()


def _literal(text: bytes) -> bytes:
    """Escape ``text`` for use in a glob pattern."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]^\\" else bytes([byte]) for byte in text)
