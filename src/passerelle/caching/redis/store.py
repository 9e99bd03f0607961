"""The second level: a store in Redis that workers and replicas share, beside each worker's memory.

Nothing here raises and nothing here is waited for long: with Redis gone every read is a miss, every write is dropped,
and what was invalidated meanwhile is made up for before the first read after it is back. What one worker invalidates
reaches the memory of all others by publish and subscribe (``link``).

Redis 6.2 or later, not a cluster: scripts touch keys of any slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from passerelle.caching.entry import Entry, StoredItem, Variants
from passerelle.caching.memory_store import MemoryStore
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
from passerelle.caching.redis.scripts import PUT
from passerelle.caching.redis.times import CONNECT
from passerelle.caching.request import RequestView
from passerelle.caching.variants import variant_of

T = TypeVar("T")

# How long an operation may take. A hit in Redis on the same network takes under a millisecond; past this the upstream
# is asked as if there were no Redis.
TIMEOUT: Final = 0.1

# How long a response is kept past its use without validation, to be validated or to answer when upstream is gone.
GRACE: Final = 3600.0
_LONGEST: Final = 30 * 86_400.0

# Operations at a time. The client makes a connection for each, and refuses more than its most at once as an error.
_TURNS: Final = 48


class RedisStore:
    """A second level behind ``memory``. ``namespace`` keeps gateways that share a Redis apart.

    ``errors`` counts operations that failed or took too long. ``on_change`` is told when Redis cannot be reached (once)
    and when it is back.
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
        self._client: Redis = Redis.from_url(
            url,
            socket_timeout=None,
            socket_connect_timeout=2.0,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            max_connections=64,
        )
        self._timeout = TIMEOUT if timeout is None else timeout
        self._grace = grace
        self._names = RedisNames(namespace)
        self._put: Any = self._client.register_script(PUT)
        self.bus = InvalidationBus(self._client, memory, self._names, worker, self._unlink, on_change)
        self._turns = asyncio.Semaphore(_TURNS)
        self.errors = 0

    @property
    def up(self) -> bool:
        """Whether Redis is used at the moment."""
        return self.bus.ready

    async def start(self) -> None:
        """Begin to connect; returns at once. Until the connection stands, all reads are misses."""
        self.bus.start()

    async def stop(self) -> None:
        """Close all connections."""
        await self.bus.stop()
        await self._client.aclose()

    async def find(self, key: bytes, view: RequestView) -> tuple[Entry | None, Variants | None]:
        """The entry under the URI's ``key`` that may answer this request, and the note that its responses vary."""
        item = await self.get(key)
        if not isinstance(item, Variants):
            return (item, None) if isinstance(item, Entry) else (None, None)
        entry = await self.get(variant_of(item, view.variant(item.names)))
        return (entry if isinstance(entry, Entry) else None), item

    async def get(self, key: bytes) -> StoredItem | None:
        """The item under ``key``, or None: also when Redis is gone, slow, or holds something else there."""
        data = await self._run(self._client.get(self._names.entry(key)))
        return decode(data, key) if isinstance(data, bytes) else None

    async def put(self, item: StoredItem, now: float, since: float) -> bool:
        """Hold ``item``; whether it is held. ``since``: seconds since its request went upstream.

        It is refused where its URI was invalidated, or anything purged, after that (RFC 9111 §4.4), by Redis's clock.
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
        """Let go of the item under ``key`` here and in the memory of all other workers."""
        await self.bus.invalidate(DELETE, key, self._names.entry(key))

    async def purge_tag(self, tag: bytes) -> None:
        """Let go of every item with ``tag``, here and in the memory of all other workers."""
        await self.bus.invalidate(TAG, tag, self._names.tags + tag)

    async def purge_path(self, path: bytes) -> None:
        """Let go of every item with this path (or whose path starts so, where it ends in ``*``), here and elsewhere."""
        await self.bus.invalidate(PATH, path)

    async def clear(self) -> None:
        """Let go of everything, here and in the memory of all other workers."""
        await self.bus.invalidate(CLEAR, b"")

    async def claim(self, slot: bytes, seconds: float) -> bool:
        """Whether this worker is the one to fetch for ``slot``; for at most ``seconds``. True when Redis is gone."""
        key = self._names.lock(slot)
        if not self.up:
            return True
        taken = await self._run(self._client.set(key, b"1", nx=True, px=int(seconds * 1000)))
        # None: another one has it. False is an answer that SET does not give.
        if taken is False:
            self._mark_unavailable()
        return bool(taken) or not self.up

    async def renew(self, slot: bytes, seconds: float) -> None:
        """Keep a claim for ``seconds`` more."""
        await self._run(self._client.pexpire(self._names.lock(slot), int(seconds * 1000)))

    async def release(self, slot: bytes) -> None:
        """Give up a claim: there is no response to share, and who waits fetches for himself."""
        await self._run(self.bus.release(slot))

    async def wait(self, slot: bytes, seconds: float) -> bool | None:
        """Wait until the worker that claimed ``slot`` has stored its response (True) or has none (False); None when
        time is up."""

        async def is_claimed() -> bool | None:
            found = await self._run(self._client.exists(self._names.lock(slot)))
            if found is not None and found not in (0, 1):
                # It would be waited for as long as the request may last.
                self._mark_unavailable()
                return None
            return None if found is None else bool(found)

        return await self.bus.wait(slot, seconds, is_claimed)

    def _lifetime(self, item: StoredItem, now: float) -> float:
        if not isinstance(item, Entry):
            # A note must outlive what it leads to; without it they are unreachable.
            return _LONGEST
        window = max(item.stale_while_revalidate, item.stale_if_error, self._grace)
        return min(max(item.fresh_until - now, 0.0) + window, _LONGEST)

    async def _run(self, operation: Awaitable[T]) -> T | None:
        """What ``operation`` gives, or None when Redis is gone or slow, or too many others wait for it."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
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
            # It is gone or slow. Or it talks nonsense, of which its client raises whatever it stumbles over.
            self._mark_unavailable()
            return None
        finally:
            self._turns.release()

    def _mark_unavailable(self) -> None:
        """Redis is gone, or as good as gone."""
        self.errors += 1
        self.bus.mark_unavailable()

    async def _unlink(self, path: bytes | None) -> None:
        """Delete the entries with this path (None: all) by name, a thousand at a time and between other work."""
        names = self._names
        prefix = len(names.entries)
        pattern = _literal(names.entries) + b"*"
        if path is not None:
            pattern += b" " + _literal(path.removesuffix(b"*")[:KEPT_OF_PATH]) + b"*"
        batch: list[bytes] = []
        cursor = 0
        while True:
            # Bounded one by one: all of it may take long, and a connection that is dead is noticed soon all the same.
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
    """Do not run what will not be awaited, without the warning that a forgotten coroutine deserves."""
    close = getattr(operation, "close", None)
    if close is not None:
        close()


def _literal(text: bytes) -> bytes:
    """``text`` in a glob pattern, standing for itself."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]^\\" else bytes([byte]) for byte in text)
