"""API keys in a real Redis: their store, what gateways share, and how long a known key outlives Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from passerelle.errors import Failure, Kind
from passerelle.http1.head import RequestHead
from passerelle.security.credentials import authentication
from passerelle.security.credentials.api_keys import KeyStore, UnknownKey, digest_of, new_key
from passerelle.security.credentials.authentication import Authenticate
from passerelle.security.credentials.redis_api_keys import HOLDS_ON, RedisKeyMethod, RedisKeyStore
from passerelle.security.credentials.redis_lookup import BELIEVED
from passerelle.security.guard import GuardedCall
from passerelle.security.identity import Identity
from passerelle.security.ratelimit.redis import NOW
from tests.caching.redis_server import RedisServer
from tests.integration.test_authentication import Shop
from tests.requirements import needs
from tests.security.credentials.test_api_keys import shown
from tests.security.credentials.test_redis_sessions import Ended
from tests.support.gateways import Rig
from tests.support.wire import wait_until

pytestmark = needs("redis-server")
LONG = 20.0  # seconds, for waits on a busy machine


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def client(shared_server: RedisServer) -> Iterator[Redis]:
    with Redis(port=shared_server.port) as made:
        made.flushall()
        yield made


@pytest.fixture
def store(client: Redis) -> RedisKeyStore:
    return RedisKeyStore(client)


# ---- the store


def test_it_does_what_the_file_does(store: RedisKeyStore, tmp_path: Path) -> None:
    file = KeyStore(tmp_path / "keys.db")
    now = int(time.time())

    def life(of: KeyStore | RedisKeyStore) -> list[Any]:
        ids: list[str] = []

        def told(made: tuple[Any, str]) -> Any:
            ids.append(made[0].id)
            return shape(made[0])

        def shape(key: Any) -> Any:
            replaces = ids.index(key.replaces) if key.replaces else None
            return key.owner, key.scopes, key.created, key.expires, key.revoked, key.last_used, replaces

        said: list[Any] = [told(of.create("app", ["a", "b"], now)), told(of.create("é", [], now + 1, now + 100))]
        said += [told(of.rotate(ids[0], now + 10, 60, now + 1000)), told(of.rotate(ids[1], now + 10, 3600))]
        said += [told(of.rotate(ids[0], now + 20, 3600))]
        of.revoke(ids[2], now + 30)
        of.revoke(ids[2], now + 40)
        for identity, when in ((ids[2], now), (ids[0], now + 70), ("aaaaaaaaaa", now), ("' OR 1=1", now)):
            with pytest.raises(UnknownKey):
                of.rotate(identity, when, 60)
        for identity in ("aaaaaaaaaa", "*"):
            with pytest.raises(UnknownKey):
                of.revoke(identity, now)
        by_id = {key.id: shape(key) for key in of.all()}
        return [*said, *(by_id[identity] for identity in ids), len(by_id)]

    assert life(store) == life(file)
    file.close()


def test_redis_holds_no_key(store: RedisKeyStore, client: Redis) -> None:
    made, key = store.create("app", ["a"], 1, 2)
    assert key.startswith(f"psr_{made.id}_")
    secret = key.split("_", 2)[2].encode()  # which may contain a _
    names = client.keys("*")
    assert all(name.startswith(b"passerelle:1:keys:") for name in names)
    assert all(secret not in name + (client.dump(name) or b"") for name in names)


# ---- acceptance


class Link:
    """Runs scripts like a worker's client; ``there`` controls whether Redis is available."""

    gateways = 1

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.there = "up"
        self.asked = 0

    def run_or_queue(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Ended | None:
        self.asked += 1
        if self.there == "gone":
            return None
        return Ended(None if self.there == "hangs" else self.client.eval(NOW + script, len(keys), *keys, *arguments))

    run = run_or_queue


class Worker:
    """A worker's authentication method, with controlled time."""

    def __init__(self, client: Redis) -> None:
        self.link = Link(client)
        self.seconds = 0.0
        self.method = RedisKeyMethod(self.link, b"x-api-key", time.time, lambda: self.seconds)

    def who(self, key: str) -> str:
        """Return the owner of ``key`` as a guard finds it: called again once the pending result is complete."""
        request: GuardedCall = shown(key)
        guard = Authenticate([self.method])
        while guard(request) is not None:
            pass
        assert isinstance(request.identity, Identity) and request.pending is None
        return request.identity.consumer


@pytest.fixture
def worker(client: Redis) -> Worker:
    return Worker(client)


def test_a_key_establishes_its_owner_and_is_believed_for_a_second(store: RedisKeyStore, worker: Worker) -> None:
    made, key = store.create("app", ["b", "a"], int(time.time()))
    assert [worker.who(key) for _ in range(3)] == ["app"] * 3
    assert worker.link.asked == 1
    assert abs((store.all()[0].last_used or 0) - time.time()) < LONG
    store.revoke(made.id, int(time.time()))
    worker.seconds += 0.99 * BELIEVED
    assert worker.who(key) == "app"
    worker.seconds += 0.01 * BELIEVED
    for _ in range(2):
        with pytest.raises(Failure) as refused:
            worker.who(key)
        assert refused.value.kind is Kind.UNAUTHENTICATED and "revoked" in refused.value.detail
    assert worker.link.asked == 2


def test_what_does_not_hold(store: RedisKeyStore, worker: Worker) -> None:
    now = int(time.time())
    made, expired = store.create("app", [], now - 100, now - 1)
    for key, why in ((expired, "expired"), (new_key()[1], "unknown"), ("nonsense", "form")):
        with pytest.raises(Failure, match=why):
            worker.who(key)
    assert store.get(made.id) == made  # no use was recorded


def test_admitted_keys_stay_valid_without_redis_for_a_while(store: RedisKeyStore, worker: Worker) -> None:
    _, key = store.create("app", [], int(time.time()))
    _, other = store.create("other", [], int(time.time()))
    assert worker.who(key) == "app"
    for how in ("gone", "hangs"):
        worker.link.there = how
        worker.seconds = HOLDS_ON - 0.1
        assert worker.who(key) == "app"
        with pytest.raises(Failure) as failed:
            worker.who(other)
        assert failed.value.kind is Kind.UNVERIFIABLE
        worker.seconds = HOLDS_ON
        with pytest.raises(Failure) as failed:
            worker.who(key)
        assert failed.value.kind is Kind.UNVERIFIABLE
    worker.link.there = "up"
    assert [worker.who(key), worker.who(other)] == ["app", "other"]


def test_a_known_expiry_holds_without_redis(store: RedisKeyStore, worker: Worker) -> None:
    _, key = store.create("app", [], int(time.time()), int(time.time()) + 1)
    assert worker.who(key) == "app"
    worker.link.there = "gone"

    def refused() -> bool:
        try:
            return worker.who(key) == ""
        except Failure as failure:
            return failure.kind is Kind.UNAUTHENTICATED

    wait_until(refused, "it expires", LONG)


def test_a_key_that_was_deleted_is_not_remembered(store: RedisKeyStore, client: Redis, worker: Worker) -> None:
    _, key = store.create("app", [], int(time.time()))
    assert worker.who(key) == "app"
    client.flushall()
    worker.seconds += BELIEVED
    with pytest.raises(Failure, match="unknown"):
        worker.who(key)
    worker.link.there = "gone"
    with pytest.raises(Failure) as failed:
        worker.who(key)
    assert failed.value.kind is Kind.UNVERIFIABLE


def test_what_is_remembered_is_bounded(store: RedisKeyStore, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "REMEMBERED_KEYS", 5)
    keys = [store.create(f"c{n}", [], 1)[1] for n in range(20)]
    for key in keys * 2:
        worker.who(key)
        worker.who(keys[0])
    assert len(worker.method._known) == 5
    assert digest_of(keys[0].encode()) in worker.method._known  # frequently used keys stay


def test_two_credentials_that_wait_are_both_looked_up_once(store: RedisKeyStore, worker: Worker) -> None:
    _, key = store.create("app", [], 1)
    other = RedisKeyMethod(worker.link, b"x-other", time.time, lambda: worker.seconds)
    request = shown(key)
    fields = [*shown(new_key()[1], b"x-other").fields, *request.fields]
    request.head = RequestHead(b"".join(field.line + b"\r\n" for field in fields), 100)
    guard = Authenticate([other, worker.method])
    rounds = 0
    while guard(request) is not None:
        rounds += 1
    assert rounds == worker.link.asked == 2
    assert request.identity is not None and request.identity.consumer == "app"


# ---- gateways


def link(shop: Shop) -> Any:
    return shop.gateway.gateway._guards._redis


def test_every_gateway_sees_what_the_commands_do(rig: Rig, server: RedisServer, tmp_path: Path) -> None:
    one = Shop(rig, tmp_path, server)
    other = rig.gateway(one.services, one.routes, **one.top)
    connection = rig.connect(other)
    key = one.key()
    assert one.get("/any", key).status == 200
    assert connection.request("GET", "/any", ("X-API-Key", key)).status == 200
    one.store.revoke(one.store.all()[0].id, int(time.time()))
    for ask in (
        lambda: one.get("/any", key).status == 401,
        lambda: connection.request("GET", "/any", ("X-API-Key", key)).status == 401,
    ):
        wait_until(ask, "the key is refused", LONG)
    one.store.close()


def test_while_redis_is_gone_known_keys_go_on_and_unknown_ones_are_not_judged(
    rig: Rig, server: RedisServer, tmp_path: Path
) -> None:
    shop = Shop(rig, tmp_path, server)
    known, unseen = shop.key(), shop.key("other")
    assert shop.get("/any", known).status == 200
    server.stop()
    wait_until(lambda: not link(shop).up, "Redis is gone", LONG)
    for _ in range(3):
        assert shop.get("/any", known).status == 200
        for key in (unseen, new_key()[1]):
            answer = shop.get("/any", key)
            assert answer.status == 503 and not answer.all("www-authenticate")
    assert shop.get("/any").status == 401
    assert shop.get("/open").status == 200
    server.start()
    wait_until(lambda: link(shop).up, "Redis is back", LONG)
    # Redis lost its data: these keys no longer exist.
    wait_until(lambda: shop.get("/any", known).status == 401, "Redis is asked again", LONG)
    again = shop.key()
    assert shop.get("/any", again).status == 200
    shop.store.close()


def test_a_redis_that_hangs_is_not_waited_for(rig: Rig, server: RedisServer, tmp_path: Path) -> None:
    shop = Shop(rig, tmp_path, server)
    known, unseen = shop.key(), shop.key("other")
    assert shop.get("/any", known).status == 200
    server.freeze()
    assert shop.get("/any", unseen).status == 503
    wait_until(lambda: not link(shop).up, "Redis is gone", LONG)
    assert [shop.get("/any", unseen).status for _ in range(20)] == [503] * 20
    assert [shop.get("/any", known).status for _ in range(20)] == [200] * 20
    server.thaw()
    wait_until(lambda: link(shop).up, "Redis is back", LONG)
    assert shop.get("/any", unseen).status == 200
    shop.store.close()


def test_a_redis_beside_keys_in_a_file_changes_nothing_until_it_is_named(
    rig: Rig, server: RedisServer, tmp_path: Path
) -> None:
    shop = Shop(rig, tmp_path)
    key, later = shop.key(), shop.key("later")
    shop.gateway.reload(shop.services, shop.routes, **shop.top, redis=server.url)
    assert shop.get("/any", key).status == 200
    assert isinstance(shop.store, KeyStore)
    with Redis(port=server.port) as client:
        shared = RedisKeyStore(client)
        first = shop.store.export()[0]
        assert shared.put(*first) and not shared.put(*first)
    shop.gateway.reload(shop.services, shop.routes, **{**shop.top, "keys": {}}, redis=server.url)
    for each in (key, later):
        assert shop.get("/any", each).status == (200 if first[0].id in each else 401)
    shop.store.close()


def test_an_upload_waits_for_the_look_up_and_arrives_whole(rig: Rig, server: RedisServer, tmp_path: Path) -> None:
    shop = Shop(rig, tmp_path, server)
    body = bytes(range(256)) * 1000
    answer = shop.client.request("POST", "/any", ("X-API-Key", shop.key()), body=body)
    assert answer.status == 200
    assert shop.upstream.requests[-1].body == body
    shop.store.close()
