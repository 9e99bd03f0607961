"""Invalidation messages between workers: numbered messages over Redis publish and subscribe.

The last thousand messages are kept in a list. A worker that missed messages (its connection broke, or Redis was
restarted) replays them before it reads from Redis again; a worker that missed more clears its memory store.
Invalidations made while Redis is unavailable take effect in this worker at once, and in the others as soon as Redis is
back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from passerelle.caching.keys import key_path
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.redis.reconnect import CONNECT, FIRST_PAUSE, LAST_PAUSE, USE
from passerelle.caching.redis.scripts import INVALIDATE, LOG, RELEASE, REMEMBER

logger = logging.getLogger("passerelle")

DELETE: Final = b"D"
TAG: Final = b"T"
PATH: Final = b"P"
CLEAR: Final = b"C"

# Interval of the checks for missed messages, in seconds.
_CHECK_INTERVAL: Final = 2.0
# Timeout in seconds for a purge by path of a large Redis. An unfinished purge is repeated on a new connection.
_UNLINK: Final = 30.0

_PENDING: Final = 1000
_LONGEST_KEY: Final = 512
# This much of a longer key remains unchanged. Even with the longest host it includes part of the path, so that purges
# by path find the key.
_KEPT: Final = _LONGEST_KEY - 48
_LONGEST_HOST: Final = 256
KEPT_OF_PATH: Final = _KEPT - _LONGEST_HOST - len(b" ")


class RedisNames:
    """Keys and channels of one namespace. The number in the prefix is the format version: other versions use other
    keys."""

    __slots__ = (
        "_lock",
        "_tombstone",
        "entries",
        "flights",
        "generation",
        "invalid",
        "log",
        "purged",
        "sequence",
        "tags",
    )

    def __init__(self, namespace: str) -> None:
        prefix = b"passerelle:1:" + namespace.encode() + b":"
        self.entries = prefix + b"e:"
        self.tags = prefix + b"t:"
        self._lock = prefix + b"l:"
        self._tombstone = prefix + b"d:"
        self.purged = prefix + b"purged"
        self.sequence = prefix + b"sequence"
        self.log = prefix + b"log"
        self.generation = prefix + b"generation"
        self.invalid = prefix + b"invalid"
        self.flights = prefix + b"flights"

    def entry(self, key: bytes) -> bytes:
        """Return the Redis key of the item with cache key ``key``."""
        return self.entries + shorten(key)

    def lock(self, slot: bytes) -> bytes:
        """Return the Redis key of the lock held by the worker that fetches ``slot``."""
        return self._lock + shorten(slot)

    def tombstone(self, key: bytes) -> bytes:
        """Return the Redis key of the time when the URI of ``key`` was last invalidated."""
        return self._tombstone + shorten(key.partition(b"\x00")[0])


def shorten(key: bytes) -> bytes:
    """Replace the end of a long ``key`` by a digest: Redis indexes keys, and targets may have several kilobytes.

    A long host is replaced by a digest as well; no real host begins with a slash.
    """
    if len(key) <= _LONGEST_KEY:
        return key
    host, space, rest = key.partition(b" ")
    if len(host) > _LONGEST_HOST:
        key = b"/" + _digest(host) + space + rest
        if len(key) <= _LONGEST_KEY:
            return key
    return key[:_KEPT] + _digest(key)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=24).hexdigest().encode("ascii")


def may_have_path(name: bytes, path: bytes) -> bool:
    """Return whether an item with the shortened key ``name`` has this path (a trailing ``*`` matches any suffix).

    If the path of ``name`` was truncated, return whether the item may have this path.
    """
    begins = path[:-1] if path.endswith(b"*") else None
    found = key_path(name)
    if found == path or (begins is not None and found.startswith(begins)):
        return True
    if len(name) < _LONGEST_KEY or found != name.partition(b" ")[2]:
        return False  # nothing was truncated, or only the query
    return (path if begins is None else begins).startswith(found[:-48])


class InvalidationBus:
    """Connection of this worker to the bus. ``ready``: the worker is connected and has replayed all missed messages.

    ``unlink`` deletes the entries in Redis with a path, or all entries (None). ``on_change`` is called with False once
    Redis cannot be reached, and with True when it is back.
    """

    def __init__(
        self,
        client: Redis,
        memory: MemoryStore,
        names: RedisNames,
        worker: str,
        unlink: Callable[[bytes | None], Awaitable[None]],
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        self.ready = False
        self._unlink = unlink
        self._on_change = on_change or (lambda up: None)
        self._reported_down = False
        self._generation = b""
        self._stable = False  # whether the connection has lasted for USE seconds
        self._client = client
        self._memory = memory
        self._names = names
        self._worker = (worker or os.urandom(8).hex()).encode().replace(b" ", b"_")
        self._invalidate: Any = client.register_script(INVALIDATE)
        self._release: Any = client.register_script(RELEASE)
        self._sequence = -1
        self._behind = -1
        self._last = 0  # number of the last message received on this connection
        self._pending: deque[tuple[bytes, bytes, bytes]] = deque()
        self._waiting: dict[bytes, list[asyncio.Future[bool]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._session: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start connecting."""
        self._task = asyncio.get_running_loop().create_task(self._reconnect_forever(), name="cache bus")

    async def stop(self) -> None:
        """Disconnect permanently."""
        self.ready = False
        if self._task is not None:
            await _cancel(self._task)
        self._wake_waiters()

    def mark_unavailable(self) -> None:
        """Stop using Redis after a failed operation, until a new connection shows that it is back."""
        if self.ready:
            self.ready = False
            if self._session is not None:
                self._session.cancel()

    # ---- publishing

    async def invalidate(self, operation: bytes, about: bytes, key: bytes = b"") -> None:
        """Publish an invalidation to all workers; ``key`` is the affected entry or tag in Redis.

        The caller has already invalidated this worker's own memory store.
        """
        if not self.ready:
            self.enqueue(operation, about, key)
            return
        try:
            await self._publish_and_unlink(operation, about, key)
        except Exception:
            # Whatever the error, the other workers may not have received the message.
            self.enqueue(operation, about, key)
            self.mark_unavailable()

    def enqueue(self, operation: bytes, about: bytes, key: bytes = b"") -> None:
        """Publish as soon as Redis is back; more than a thousand pending invalidations are replaced by one that clears
        all."""
        if len(self._pending) >= _PENDING:
            self._pending.clear()
            operation, about, key = CLEAR, b"", b""
        self._pending.append((operation, about, key))

    async def _publish_and_unlink(self, operation: bytes, about: bytes, key: bytes) -> None:
        async with asyncio.timeout(CONNECT):
            await self._publish(operation, about, key)
        if operation in (PATH, CLEAR):
            async with asyncio.timeout(_UNLINK):
                await self._unlink(about if operation == PATH else None)
            # Publish again: meanwhile a worker may have read entries that were not unlinked yet into its memory store.
            async with asyncio.timeout(CONNECT):
                await self._publish(operation, about, key)

    async def _publish(self, operation: bytes, about: bytes, key: bytes) -> None:
        names = self._names
        mark = names.tombstone(about) if operation == DELETE else names.purged
        keys = [names.sequence, names.log, mark, *([key] if key else [])]
        await self._invalidate(keys=keys, args=[names.invalid, self._worker, operation, about, REMEMBER, LOG])

    async def release(self, slot: bytes) -> None:
        """Release the lock of ``slot`` and notify its waiters that there will be no response."""
        await self._release(keys=[self._names.lock(slot)], args=[self._names.flights, shorten(slot)])

    # ---- receiving

    async def wait(self, slot: bytes, seconds: float, is_claimed: Callable[[], Awaitable[bool | None]]) -> bool | None:
        """Wait for the response of ``slot``; return whether it was stored, or None after ``seconds``.

        The result is also True if no worker is fetching ``slot`` any more.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        slot = shorten(slot)
        self._waiting.setdefault(slot, []).append(future)
        try:
            async with asyncio.timeout(seconds):
                # The response may have been stored between the failed claim and this call.
                claimed = await is_claimed()
                return await future if claimed else claimed is not None
        except TimeoutError:
            return None
        finally:
            futures = self._waiting.get(slot)
            if futures is not None and future in futures:
                futures.remove(future)
                if not futures:
                    del self._waiting[slot]

    async def _reconnect_forever(self) -> None:
        """Keep connecting to Redis until cancelled."""
        delay = FIRST_PAUSE
        while True:
            self._session = asyncio.get_running_loop().create_task(self._run_session(), name="cache bus session")
            try:
                await asyncio.shield(self._session)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._session.cancelled() or (task is not None and task.cancelling()):
                    # This task itself was cancelled, perhaps at the same time as the session: the bus stops.
                    await _cancel(self._session)
                    raise
            except Exception as error:
                # Redis is unavailable. Or it sends invalid data, on which its client may raise any exception.
                logger.debug("redis: %r", error)
            if not self._stable and not self._reported_down:
                self._reported_down = True
                self._on_change(False)
            delay = FIRST_PAUSE if self._stable else min(delay * 2, LAST_PAUSE)
            self.ready = self._stable = False
            self._wake_waiters()
            await asyncio.sleep(delay)

    async def _run_session(self) -> None:
        """Run one connection, from the subscription until it breaks."""
        # Connections that were idle when Redis went away would each fail once more.
        await self._client.connection_pool.disconnect(inuse_connections=False)
        subscription = self._client.pubsub()
        stable_timer: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout(CONNECT):
                await subscription.subscribe(self._names.invalid, self._names.flights)
                await self._replay_missed()
            while self._pending:
                await self._publish_and_unlink(*self._pending[0])
                self._pending.popleft()
            self.ready = True
            stable_timer = asyncio.get_running_loop().call_later(USE, self._on_stable)
            await self._listen(subscription)
        finally:
            if stable_timer is not None:
                stable_timer.cancel()
            await cast("Awaitable[None]", subscription.aclose())  # type: ignore[no-untyped-call]

    def _on_stable(self) -> None:
        self._stable = True
        if self._reported_down:
            self._reported_down = False
            self._on_change(True)

    async def _replay_missed(self) -> None:
        """Apply the messages that other workers published while this worker was not connected."""
        # A restarted Redis counts from zero, and may already have counted past the last number this worker received.
        await self._client.set(self._names.generation, os.urandom(8).hex(), nx=True)
        generation = cast("bytes", await self._client.get(self._names.generation))
        newest = int(await self._client.get(self._names.sequence) or 0)
        if self._sequence < 0:
            # The contents of the memory store predate this connection, and invalidations may have been missed.
            self._memory.clear()
            self._sequence = newest
        elif newest != self._sequence or generation != self._generation:
            missed = newest - self._sequence
            log = cast("list[bytes]", await cast("Awaitable[Any]", self._client.lrange(self._names.log, 0, LOG - 1)))
            if 0 < missed <= len(log) and generation == self._generation:
                for message in reversed(log[:missed]):
                    await self._apply(message)
            else:
                # The log is too short, or Redis lost its data and counts from zero.
                self._memory.clear()
            self._sequence = newest
        self._generation = generation
        self._last = 0

    async def _listen(self, subscription: PubSub) -> None:
        channel = self._names.flights
        clock = asyncio.get_running_loop().time
        last_check = clock()
        while True:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=_CHECK_INTERVAL)
            # None: the timeout expired, or the message confirmed a subscription. With frequent messages it never
            # expires.
            if clock() - last_check >= _CHECK_INTERVAL:
                await self._check_sequence()
                last_check = clock()
            if message is None:
                continue
            if message["channel"] == channel:
                self._on_fill(message["data"])
            else:
                await self._on_message(message["data"])

    async def _check_sequence(self) -> None:
        """Raise ConnectionError if messages were lost or Redis has lost its data; TimeoutError if it does not reply."""
        names = self._names
        async with asyncio.timeout(CONNECT):
            generation, number = await self._client.mget(names.generation, names.sequence)
        newest = int(number or 0)
        # A Redis that lost its data may have counted up to the same number again.
        was_reset = newest < self._sequence or generation != self._generation
        if was_reset or (newest > self._sequence and self._behind == self._sequence):
            raise ConnectionError("messages were lost")
        # A message published at this moment may still be in transit; it will have arrived by the next check.
        self._behind = self._sequence if newest > self._sequence else -1

    async def _on_message(self, message: bytes) -> None:
        number = int(message.partition(b" ")[0])
        if number > self._sequence + 1:
            raise ConnectionError("messages were lost")
        if number <= self._last:
            # Redis counts from zero. Messages numbered while this worker replayed the log arrive once, and in order.
            self._generation = b""
            raise ConnectionError("messages were lost")
        self._last = number
        if number == self._sequence + 1:
            await self._apply(message)
            self._sequence = number

    async def _apply(self, message: bytes) -> None:
        try:
            _, worker, operation, about = message.split(b" ", 3)
        except ValueError:
            # A malformed message may have concerned anything.
            worker, operation, about = b"", CLEAR, b""
        if worker == self._worker:
            return  # this worker has already applied its own invalidations
        if operation == DELETE:
            self._memory.delete(about)
        elif operation == TAG:
            self._memory.purge_tag(about)
        elif operation == PATH:
            for _ in self._memory.purging_path(about):
                await asyncio.sleep(0)
        else:
            self._memory.clear()

    def _on_fill(self, message: bytes) -> None:
        for future in self._waiting.pop(message[1:], ()):
            if not future.done():
                future.set_result(message[:1] == b"+")

    def _wake_waiters(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(False)


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel ``task`` and wait for its end, again each half second: a cancellation may be lost in a library."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.5)
