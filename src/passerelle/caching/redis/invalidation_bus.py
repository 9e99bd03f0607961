"""How workers tell each other what is no longer valid: numbered messages over Redis's publish and subscribe.

Messages are numbered and the last thousand are kept in a list, so a worker that missed some (its connection broke, or
Redis was restarted) makes up for them before it reads from Redis again; one that missed more empties its memory.
Invalidations made while Redis is gone hold for this worker at once, and for the others as soon as it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from passerelle.caching.redis.scripts import INVALIDATE, LOG, RELEASE, REMEMBER
from passerelle.caching.redis.times import CONNECT, FIRST_PAUSE, LAST_PAUSE, USE

logger = logging.getLogger("passerelle")

DELETE: Final = b"D"
TAG: Final = b"T"
PATH: Final = b"P"
CLEAR: Final = b"C"

# Seconds between two looks whether a message was missed.
_LOOK: Final = 2.0
# Seconds for a purge by path of a large Redis: what is not done by then is begun anew with a new connection.
_UNLINK: Final = 30.0

_PENDING: Final = 1000
_LONGEST_KEY: Final = 512
# Of a longer key this much is kept as it is. The longest host leaves some of the path: purges find it by that.
_KEPT: Final = _LONGEST_KEY - 48
_LONGEST_HOST: Final = 256
KEPT_OF_PATH: Final = _KEPT - _LONGEST_HOST - len(b" ")


class RedisNames:
    """The keys and channels of one namespace. The number is the format's version: other versions use other keys."""

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
        """Where the item under ``key`` is."""
        return self.entries + shorten(key)

    def lock(self, slot: bytes) -> bytes:
        """Who fetches for ``slot``."""
        return self._lock + shorten(slot)

    def tombstone(self, key: bytes) -> bytes:
        """When the URI of ``key`` was last invalidated."""
        return self._tombstone + shorten(key.partition(b"\x00")[0])


