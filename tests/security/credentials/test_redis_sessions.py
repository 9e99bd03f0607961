"""Sessions and login attempts in a real Redis: what gateways share, and what happens while Redis is unavailable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passerelle.security.credentials.login_throttle import AttemptLimit, LoginThrottle
from passerelle.security.credentials.redis_login_throttle import GIVE_BACK, RedisLoginThrottle
from passerelle.security.credentials.redis_sessions import HOLD, OPEN, RedisSessions, key_of
from passerelle.security.credentials.session_store import Lifetimes, digest_of, new_id
from passerelle.security.ratelimit.gcra import SECOND, BucketTable, Rate
from passerelle.security.ratelimit.redis import DECIDE
from tests.caching.redis_server import RedisServer
from tests.integration.test_sessions import Shop, session, token
from tests.requirements import needs
from tests.support.client import Client
from tests.support.gateways import Rig, Running
from tests.support.wire import wait_until

pytestmark = needs("redis-server")
START = 1_700_000_000_000_000
LONG = 20.0  # seconds, for waits on a busy machine
# Redis's own clock continues while the test's time is controlled: nothing expires by it.
AT_A_MADE_UP_TIME = "local now = {now}\nlocal function run()\n{script}\nend\nlocal out = run()\n{keep}return out\n"
KEEP = "for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end\n"


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


class Ended:
    """Completed call."""

    def __init__(self, result: object) -> None:
        self.result = result

    def add_done_callback(self, call: Any) -> None:
        call()


class MadeUpTime:
    """Runs the scripts at once, at the time ``now`` (us)."""

    gateways = 1

    def __init__(self, server: RedisServer, *, keep: bool = True) -> None:
        self.client = redis.Redis(port=server.port)
        self.client.flushall()
        self.now = START
        self._keep = KEEP if keep else ""

    def run_or_queue(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Ended:
        text = AT_A_MADE_UP_TIME.format(now=self.now, script=script, keep=self._keep)
        return Ended(self.client.eval(text, len(keys), *keys, *arguments))

    run = run_or_queue


# ---- the scripts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 6),
    st.integers(1, 9),
    st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 90)), max_size=40),
)
def test_attempts_are_counted_as_by_one_worker(
    shared_server: RedisServer, by_name: int, by_address: int, steps: list[tuple[bool, str, str, int]]
) -> None:
    store = MadeUpTime(shared_server)
    minute = 60 * SECOND

    def kinds() -> tuple[AttemptLimit, AttemptLimit]:
        return AttemptLimit(Rate(1, minute, by_name), BucketTable()), AttemptLimit(
            Rate(1, minute, by_address), BucketTable()
        )

    def clock() -> int:
        return store.now * 1000

    shared, alone = RedisLoginThrottle(*kinds(), "a login", store, clock=clock), LoginThrottle(*kinds(), clock)
    # The local state reflects the store's decisions.
    heard = LoginThrottle(
        AttemptLimit(Rate(1, minute, by_name), shared._tables[1]),
        AttemptLimit(Rate(1, minute, by_address), shared._tables[0]),
        clock,
    )
    for right, name, address, seconds in steps:
        store.now += seconds * 1_000_000
        waits: list[int] = []
        shared.take_async(name, address.encode(), waits.append)
        assert waits == [alone.take(name, address.encode())]
        if right and waits == [0]:
            shared.restore(name, address.encode())
            alone.restore(name, address.encode())
    for name in "ab":
        for address in "xyz":
            wait = alone.take(name, address.encode())
            assert heard.take(name, address.encode()) == wait
            for each in (alone, heard) if wait == 0 else ():
                each.restore(name, address.encode())
    store.client.close()


class Kept:
    """One session, opened at the controlled time."""

    def __init__(self, server: RedisServer, idle: float = 100.0, absolute: float = 1000.0) -> None:
        self.store = MadeUpTime(server)
        self.sessions = RedisSessions(self.store, Lifetimes(idle, absolute))
        self.digest = digest_of(new_id()) or b""
        self.sessions.open(None, self.digest, "é", ("admin", "customer"))

    def holds(self, ago: float | None = None) -> bool:
        call = self.sessions.touch(self.digest, ago)
        assert call is not None and isinstance(call.result, list)
        return bool(call.result)


@pytest.fixture
def kept(shared_server: RedisServer) -> Iterator[Kept]:
    made = Kept(shared_server)
    yield made
    made.store.client.close()


def test_what_is_found(kept: Kept) -> None:
    kept.store.now += 1_000_000
    call = kept.sessions.touch(kept.digest, None)
    assert call is not None
    assert call.result == ["é".encode(), b'["admin", "customer"]', 999_000_000]


def test_uses_keep_it_until_its_absolute_end(kept: Kept) -> None:
    for _ in range(10):
        assert kept.holds()
        kept.store.now += 99_999_999
    assert kept.holds()
    kept.store.now += 11
    assert not kept.holds()
    assert kept.store.client.dbsize() == 0


def test_it_ends_when_it_is_not_used_and_then_nothing_is_left(kept: Kept) -> None:
    kept.store.now += 100_000_000
    assert not kept.holds()
    assert kept.store.client.dbsize() == 0


def test_a_use_that_a_worker_has_seen_counts_and_never_backwards(kept: Kept) -> None:
    kept.store.now += 90_000_000
    assert kept.holds()
    kept.store.now += 100_500_000
    assert kept.holds(ago=1.0)
    kept.store.now += 99_000_000
    assert kept.holds(ago=500.0)


def test_it_is_kept_no_longer_than_it_can_hold(shared_server: RedisServer) -> None:
    store = MadeUpTime(shared_server, keep=False)
    sessions = RedisSessions(store, Lifetimes(100.0, 1000.0))
    one, other = (digest_of(new_id()) or b"" for _ in range(2))
    sessions.open(None, one, "7", ())
    assert 95_000 < store.client.pttl(key_of(one)) <= 101_000
    store.now += 990_000_000
    store.client.hset(key_of(one), "used", store.now)
    sessions.touch(one, None)
    assert store.client.pttl(key_of(one)) <= 10_000
    sessions.open(one, other, "7", ())
    assert not store.client.exists(key_of(one)) and store.client.exists(key_of(other))
    store.client.close()


@pytest.mark.parametrize("script", [DECIDE, GIVE_BACK, HOLD, OPEN])
def test_no_number_is_written_as_a_float(script: str) -> None:
    assert "tostring(" not in script and ".. now" not in script


# ---- gateways


def link(gateway: Running) -> Any:
    return gateway.gateway._guards._redis


def connected(shop: Shop, gateway: Running, up: bool = True) -> None:
    wait_until(lambda: link(gateway).up is up, "Redis is there" if up else "Redis is gone", LONG)


class Two:
    """A shop with sessions in Redis, and another gateway for the same services."""

    def __init__(self, rig: Rig, server: RedisServer, folder: Path, **sessions: Any) -> None:
        self.server = server
        self.shop = Shop(rig, folder, server.url, **sessions)
        self.other = rig.gateway(self.shop.services, self.shop.routes, **{**self.shop.top, "access_log": "off"})
        self.client: Client = rig.connect(self.other)
        for gateway in (self.shop.gateway, self.other):
            wait_until(lambda gateway=gateway: link(gateway).up and link(gateway).gateways == 2, "both", LONG)

    def ask_other(self, method: str, path: str, identity: str, *fields: tuple[str, str]) -> int:
        answer = self.client.request(method, path, ("Cookie", f"__Host-session={identity}"), *fields)
        return answer.status

    def login_other(self, name: str, password: str = "right") -> int:
        body = json.dumps({"username": name, "password": password}).encode()
        return self.client.request("POST", "/login", ("Content-Type", "application/json"), body=body).status

    def stop_redis(self) -> None:
        self.server.stop()
        for gateway in (self.shop.gateway, self.other):
            connected(self.shop, gateway, up=False)

    def start_redis(self) -> None:
        self.server.start()
        for gateway in (self.shop.gateway, self.other):
            connected(self.shop, gateway)


@pytest.fixture
def two(rig: Rig, server: RedisServer, tmp_path: Path) -> Two:
    return Two(rig, server, tmp_path)


def test_a_session_holds_at_every_gateway_and_ends_at_every_gateway(two: Two) -> None:
    answer = two.shop.login("root")
    identity = session(answer)
    assert two.ask_other("GET", "/admin", identity) == 200
    assert two.shop.upstream.requests[-1].all("x-consumer-roles") == [b"admin customer"]
    assert two.ask_other("POST", "/me", identity) == 403
    assert two.ask_other("POST", "/me", identity, token(answer)) == 200
    assert two.shop.ask("POST", "/logout", identity, token(answer)).status == 204
    assert two.shop.ask("GET", "/me", identity).status == 401
    wait_until(lambda: two.ask_other("GET", "/me", identity) == 401, "the logout is seen", LONG)


def test_a_login_elsewhere_ends_the_session_before_it(two: Two) -> None:
    first = session(two.shop.login("ada"))
    assert two.ask_other("GET", "/me", first) == 200
    session(two.shop.login("ada", "right", ("Cookie", f"__Host-session={first}")))
    assert two.shop.ask("GET", "/me", first).status == 401
    wait_until(lambda: two.ask_other("GET", "/me", first) == 401, "its end is seen", LONG)


def test_redis_holds_no_id_and_forgets_by_itself(two: Two) -> None:
    identity = session(two.shop.login("ada"))
    assert two.shop.ask("GET", "/me", identity).status == 200
    with redis.Redis(port=two.server.port) as client:
        (name,) = client.keys("passerelle:1:session:*")
        kept = client.hgetall(name)
        assert {b"user", b"roles", b"created", b"used"} == kept.keys()
        assert all(identity.encode() not in text for text in (name, *kept.values()))
        assert 0 < client.pttl(name) <= 1_801_000


def test_attempts_are_counted_for_all_gateways(two: Two) -> None:
    for number in range(5):
        if number % 2:
            assert two.login_other("ada", "wrong") == 401
        else:
            assert two.shop.login("ada", "wrong").status == 401
    assert two.login_other("ada") == 429
    answer = two.shop.login("ADA ")
    assert answer.status == 429 and 1 <= int(answer.get("retry-after") or b"0") <= 180
    assert len(two.shop.upstream.requests) == 5
    assert [two.login_other("root") for _ in range(8)] == [200] * 8


def test_a_session_that_is_not_used_ends(rig: Rig, server: RedisServer, tmp_path: Path) -> None:
    two = Two(rig, server, tmp_path, idle="1s")
    identity = session(two.shop.login("ada"))
    with redis.Redis(port=server.port) as client:
        wait_until(lambda: not client.keys("passerelle:1:session:*"), "Redis has forgotten it", LONG)
    assert two.ask_other("GET", "/me", identity) == 401


def test_a_session_ends_a_time_after_its_login(two: Two) -> None:
    identity = session(two.shop.login("ada"))
    assert two.ask_other("GET", "/me", identity) == 200
    with redis.Redis(port=two.server.port) as client:
        client.hincrby(client.keys("passerelle:1:session:*")[0], "created", -43_200_000_000)
    wait_until(lambda: two.ask_other("GET", "/me", identity) == 401, "the session is over", LONG)


# ---- without Redis


def test_without_redis_requests_are_refused_but_sessions_are_not_called_invalid(two: Two) -> None:
    identity = session(two.shop.login("ada"))
    assert two.shop.ask("GET", "/me", identity).status == 200
    two.stop_redis()
    wait_until(lambda: two.shop.ask("GET", "/me", identity).status != 200, "it is not in memory any more", LONG)
    asked = len(two.shop.upstream.requests)
    answer = two.shop.ask("GET", "/me", identity)
    assert answer.status == 503 and answer.get("retry-after") == b"1" and not answer.all("set-cookie")
    assert two.ask_other("GET", "/me", identity) == 503
    assert two.shop.ask("POST", "/logout", identity).status == 503
    for password in ("right", "wrong"):  # no difference: the service is not called
        assert two.shop.login("ada", password).status == 503
    assert two.shop.ask("GET", "/either", identity).status == 503
    assert len(two.shop.upstream.requests) == asked
    # Requests without a session continue to work.
    assert two.shop.client.request("GET", "/open").status == 200
    assert two.shop.client.request("GET", "/me").status == 401
    assert two.shop.client.request("POST", "/logout").status == 204
    two.start_redis()
    # Redis came back without data.
    assert two.shop.ask("GET", "/me", identity).status == 401
    assert two.ask_other("GET", "/me", session(two.shop.login("ada"))) == 200


def test_a_redis_that_hangs_is_not_waited_for(two: Two) -> None:
    identity = session(two.shop.login("ada"))
    two.server.freeze()
    assert two.ask_other("GET", "/me", identity) == 503
    connected(two.shop, two.other, up=False)
    assert [two.ask_other("GET", "/me", identity) for _ in range(20)] == [503] * 20
    two.server.thaw()
    for gateway in (two.shop.gateway, two.other):
        connected(two.shop, gateway)
    assert two.ask_other("GET", "/me", identity) == 200


def test_a_gateway_that_starts_waits_for_its_first_connection(rig: Rig, server: RedisServer, tmp_path: Path) -> None:
    first = Shop(rig, tmp_path, server.url)
    identity = session(first.login("ada"))
    for _ in range(5):
        gateway = rig.gateway(first.services, first.routes, **{**first.top, "access_log": "off"})
        answer = rig.connect(gateway).request("GET", "/me", ("Cookie", f"__Host-session={identity}"))
        assert answer.status == 200


def test_a_gateway_that_starts_without_redis_begins_when_it_comes(
    rig: Rig, server: RedisServer, tmp_path: Path
) -> None:
    server.stop()
    shop = Shop(rig, tmp_path, server.url)
    assert shop.login("ada").status == 503
    assert shop.ask("GET", "/me", new_id().decode()).status == 503
    server.start()
    connected(shop, shop.gateway)
    assert shop.ask("GET", "/me", session(shop.login("ada"))).status == 200


def test_without_redis_a_worker_counts_its_part_of_the_attempts(rig: Rig, server: RedisServer, tmp_path: Path) -> None:
    shop = Shop(rig, tmp_path)
    top = {"redis": server.url, "limits": {"gateways": 2}}
    shop.gateway.reload(shop.services, shop.routes, **shop.top, **top)
    connected(shop, shop.gateway)
    assert shop.login("ada", "wrong").status == 401
    server.stop()
    connected(shop, shop.gateway, up=False)
    # The gateway's share is three of five, one of which was used.
    assert [shop.login("ada", "wrong").status for _ in range(3)] == [401, 401, 429]
    assert [shop.login("root").status for _ in range(5)] == [200] * 5
    server.start()
    connected(shop, shop.gateway)
    assert shop.login("ada").status == 200


def test_a_reload_takes_sessions_to_redis_and_back(rig: Rig, server: RedisServer, tmp_path: Path) -> None:
    shop = Shop(rig, tmp_path)
    of_file = session(shop.login("ada"))
    shop.gateway.reload(shop.services, shop.routes, **{**shop.top, "sessions": {}, "redis": server.url})
    assert shop.ask("GET", "/me", of_file).status == 401
    of_redis = session(shop.login("ada"))
    before = link(shop.gateway)
    settings = {**shop.top, "sessions": {"idle": "1h"}, "redis": server.url}
    shop.gateway.reload(shop.services, shop.routes, **settings)
    assert link(shop.gateway) is before
    assert shop.ask("GET", "/me", of_redis).status == 200
    shop.gateway.reload(shop.services, shop.routes, **shop.top)
    assert shop.ask("GET", "/me", of_file).status == 200
    assert shop.ask("GET", "/me", of_redis).status == 401
