"""Gateways that share a Redis judge together: the lead, its takeover, fencing, and a Redis that is gone or empty."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.redis_split_store import RedisSplitStore
from passerelle.supervisor.split_record import Tally
from passerelle.supervisor.split_store import FileStore, StoreUnavailable
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.supervisor.helpers import run
from tests.supervisor.rollout_gateways import PLANNED, ROUTE, Gateway, Time, text

pytestmark = needs("redis-server")

# The time of steps is that of Redis, so these plans need requests and next to no time.
PLAN = text("steps: [1%, 5%, 25%, 50%, 100%], at_least: 1ms, requests: 30")
LEASE = 300  # milliseconds


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    server.forget()
    return server


class Group:
    """Gateways that share a Redis."""

    def __init__(self, redis: RedisServer, folder: Path, number: int = 3, config: str = PLAN) -> None:
        self.redis = redis
        self.folder = folder
        self.config = config
        self.time = Time()
        self.gateways: list[Gateway] = []
        self.gone: list[Gateway] = []
        self._made = 0
        self._number = number

    async def __aenter__(self) -> Group:
        for _ in range(self._number):
            await self.add()
        return self

    async def __aexit__(self, *error: object) -> None:
        for each in (*self.gateways, *self.gone):
            await each.rollouts.close()

    async def add(self, config: str | None = None, folder: str | None = None) -> Gateway:
        self._made += 1
        copy = FileStore(self.folder / (folder or str(self._made)), lambda line: made.lines.append(line))
        store = RedisSplitStore(self.redis.url, "test", copy, lease=LEASE)
        made = Gateway(config or self.config, store, self.time, self._made)
        await made.rollouts.load()
        self.gateways.append(made)
        return made

    def kill(self, gateway: Gateway) -> None:
        """Let a gateway be silent from now on, with its lease."""
        self.gateways.remove(gateway)
        self.gone.append(gateway)

    async def tick(self) -> None:
        for each in list(self.gateways):
            await each.rollouts.tick()

    @property
    def leaders(self) -> list[Gateway]:
        return [each for each in self.gateways if each.status["leads"]]

    @property
    def shares(self) -> set[int]:
        return {each.share for each in self.gateways}

    async def step(self, requests: int = 15) -> None:
        """Let each gateway serve as much, and look until all have taken a step."""
        await self.tick()
        await self.tick()  # all know the step that the leader has taken, so they count for it
        for each in self.gateways:
            each.count("old", 20 * requests)
            each.count("new", requests)
        before = self.gateways[0].status["step"], self.gateways[0].status["status"]

        async def moved() -> bool:
            await self.tick()
            return all((g.status["step"], g.status["status"]) != before for g in self.gateways)

        for _ in range(500):
            if await moved():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"no step after {before}: {[(g.status, g.lines) for g in self.gateways]}")


def test_all_gateways_judge_together_and_follow_the_leader(redis: RedisServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path) as group:
            first, second, third = group.gateways
            await second.change("start")
            await group.tick()
            await group.tick()
            assert group.shares == {10}
            assert len(group.leaders) == 1
            for each in group.gateways:
                each.count("old", 1000)
                each.count("new", 10)
                await each.rollouts.tick()
            assert group.shares == {10}, "the last has counted after the leader looked"
            await group.tick()
            await group.tick()
            assert group.shares == {50}, "thirty requests of all together"
            assert [each.status["counts"]["new"]["requests"] for each in group.gateways] == [0, 0, 0]
            await third.change("pause", "an operator")
            await group.tick()
            assert {each.status["reason"] for each in group.gateways} == {"paused by an operator"}
            await first.change("resume")
            while group.gateways[0].status["status"] != "done":
                await group.step()
            assert [each.shares for each in group.gateways] == [[10, 50, 250, 500, 1000]] * 3

    run(body())


def test_failures_that_are_few_on_each_gateway_are_found(redis: RedisServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path) as group:
            await group.gateways[0].change("start")
            await group.tick()
            for each in group.gateways:
                each.count("old", 2000, failed=4)
                each.count("new", 8, failed=2)
                await each.rollouts.tick()
            await group.tick()
            await group.tick()
            assert group.shares == {0}
            for each in group.gateways:
                assert each.status["status"] == "rolled_back"
                assert each.status["evidence"]["new"] == {"requests": 24, "events": 6}

    run(body())


@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_a_gateway_is_killed_at_each_step(redis: RedisServer, tmp_path: Path, victim: str) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path) as group:
            await group.gateways[0].change("start")
            await group.tick()
            await group.tick()
            for number, share in enumerate(PLANNED[1:-1]):
                assert group.shares == {share}
                (leader,) = group.leaders
                followers = [each for each in group.gateways if each is not leader]
                group.kill(leader if victim == "leader" else followers[0])
                # It starts again, with the folder that it had or with another one.
                other = await group.add(folder=str(number))
                assert (other.share, other.sent) == (share, []), "before its workers start"
                await group.step()
            assert group.shares == {1000}
            for each in (*group.gateways, *group.gone):
                assert set(each.shares) <= set(PLANNED)
                assert each.shares == sorted(each.shares), "no user moves back"

    run(body(), 60)


def test_a_leader_that_was_frozen_writes_nothing(redis: RedisServer, tmp_path: Path) -> None:
    """Its lease ends, another one leads, and the write that it had decided on is refused."""

    async def body() -> None:
        async with Group(redis, tmp_path, 2) as group:
            frozen, other = group.gateways
            await frozen.change("start")
            await frozen.rollouts.tick()
            assert frozen.status["leads"]
            record = (await frozen.store.turn(ROUTE, 0, Tally(), wants_lead=True)).record
            assert record is not None
            group.kill(frozen)

            async def takes_over() -> bool:
                await other.rollouts.tick()
                return bool(other.status["leads"])

            for _ in range(500):
                if await takes_over():
                    break
                await asyncio.sleep(0.01)
            assert other.status["leads"]
            later = record.following(reason="too late")
            assert not await frozen.store.write(ROUTE, later, leading=True)
            # Any write over a record that its writer has not seen is refused, too.
            stale = replace(record, revision=record.revision)
            assert not await other.store.write(ROUTE, stale, leading=True)
            assert await other.store.write(ROUTE, later, leading=True)
            await frozen.rollouts.tick()
            assert not frozen.status["leads"]

    run(body())


def test_a_leader_that_stops_gives_the_lead_up_at_once(redis: RedisServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path, 2) as group:
            first, second = group.gateways
            first.store._lease = second.store._lease = 600_000  # type: ignore[attr-defined]
            await first.change("start")
            await group.tick()
            await group.tick()
            assert group.leaders == [first]
            await first.rollouts.close()
            await second.rollouts.tick()
            assert second.status["leads"]

    run(body())


def test_counts_are_published_once(redis: RedisServer, tmp_path: Path) -> None:
    """A reply that is lost is followed by the same counts again."""

    async def body() -> None:
        async with Group(redis, tmp_path, 2) as group:
            first, second = group.gateways
            await first.change("start")
            tally = Tally(100, 5, 3, 2, 9, 1, 7, -1, 4, 2)
            for _ in range(3):
                await first.store.turn(ROUTE, 1, tally, wants_lead=False)
            assert (await second.store.turn(ROUTE, 1, tally, wants_lead=False)).tally == tally + tally
            assert (await second.store.turn(ROUTE, 99, tally, wants_lead=False)).tally == tally + tally
            assert (await second.store.turn(ROUTE, 0, tally, wants_lead=False)).tally == tally + tally

    run(body())


def test_without_redis_shares_stay_and_steps_wait(tmp_path: Path) -> None:
    async def body(redis: RedisServer) -> None:
        async with Group(redis, tmp_path) as group:
            await group.gateways[0].change("start")
            await group.tick()
            await group.step()
            redis.stop()
            for each in group.gateways:
                each.count("new", 500)
                each.count("old", 5000)
            await group.tick()
            await group.tick()
            assert group.shares == {50}
            assert all("steps wait" in each.lines[-1] for each in group.gateways)
            with pytest.raises(ChangeRefused, match="the state cannot be kept: Redis at 127"):
                await group.gateways[0].change("skip")
            again = await group.add(folder="2")
            assert again.share == 50, "from its own copy, as a start does not wait for Redis"
            fresh = await group.add(folder="none")
            assert fresh.share == 0, "nothing is known"
            assert fresh.status["status"] == "paused"
            # An operator can always return all users, here at once, and everywhere when Redis is back.
            await group.gateways[1].change("abort")
            assert [each.share for each in group.gateways] == [50, 0, 50, 50, 0]
            redis.start()  # and it has lost everything
            for _ in range(3):
                await group.tick()
            assert group.shares == {0}
            assert {each.status["status"] for each in group.gateways} == {"aborted"}
            assert all("can be kept again" in "\n".join(each.lines) for each in group.gateways[:3])

    with RedisServer() as redis:
        run(body(redis), 60)


def test_a_redis_that_does_not_reply_is_one_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(redis: RedisServer) -> None:
        async with Group(redis, tmp_path, 1) as group:
            (only,) = group.gateways
            await only.change("start")
            monkeypatch.setattr("passerelle.supervisor.redis_split_store._TIMEOUT", 0.05)
            redis.freeze()
            await group.tick()
            assert (only.share, "no reply" in only.status["problem"]) == (10, True)
            redis.thaw()
            monkeypatch.undo()

            async def back() -> None:
                while only.status["problem"]:
                    await group.tick()

            await asyncio.wait_for(back(), 10)
            assert only.share == 10

    with RedisServer() as redis:
        run(body(redis))


def test_a_redis_that_lost_its_data_receives_the_newest_record(redis: RedisServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path) as group:
            behind, second, third = group.gateways
            await second.change("start")
            await group.tick()
            await second.change("skip")
            await third.rollouts.tick()
            redis.forget()
            # The one that has not seen the last step is the first to restore what it knows.
            for _ in range(3):
                await group.tick()
            assert [each.share for each in (behind, second, third)] == [50, 50, 50]
            await group.step()
            assert group.shares == {250}

    run(body())


def test_a_damaged_record_changes_nothing(redis: RedisServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path, 2) as group:
            first, _ = group.gateways
            await first.change("start")
            await group.tick()
            store: Any = first.store
            key = store._key(ROUTE, "record")
            for value in (b"{}", b"\xff", b'{"revision": 1}'):
                await store._client.hset(key, "data", value)
                await group.tick()
                assert group.shares == {10}
                assert "is damaged" in first.status["problem"] and f"the key {key}" in first.status["problem"]
            await store._client.set(key, "of another program")
            await group.tick()
            assert group.shares == {10}
            assert "WRONGTYPE" in first.status["problem"]
            await store._client.delete(key)
            await group.step()
            assert group.shares == {50}

    run(body())


def test_gateways_with_another_plan_apply_only_shares_of_it(redis: RedisServer, tmp_path: Path) -> None:
    """As in a deployment of a new file, one gateway after the other."""

    async def body() -> None:
        async with Group(redis, tmp_path, 2) as group:
            await group.gateways[0].change("start")
            await group.tick()
            for _ in range(2):
                await group.step()
            assert group.shares == {250}
            other = await group.add(text("steps: [2%, 20%, 100%]"))
            assert other.share == 200
            await other.rollouts.tick()
            assert [each.share for each in group.gateways] == [250, 250, 200]

    run(body())


def test_weights_that_are_set_at_one_gateway_reach_all(redis: RedisServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path, config=text(None)) as group:
            first, second, _ = group.gateways
            await first.splits.set(ROUTE, {"new": 300}, actor="admin", reason="")
            await group.tick()
            assert group.shares == {300}
            await second.splits.set(ROUTE, {"new": 400}, actor="admin", reason="")
            await group.tick()
            await group.tick()
            assert group.shares == {400}
            assert (await group.add()).share == 400

    run(body())


def test_all_keys_expire(redis: RedisServer, tmp_path: Path) -> None:
    async def body() -> None:
        async with Group(redis, tmp_path) as group:
            await group.gateways[0].change("start")
            await group.step()
            await group.tick()
            client: Any = group.gateways[0].store._client  # type: ignore[attr-defined]
            keys = await client.keys("*")
            assert len(keys) == 4 + len(group.gateways)
            assert all(key.startswith(b"passerelle:1:splits:test:") for key in keys)
            assert min([await client.pttl(key) for key in keys]) > 0

    run(body())


def test_a_refused_connection_is_a_clear_message(tmp_path: Path) -> None:
    async def body() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        store = RedisSplitStore(f"redis://:secret@127.0.0.1:{port}/0", "test", FileStore(tmp_path, print))
        with pytest.raises(StoreUnavailable, match=f"Redis at 127.0.0.1:{port}: .*(refused|connect)") as found:
            await store.turn(ROUTE, 0, Tally(), wants_lead=False)
        assert "secret" not in str(found.value)
        await store.close()

    run(body())
