"""Second cache level, on a real Redis: what workers share, and what happens while Redis is unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from passerelle.caching.entry import NEVER, Entry
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.redis.store import RedisStore
from passerelle.caching.variants import VariantStore
from tests.caching.kit import NOW, request, stored
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.supervisor.helpers import run, until
from tests.support.bad_redis import BadRedis, never

pytestmark = needs("redis-server")

KEY = b"gw /user/42"
T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


class Worker:
    """Memory store of a worker with its second level."""

    def __init__(self, url: str, namespace: str, name: str, *, timeout: float = 0.5, grace: float = 60.0) -> None:
        self.memory = MemoryStore(10_000_000)
        self.shelf = VariantStore(self.memory)
        self.second = RedisStore(url, self.memory, namespace=namespace, worker=name, timeout=timeout, grace=grace)


_spaces = iter(range(10_000))


@asynccontextmanager
async def workers(
    url: str, count: int = 2, *, namespace: str | None = None, **options: float
) -> AsyncIterator[list[Worker]]:
    """Start connected workers of one gateway; each test has its own namespace."""
    namespace = namespace or f"test{next(_spaces)}"
    all_workers = [Worker(url, namespace, f"w{n}", **options) for n in range(count)]  # type: ignore[arg-type]
    for worker in all_workers:
        await worker.second.start()
    await until(lambda: all(worker.second.up for worker in all_workers))
    try:
        yield all_workers
    finally:
        for worker in all_workers:
            await worker.second.stop()


def entry(key: bytes = KEY, tags: tuple[bytes, ...] = (), body: bytes = b"0123456789") -> Entry:
    found = stored("Cache-Control: max-age=60", 'ETag: "a"', key=key, body=body)
    found.tags = tags
    return found


def test_an_entry_that_one_worker_stores_is_found_by_another(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url) as (one, two):
            assert await two.second.get(KEY) is None
            assert await one.second.put(entry(), NOW, 0.0)
            found = await two.second.find(KEY, request())
            assert found[0] is not None and found[1] is None
            assert found[0].body == b"0123456789" and found[0].etag == b'"a"' and found[0].fresh_until == NOW + 60
            assert await two.second.get(b"gw /user/43") is None

    run(work())


def test_variants_are_found_through_their_note(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url) as (one, two):
            gzip = request("Accept-Encoding: gzip")
            placed = entry()
            assert one.shelf.place(KEY, gzip, (b"accept-encoding",), placed)
            note = one.memory.peek(KEY)
            assert note is not None
            for item in (note, placed):
                assert await one.second.put(item, NOW, 0.0)
            found = await two.second.find(KEY, gzip)
            assert found[0] is not None and found[0].body == placed.body and found[1] is not None
            other, led = await two.second.find(KEY, request("Accept-Encoding: br"))
            assert other is None and led is not None and led.salt == found[1].salt
            await one.second.delete(KEY)
            assert await two.second.find(KEY, gzip) == (None, None)

    run(work())


def test_namespaces_are_apart(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url) as (one, _), workers(server.url) as (other, _):
            assert await one.second.put(entry(), NOW, 0.0)
            assert await other.second.get(KEY) is None
            await other.second.clear()
            assert await one.second.get(KEY) is not None

    run(work())


def test_items_expire_when_they_are_of_no_more_use(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url, 1, grace=0.0) as (one,):
            client = one.second._client
            name = one.second._names.entry(KEY)
            assert await one.second.put(entry(), NOW, 0.0)
            assert 59_000 < await client.pttl(name) <= 60_000
            windows = entry()
            windows.stale_if_error = 100
            assert await one.second.put(windows, NOW, 0.0)
            assert 159_000 < await client.pttl(name) <= 160_000
            always = entry()
            always.fresh_until = NEVER
            assert not await one.second.put(always, NOW, 0.0), "without grace nothing is left of it"

    run(work())


def test_long_keys_are_shortened_and_stay_distinct(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url, 1) as (one,):
            keys = [b"gw /" + b"x" * 3000 + end for end in (b"1", b"2")]
            for key in keys:
                assert await one.second.put(entry(key, body=key[-1:]), NOW, 0.0)
            for key in keys:
                found = await one.second.get(key)
                assert isinstance(found, Entry) and found.body == key[-1:]

    run(work())


_LONG = b"/" + b"x" * 600


@pytest.mark.parametrize(
    ("path", "gone", "kept"),
    [
        (
            _LONG,
            {b"gw " + _LONG, b"gw %b?a=1" % _LONG, b"gw %b\0salt\0fr" % _LONG, b"b" * 600 + b" " + _LONG},
            {b"gw /x"},
        ),
        (_LONG + b"/*", {b"gw %b/y" % _LONG}, {b"gw /x", b"gw /y" + b"x" * 600}),
        (b"/x*", {b"gw " + _LONG, b"gw /x", b"b" * 600 + b" /x1"}, {b"gw /y"}),
        (
            b"/x",
            {b"b" * 600 + b" /x", b"gw /x?" + b"a" * 600, b"gw /x\0salt\0" + b"a" * 600},
            {b"gw " + _LONG, b"gw /xy"},
        ),
        (b"/" + b"y" * 458, {b"gw /" + b"y" * 458 + b"?" + b"a" * 100}, {b"gw /" + b"y" * 457 + b"?" + b"a" * 100}),
        (b"/" + b"y" * 460, {b"gw /" + b"y" * 460 + b"?" + b"a" * 100}, {b"gw /z"}),
    ],
    ids=["long", "below a long one", "all that begin so", "of a long host", "of about the length", "cut at its end"],
)
def test_a_purge_by_path_reaches_what_is_held_under_a_shortened_key(
    server: RedisServer, path: bytes, gone: set[bytes], kept: set[bytes]
) -> None:
    async def work() -> None:
        async with workers(server.url, 1) as (one,):
            for key in gone | kept:
                assert await one.second.put(entry(key), NOW, 0.0)
            await one.second.purge_path(path)
            assert [key for key in gone if await one.second.get(key) is not None] == []
            assert [key for key in kept if await one.second.get(key) is None] == []

    run(work())


@pytest.mark.parametrize(
    ("kind", "gone", "kept"),
    [
        ("delete", {b"gw /user/42"}, {b"gw /user/42?x=1", b"gw /user/43"}),
        ("tag", {b"gw /user/42", b"gw /user/42?x=1"}, {b"gw /user/43"}),
        ("path", {b"gw /user/42", b"gw /user/42?x=1"}, {b"gw /user/43"}),
        ("prefix", {b"gw /user/42", b"gw /user/42?x=1", b"gw /user/43"}, {b"gw /u[s]er*"}),
        ("glob", {b"gw /u[s]er*"}, {b"gw /user/42", b"gw /user/43"}),
        ("clear", {b"gw /user/42", b"gw /user/43", b"gw /u[s]er*"}, set()),
    ],
)
def test_a_purge_reaches_redis_and_every_worker_s_memory(
    server: RedisServer, kind: str, gone: set[bytes], kept: set[bytes]
) -> None:
    async def work() -> None:
        async with workers(server.url, 3) as all_workers:
            first, *others = all_workers
            for key in gone | kept | {b"gw /user/42"}:
                tags = (b"user:42",) if key.startswith(b"gw /user/42") else (b"other",)
                assert await first.second.put(entry(key, tags), NOW, 0.0)
                for worker in all_workers:
                    worker.memory.put(entry(key, tags))
            begun = time.monotonic()
            if kind == "delete":
                first.memory.delete(KEY)
                await first.second.delete(KEY)
            elif kind == "tag":
                first.memory.purge_tag(b"user:42")
                await first.second.purge_tag(b"user:42")
            elif kind == "clear":
                first.memory.clear()
                await first.second.clear()
            else:
                path = {"path": b"/user/42", "prefix": b"/user/*", "glob": b"/u[s]er*"}[kind]
                # A path that ends in * is a prefix; the literal one is purged as its own prefix.
                first.memory.purge_path(path)
                await first.second.purge_path(path)
            for worker in others:
                await until(lambda worker=worker: all(worker.memory.peek(key) is None for key in gone))
            assert time.monotonic() - begun < 1.0
            for key in gone:
                assert await first.second.get(key) is None
            for key in kept:
                assert await first.second.get(key) is not None
                assert all(worker.memory.peek(key) is not None for worker in others)

    run(work())


def test_a_worker_does_not_undo_what_it_stored_after_its_own_purge(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url) as (one, two):
            two.memory.put(entry())
            one.memory.delete(KEY)
            await one.second.delete(KEY)
            one.memory.put(entry())
            await until(lambda: two.memory.peek(KEY) is None)
            await one.second.delete(b"gw /other")
            await until(lambda: one.second.bus._sequence == 2)
            assert one.memory.peek(KEY) is not None

    run(work())


def test_b22_a_response_in_flight_is_not_stored_by_another_worker(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url) as (one, two):
            await one.second.delete(KEY)
            assert not await two.second.put(entry(), NOW, 5.0)
            assert not await two.second.put(entry(KEY + b"\x00salt\x00gzip"), NOW, 5.0)
            assert await two.second.put(entry(b"gw /user/43"), NOW, 5.0)
            # Forwarded after the invalidation by Redis's clock, which has milliseconds.
            async with asyncio.timeout(5):
                while not await two.second.put(entry(), NOW, 0.0):
                    await asyncio.sleep(0.001)
            await one.second.purge_tag(b"whatever")
            assert not await two.second.put(entry(b"gw /user/43"), NOW, 5.0)

    run(work())


def test_names_under_a_busy_tag_do_not_pile_up(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url, 1, grace=0.0) as (one,):
            client, names = one.second._client, one.second._names
            for number in range(20):
                short = entry(b"gw /%d" % number, (b"busy",))
                short.fresh_until = NOW + 0.02
                assert await one.second.put(short, NOW, 0.0)
            async with asyncio.timeout(5):
                while await client.exists(names.entry(b"gw /19")):
                    await asyncio.sleep(0.001)
            assert await one.second.put(entry(b"gw /last", (b"busy",)), NOW, 0.0)
            assert await client.zcard(names.tags + b"busy") == 1

    run(work())


# without Redis


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, which must not wait."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("it waits")


def test_without_redis_everything_is_a_miss_at_once() -> None:
    async def work() -> None:
        worker = Worker("redis://127.0.0.1:1/0", "none", "w")
        await worker.second.start()
        begun = time.process_time()
        for _ in range(1000):
            assert at_once(worker.second.get(KEY)) is None
            assert at_once(worker.second.find(KEY, request())) == (None, None)
            assert not at_once(worker.second.put(entry(), NOW, 0.0))
            at_once(worker.second.delete(KEY))
            assert at_once(worker.second.claim(KEY, 1.0))
            at_once(worker.second.release(KEY))
        assert time.process_time() - begun < 2.0
        assert not worker.second.up
        await worker.second.stop()

    run(work())


def test_redis_stopped_and_started_under_load(own_server: RedisServer) -> None:
    async def work() -> None:
        async with workers(own_server.url) as (one, two):
            stopping = False
            asked = failed = 0

            async def load(worker: Worker) -> None:
                nonlocal asked, failed
                number = 0
                while not stopping:
                    number += 1
                    asked += 1
                    try:
                        await worker.second.put(entry(b"gw /%d" % (number % 50)), NOW, 0.0)
                        await worker.second.find(b"gw /%d" % (number % 50), request())
                    except Exception:
                        failed += 1
                    await asyncio.sleep(0.001)

            tasks = [asyncio.create_task(load(worker)) for worker in (one, two) for _ in range(10)]
            for _ in range(2):
                before = asked
                await until(lambda before=before: asked > before + 200)
                own_server.stop()
                await until(lambda: not one.second.up and not two.second.up)
                before = asked
                await until(lambda before=before: asked > before + 200)
                own_server.start()
                await until(lambda: one.second.up and two.second.up)
            stopping = True
            await asyncio.gather(*tasks)
            assert failed == 0 and asked > 800
            assert await one.second.put(entry(b"gw /after"), NOW, 0.0)
            assert await two.second.get(b"gw /after") is not None

    run(work(), limit=30.0)


def test_a_redis_that_hangs_is_not_tried_for_a_while(own_server: RedisServer) -> None:
    async def work() -> None:
        async with workers(own_server.url, 1, timeout=0.1) as (one,):
            own_server.freeze()
            begun = time.monotonic()
            assert await one.second.get(KEY) is None
            assert time.monotonic() - begun < 1.0
            assert not one.second.up
            begun = time.monotonic()
            for _ in range(100):
                assert await one.second.get(KEY) is None
            assert time.monotonic() - begun < 0.1
            own_server.thaw()
            await until(lambda: one.second.up)
            assert await one.second.put(entry(), NOW, 0.0)

    run(work())


def test_a_purge_whose_connection_is_dead_is_repeated_soon(own_server: RedisServer) -> None:
    async def work() -> None:
        with BadRedis(own_server.port) as door:
            async with workers(door.url, 1) as (one,):
                assert await one.second.put(entry(), NOW, 0.0)
                door.misbehave(never, lambda words: words[0] == b"SCAN")
                async with asyncio.timeout(20.0):  # well below the half minute of the whole scan
                    await one.second.purge_path(b"/user/*")
                door.behave()
                await until(lambda: one.second.up, 20.0)
                assert await one.second.get(KEY) is None

    run(work())


def test_invalidations_without_redis_are_sent_before_the_first_read(own_server: RedisServer) -> None:
    async def work() -> None:
        async with workers(own_server.url) as (one, two):
            for key in (KEY, b"gw /user/43"):
                assert await one.second.put(entry(key), NOW, 0.0)
                two.memory.put(entry(key))
            # One worker's connection breaks; Redis and the other worker continue.
            one.second.bus.mark_unavailable()
            one.memory.delete(KEY)
            await one.second.delete(KEY)
            await until(lambda: one.second.up)
            assert await one.second.get(KEY) is None
            assert await one.second.get(b"gw /user/43") is not None
            await until(lambda: two.memory.peek(KEY) is None)
            assert two.memory.peek(b"gw /user/43") is not None

    run(work())


def test_invalidations_missed_by_a_disconnected_worker_are_applied_later(own_server: RedisServer) -> None:
    async def work() -> None:
        async with workers(own_server.url) as (one, two):
            for number in range(5):
                two.memory.put(entry(b"gw /%d" % number))
            two.second.bus.mark_unavailable()
            for number in range(3):
                await one.second.delete(b"gw /%d" % number)
            await until(lambda: two.second.up)
            assert [two.memory.peek(b"gw /%d" % n) is None for n in range(5)] == [True, True, True, False, False]

    run(work())


def test_a_redis_that_lost_its_memory_empties_the_workers(own_server: RedisServer) -> None:
    async def work() -> None:
        async with workers(own_server.url) as (one, two):
            await one.second.delete(b"gw /x")
            await until(lambda: two.second.bus._sequence == 1)
            two.memory.put(entry())
            own_server.stop()
            await until(lambda: not two.second.up)
            own_server.start()
            await until(lambda: two.second.up)
            assert two.memory.peek(KEY) is None, "messages may have been missed"

    run(work())


def test_more_purges_than_are_remembered_purge_everything(own_server: RedisServer) -> None:
    async def work() -> None:
        async with workers(own_server.url) as (one, two):
            two.memory.put(entry())
            one.second.bus.mark_unavailable()
            for number in range(1001):
                one.second.bus.enqueue(b"D", b"gw /%d" % number)
            await until(lambda: two.memory.peek(KEY) is None)

    run(work())


# one flight for all workers


def test_one_worker_fetches_and_the_others_wait_for_what_it_stores(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url, 3) as (one, two, three):
            assert await one.second.claim(KEY, 5.0)
            assert not await two.second.claim(KEY, 5.0)
            waiting = [asyncio.create_task(worker.second.wait(KEY, 5.0)) for worker in (two, three)]
            await until(lambda: two.second.bus._waiting and three.second.bus._waiting)
            assert await one.second.put(entry(), NOW, 0.0)
            assert await asyncio.gather(*waiting) == [True, True]
            assert await two.second.get(KEY) is not None
            assert await two.second.claim(KEY, 5.0), "another worker may claim the next flight"

    run(work())


def test_a_released_claim_sends_the_others_upstream(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url) as (one, two):
            assert await one.second.claim(KEY, 5.0)
            waiting = asyncio.create_task(two.second.wait(KEY, 5.0))
            await until(lambda: two.second.bus._waiting)
            await one.second.release(KEY)
            assert await waiting is False

    run(work())


def test_waiting_ends(server: RedisServer) -> None:
    async def work() -> None:
        async with workers(server.url) as (one, two):
            assert await two.second.wait(KEY, 5.0), "no worker fetches: look it up again"
            assert await one.second.claim(KEY, 5.0)
            assert not await two.second.wait(KEY, 0.05)
            assert not two.second.bus._waiting
            waiting = asyncio.create_task(two.second.wait(KEY, 5.0))
            await until(lambda: two.second.bus._waiting)
            two.second.bus.mark_unavailable()
            assert await waiting is False
            await until(lambda: two.second.up)
            assert await one.second.claim(b"gw /brief", 0.02)
            # The claim of a worker that died expires.
            async with asyncio.timeout(5):
                while not await two.second.claim(b"gw /brief", 1.0):
                    await asyncio.sleep(0.001)

    run(work())
