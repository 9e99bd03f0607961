"""What one operation of the gateway costs Redis, measured with the gateway's own clients and without a gateway.

A connection that has one command in flight costs Redis a read and a write for each command. With many in flight, they
share the two calls. Both are measured, because a gateway is between them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

from benchmarks.rig import procfs
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import RigError, Server
from passerelle.access.redis_client import PendingReply, RedisClient
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.redis.invalidation_bus import RedisNames
from passerelle.caching.redis.store import RedisStore
from passerelle.security.ratelimit.gcra import SECOND, Rate
from passerelle.security.ratelimit.redis import DECIDE, RedisRate

CONNECTIONS = 16
CLIENTS = 10_000  # whose limits are checked in turn
NAMESPACE = "bench"
_CONNECT_SECONDS = 10.0
_RATE = Rate(1_000_000, SECOND, 1_000_000)


class Cost(NamedTuple):
    """CPU microseconds of Redis for one operation, and how many operations were measured."""

    us: float
    operations: int


async def limit_checks(redis: Server, in_flight: int, seconds: float) -> Cost:
    """Measure checks of limits on :data:`CONNECTIONS` connections with ``in_flight`` checks each."""
    loop = asyncio.get_running_loop()
    clients = [RedisClient(_url(redis), loop, 1, is_essential=False) for _ in range(CONNECTIONS)]
    try:
        for client in clients:
            client.start()
        await _until(lambda: all(client.up for client in clients))
        checks = _Checks(clients, in_flight)
        return await _measured(redis, seconds, checks)
    finally:
        for client in clients:
            client.stop()


class _Checks:
    """Checks of limits in closed loops, each for another client."""

    def __init__(self, clients: list[RedisClient], in_flight: int) -> None:
        self._rate = RedisRate(_RATE, "bench")
        self._clients = clients
        self._in_flight = in_flight
        self._ending = False
        self._running = 0
        self._all_done = asyncio.Event()
        self.done = 0
        self.failed = 0

    def start(self) -> None:
        for client in self._clients:
            for _ in range(self._in_flight):
                self._running += 1
                self._send(client)

    async def stop(self) -> None:
        self._ending = True
        await self._all_done.wait()

    def _send(self, client: RedisClient) -> None:
        key = self._rate.key(b"%d" % (self.done % CLIENTS))
        pending = client.run(DECIDE, [key], self._rate.arguments)
        if pending is None:
            self.failed += 1
            self._end()
            return
        pending.add_done_callback(lambda: self._on_reply(client, pending))

    def _on_reply(self, client: RedisClient, pending: PendingReply) -> None:
        if not isinstance(pending.result, list):
            self.failed += 1
        self.done += 1
        if self._ending or self.failed:
            self._end()
        else:
            self._send(client)

    def _end(self) -> None:
        self._running -= 1
        if not self._running:
            self._all_done.set()


async def invalidations(redis: Server, subscribers: int, seconds: float) -> Cost:
    """Measure invalidations of one worker that ``subscribers`` other workers receive."""
    store = RedisStore(_url(redis), MemoryStore(1 << 20), namespace=NAMESPACE, worker="bench")
    async with AsyncExitStack() as stack:
        await store.start()
        stack.push_async_callback(store.stop)
        await _until(lambda: store.up)
        for _ in range(subscribers):
            await _subscribe(stack, redis.port)
        changes = _Invalidations(store)
        return await _measured(redis, seconds, changes)


class _Invalidations:
    """Invalidations one after another, as a worker publishes them."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self.done = 0
        self.failed = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        self._ending = True
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        while not self._ending and self._store.up:
            await self._store.delete(b"127.0.0.1 /user/%d" % self.done)
            self.done += 1
        self.failed = int(not self._store.up)


async def _measured(redis: Server, seconds: float, load: _Checks | _Invalidations) -> Cost:
    load.start()
    await asyncio.sleep(seconds / 4)  # the first ones fill caches, and the memory of Redis
    first, before = load.done, procfs.run_nanoseconds(redis.pid)
    await asyncio.sleep(seconds)
    used, done = procfs.run_nanoseconds(redis.pid) - before, load.done - first
    await load.stop()
    if load.failed or not done:
        raise RigError(f"Redis: {load.failed} operations failed, {done} succeeded")
    return Cost(used / done / 1000, done)


async def _subscribe(stack: AsyncExitStack, port: int) -> None:
    """Subscribe to the channel of invalidations, and read its messages."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    stack.callback(writer.close)
    channel = RedisNames(NAMESPACE).invalid
    writer.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(channel), channel))
    await reader.read(1)

    async def drain() -> None:
        while await reader.read(1 << 16):
            pass

    task = asyncio.get_running_loop().create_task(drain())
    stack.callback(task.cancel)


async def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _CONNECT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise RigError("Redis: no connection")
        await asyncio.sleep(0.01)


def _url(redis: Server) -> str:
    return f"redis://{LOOPBACK}:{redis.port}/0"