def shorten(key: bytes) -> bytes:
    """``key``, its end digested if it is long: a key is an index entry to Redis, and targets may have kilobytes.

    So is the host in it, if that is the long part. No host begins with a slash.
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
    """Whether an item under the shortened key ``name`` has this path, or one that begins so where it ends in ``*``.

    Of one whose path was cut: whether it may.
    """
    begins = path[:-1] if path.endswith(b"*") else None
    found = key_path(name)
    if found == path or (begins is not None and found.startswith(begins)):
        return True
    if len(name) < _LONGEST_KEY or found != name.partition(b" ")[2]:
        return False  # nothing was cut, or not in the path
    return (path if begins is None else begins).startswith(found[:-48])


class InvalidationBus:
    """This worker's end. ``ready``: the connection stands and nothing is left to make up for.

    ``unlink`` deletes the entries in Redis with a path, or (None) all. ``on_change`` is told that Redis cannot be
    reached, once, and that it is back.
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
        self._stable = False  # whether the connection was ready for long enough
        self._client = client
        self._memory = memory
        self._names = names
        self._worker = (worker or os.urandom(8).hex()).encode().replace(b" ", b"_")
        self._invalidate: Any = client.register_script(INVALIDATE)
        self._release: Any = client.register_script(RELEASE)
        self._sequence = -1
        self._behind = -1
        self._last = 0  # number of the last message that this connection has brought
        self._pending: deque[tuple[bytes, bytes, bytes]] = deque()
        self._waiting: dict[bytes, list[asyncio.Future[bool]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._session: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._reconnect_forever(), name="cache link")

    async def stop(self) -> None:
        """Disconnect for good."""
        self.ready = False
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._wake_waiters()

    def mark_unavailable(self) -> None:
        """An operation failed: stop using Redis until a new connection shows that it is back."""
        if self.ready:
            self.ready = False
            if self._session is not None:
                self._session.cancel()

    # ---- telling others

    async def invalidate(self, operation: bytes, about: bytes, key: bytes = b"") -> None:
        """Tell all workers. ``key`` is the entry or tag in Redis that goes with it.

        This worker's own memory is the caller's business and was seen to first.
        """
        if not self.ready:
            self.enqueue(operation, about, key)
            return
        try:
            await self._publish_and_unlink(operation, about, key)
        except Exception:
            # Whatever it was, the others have perhaps not heard of it.
            self.enqueue(operation, about, key)
            self.mark_unavailable()

    def enqueue(self, operation: bytes, about: bytes, key: bytes = b"") -> None:
        """Tell the others as soon as Redis is back; of more than a thousand such, only that everything is invalid."""
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
            # Once more: meanwhile a worker may have taken into its memory what was not unlinked yet.
            async with asyncio.timeout(CONNECT):
                await self._publish(operation, about, key)

    async def _publish(self, operation: bytes, about: bytes, key: bytes) -> None:
        names = self._names
        mark = names.tombstone(about) if operation == DELETE else names.purged
        keys = [names.sequence, names.log, mark, *([key] if key else [])]
        await self._invalidate(keys=keys, args=[names.invalid, self._worker, operation, about, REMEMBER, LOG])

    async def release(self, slot: bytes) -> None:
        """Tell who waits for ``slot`` that there will be nothing."""
        await self._release(keys=[self._names.lock(slot)], args=[self._names.flights, shorten(slot)])

    # ---- being told

    async def wait(self, slot: bytes, seconds: float, is_claimed: Callable[[], Awaitable[bool | None]]) -> bool | None:
        """Whether the response for ``slot`` was stored; true too when nobody fetches it any more, None after
        ``seconds``."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        slot = shorten(slot)
        self._waiting.setdefault(slot, []).append(future)
        try:
            async with asyncio.timeout(seconds):
                # It may have been stored between the claim that failed and this.
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
        """Connect, and connect again, for ever."""
        delay = FIRST_PAUSE
        while True:
            self._session = asyncio.get_running_loop().create_task(self._run_session(), name="cache link session")
            try:
                await asyncio.shield(self._session)
            except asyncio.CancelledError:
                if not self._session.cancelled():
                    # It is this task that is cancelled: the link stops.
                    self._session.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await self._session
                    raise
            except Exception as error:
                # Redis is gone. Or it talks nonsense, of which its client raises whatever it stumbles over.
                logger.debug("redis: %r", error)
            if not self._stable and not self._reported_down:
                self._reported_down = True
                self._on_change(False)
            delay = FIRST_PAUSE if self._stable else min(delay * 2, LAST_PAUSE)
            self.ready = self._stable = False
            self._wake_waiters()
            await asyncio.sleep(delay)

    async def _run_session(self) -> None:
        """One connection, from subscribing until it breaks."""
        # Connections that were idle when Redis went would each fail once more.
        await self._client.connection_pool.disconnect(inuse_connections=False)
        subscription = self._client.pubsub()
        standing: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout(CONNECT):
                await subscription.subscribe(self._names.invalid, self._names.flights)
                await self._replay_missed()
            while self._pending:
                await self._publish_and_unlink(*self._pending[0])
                self._pending.popleft()
            self.ready = True
            standing = asyncio.get_running_loop().call_later(USE, self._on_stable)
            await self._listen(subscription)
        finally:
            if standing is not None:
                standing.cancel()
            await cast("Awaitable[None]", subscription.aclose())  # type: ignore[no-untyped-call]

    def _on_stable(self) -> None:
        self._stable = True
        if self._reported_down:
            self._reported_down = False
            self._on_change(True)

    async def _replay_missed(self) -> None:
        """What others said while this worker did not listen."""
        # A Redis that was started anew counts anew: it may have counted past what this worker heard last.
        await self._client.set(self._names.generation, os.urandom(8).hex(), nx=True)
        generation = cast("bytes", await self._client.get(self._names.generation))
        newest = int(await self._client.get(self._names.sequence) or 0)
        if self._sequence < 0:
            # What the memory holds already is from before this worker could hear that it changed.
            self._memory.clear()
            self._sequence = newest
        elif newest != self._sequence or generation != self._generation:
            missed = newest - self._sequence
            log = cast("list[bytes]", await cast("Awaitable[Any]", self._client.lrange(self._names.log, 0, LOG - 1)))
            if 0 < missed <= len(log) and generation == self._generation:
                for message in reversed(log[:missed]):
                    await self._apply(message)
            else:
                # More than the log holds, or Redis lost its memory and counts anew.
                self._memory.clear()
            self._sequence = newest
        self._generation = generation
        self._last = 0

    async def _listen(self, subscription: PubSub) -> None:
        channel = self._names.flights
        clock = asyncio.get_running_loop().time
        looked = clock()
        while True:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=_LOOK)
            # None: time is up, or it was the confirmation of a subscription. Where others say much, time is never up.
            if clock() - looked >= _LOOK:
                await self._check_sequence()
                looked = clock()
            if message is None:
                continue
            if message["channel"] == channel:
                self._on_fill(message["data"])
            else:
                await self._on_message(message["data"])

    async def _check_sequence(self) -> None:
        """Was anything said that was not heard, does Redis count as before, and is it still there?"""
        names = self._names
        async with asyncio.timeout(CONNECT):
            generation, number = await self._client.mget(names.generation, names.sequence)
        newest = int(number or 0)
        # Where Redis lost its data it may have counted up to the same number again.
        counts_anew = newest < self._sequence or generation != self._generation
        if counts_anew or (newest > self._sequence and self._behind == self._sequence):
            raise ConnectionError("messages were lost")
        # One that was published this instant may still be on its way; by the next look it is here.
        self._behind = self._sequence if newest > self._sequence else -1

    async def _on_message(self, message: bytes) -> None:
        number = int(message.partition(b" ")[0])
        if number > self._sequence + 1:
            raise ConnectionError("messages were lost")
        if number <= self._last:
            # Redis counts anew. Those that it counted while this worker caught up come once, and in order.
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
            # It may have been about anything.
            worker, operation, about = b"", CLEAR, b""
        if worker == self._worker:
            return  # done before it was said
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
