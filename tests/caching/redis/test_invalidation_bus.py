"""Contents of a worker's memory store after missed invalidation messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.caching.redis.test_store import KEY, Worker, entry, workers
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.supervisor.helpers import run, until

pytestmark = needs("redis-server")

PATIENCE = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def test_entries_from_before_the_first_connection_are_evicted(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url, 1, namespace="late") as (one,):
            late = Worker(server.url, "late", "late")
            late.memory.put(entry())
            epoch = late.memory.epoch
            await one.second.delete(KEY)
            await late.second.start()
            try:
                await until(lambda: late.second.up, PATIENCE)
                assert late.memory.peek(KEY) is None, "it has not heard that this changed"
                assert not late.memory.put_since(entry(), epoch), "nor is a response stored that was in flight then"
                assert late.memory.put(entry())
            finally:
                await late.second.stop()

    run(work())


def test_a_bus_stops_when_its_session_ends_at_the_same_moment(server: RedisServer) -> None:
    """The session was cancelled because an operation failed, and the bus task before it noticed."""

    async def work() -> None:
        async with workers(server.url, 1, namespace="same") as (one,):
            bus = one.second.bus
            session, task = bus._session, bus._task
            assert session is not None and task is not None
            session.add_done_callback(lambda _: task.cancel())
            bus.mark_unavailable()
            done, _ = await asyncio.wait([task], timeout=5)
            assert done, "the bus goes on although it was cancelled"

    run(work())
