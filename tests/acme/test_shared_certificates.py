"""Gateways that share a Redis: one orders, all respond to the challenge, and all serve the certificate."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.acme.redis_store import RedisStore
from passerelle.acme.schedule import Attempt
from passerelle.acme.store import StoreUnavailable
from tests.acme.gateways import NAME, Clock, Ordering, auto
from tests.acme.pebble import Pebble
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.supervisor.helpers import run
from tests.support.gateways import Rig
from tests.support.wire import wait_until

CERTIFICATE = b"-----BEGIN PRIVATE KEY-----"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.forget()
    return server


class Pair:
    """Two gateways, of which the authority reaches only the second, and their orders in the background."""

    def __init__(self, rig: Rig, pebble: Pebble, redis: RedisServer, folder: Path) -> None:
        self.clock = Clock(time.time())
        self.loop = rig.loop
        self.trusting = pebble.clients()
        self.gateways = []
        for name, port in (("a", 0), ("b", pebble.tls_port)):
            (folder / name).mkdir()
            self.gateways.append(Ordering(rig, folder / name, self.clock, auto(pebble), port, redis=redis.url))
        self._tasks: list[asyncio.Task[None]] = []

    def __enter__(self) -> Pair:
        self.loop.call(lambda: self._tasks.extend(asyncio.create_task(each.orders.run()) for each in self.gateways))
        return self

    def __exit__(self, *error: object) -> None:
        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self.loop.run(end())
        for each in self.gateways:
            each.close()

    def serials(self) -> set[str | None]:
        """Return what clients of the gateways get: one serial number if both have the same certificate."""
        return {each.certificate(self.trusting) for each in self.gateways}

    def same(self, other_than: str | None = None) -> str:
        """Wait until both serve the same new certificate."""
        wait_until(
            lambda: len(found := self.serials()) == 1 and not {None, other_than} & found, "both serve it", within=30.0
        )
        [serial] = self.serials()
        assert serial is not None
        return serial


@needs("pebble", "redis-server")
def test_one_order_for_two_gateways(rig: Rig, pebble: Pebble, redis: RedisServer, tmp_path: Path) -> None:
    orders = pebble.orders
    with Pair(rig, pebble, redis, tmp_path) as pair:
        first = pair.same()
        assert pebble.orders == orders + 1
        a, b = pair.gateways
        # The authority reaches only b while a orders.
        rig.loop.call(lambda: a.orders.change({"name": NAME}))
        second = pair.same(other_than=first)
        assert pebble.orders == orders + 2
        assert a.kinds()[-1] == "certificate_renewed"
        # Both find that it is due at the same time.
        pair.clock.now = a.orders.report()[0]["next_order"]
        third = pair.same(other_than=second)
        assert pebble.orders == orders + 3
        assert [kind for each in pair.gateways for kind in each.kinds()].count("certificate_renewed") == 3

        # Redis is gone: both serve on, and nothing is ordered.
        redis.stop()
        wait_until(lambda: all(each.kinds()[-1:] == ["store"] for each in pair.gateways), "both report it")
        assert pair.serials() == {third}
        assert all("no certificate is ordered" in each.lines[-1] for each in pair.gateways)
        # It returns without its data: it gets the certificate back, and nothing is ordered.
        redis.start()
        store = RedisStore(redis.url, "default")
        wait_until(
            lambda: (run_on(rig, store) or b"").startswith(CERTIFICATE), "the certificate is in Redis again", within=15
        )
        rig.loop.run(store.close())
        assert pebble.orders == orders + 3 and pair.serials() == {third}
    # A gateway that has lost its folder gets the certificate from Redis.
    shutil.rmtree(b.folder)
    b.restart()
    b.turn()
    b.close()
    assert (b.folder / f"{NAME}.pem").exists() and pebble.orders == orders + 3


def run_on(rig: Rig, store: RedisStore) -> bytes | None:
    async def bundle() -> bytes | None:
        try:
            return (await store.load([NAME]))[NAME].bundle
        except StoreUnavailable:
            return None

    return rig.loop.run(bundle())


@needs("redis-server")
def test_the_right_to_order_and_what_polls_report(redis: RedisServer) -> None:
    async def check() -> None:
        one = RedisStore(redis.url, "test", lease=300, seen_limit=0.3)
        two = RedisStore(redis.url, "test", lease=300, seen_limit=0.3)
        other = RedisStore(redis.url, "other")
        try:
            assert await one.lock() and await one.lock() and not await two.lock()
            assert await other.lock(), "another namespace shares nothing"
            await two.unlock()
            assert not await two.lock(), "only the holder gives it up"
            while not await two.lock():  # the lease ends: the first gateway is silent
                await asyncio.sleep(0.02)
            assert not await one.lock()
            await two.unlock()
            assert await one.lock()

            assert (await two.poll("")).changed and not (await two.poll("")).changed
            await one.keep_certificate("a.example", b"bundle", Attempt("https://ca.example"))
            assert (await two.poll("")).changed and not (await two.poll("")).changed
            kept = await two.load(["a.example", "b.example"])
            assert kept["a.example"].bundle == b"bundle" and kept["a.example"].attempt.directory == "https://ca.example"
            assert kept["b.example"].bundle is None and kept["b.example"].attempt == Attempt()
            await one.keep_attempt("a.example", Attempt("https://ca.example", 2, 5.0, "why"))
            assert (await two.load(["a.example"]))["a.example"] == (
                b"bundle",
                Attempt("https://ca.example", 2, 5.0, "why"),
            )
            await one.keep_account("https://ca.example", b"account")
            assert await two.account("https://ca.example") == b"account" and await two.account("https://b") is None

            pending = [{"kind": "http-01", "name": "a.example", "token": "t", "proof": "p"}]
            published = asyncio.create_task(one.publish(pending))
            while not (news := await two.poll("")).published:
                await asyncio.sleep(0)
            assert list(news.challenges) == pending and not published.done(), "the second gateway does not respond yet"
            await two.poll(news.published)
            await published
            await one.publish([])
            assert (await two.poll(news.published)).published == ""
            # What is no challenge is refused.
            for junk in (
                b"junk",
                b"[]",
                b'{"challenges": [{}], "published": "x"}',
                b'{"challenges": 1, "published": ""}',
            ):
                await one._client.set("passerelle:1:certificates:test:challenges", junk)
                with pytest.raises(StoreUnavailable, match="is damaged"):
                    await two.poll("")
            # A gateway that never responds delays an order for a bounded time.
            await one.publish(pending)
        finally:
            for each in (one, two, other):
                await each.close()

    run(check())
