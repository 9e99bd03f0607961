"""A gateway that has missed invalidations over Redis does not serve what it stored before them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.caching.redis_server import RedisServer
from tests.proxy_cache.test_redis_tier import PATIENCE, connected, counting, get, settings, stored
from tests.requirements import needs
from tests.support.bad_redis import BadRedis
from tests.support.gateways import Rig, Running
from tests.support.wire import wait_until

pytestmark = needs("redis-server")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def put(gateway: Running, target: str = "/x") -> None:
    with gateway.connect() as client:
        assert client.request("PUT", target, body=b"new").status == 200


def a_pair(rig: Rig, redis: RedisServer) -> tuple[Running, Running]:
    """Two gateways that share a Redis; the second has stored the first version."""
    upstream = rig.upstream(counting)
    one, two = (rig.forward(upstream, route={"cache": {}}, redis=redis.url) for _ in range(2))
    for gateway in one, two:
        wait_until(lambda gateway=gateway: connected(gateway), "connected to Redis", PATIENCE)
    assert get(rig, two)[0] == b"1"
    return one, two


def test_before_its_first_connection(rig: Rig, redis: RedisServer) -> None:
    upstream = rig.upstream(counting)
    with BadRedis(redis.port) as door:
        door.hang_up()
        late = rig.forward(upstream, route={"cache": {}}, redis=door.url)
        other = rig.forward(upstream, route={"cache": {}}, redis=redis.url)
        wait_until(lambda: connected(other), "connected to Redis", PATIENCE)
        assert get(rig, late)[0] == b"1"
        assert get(rig, late) == (b"1", b"passerelle; hit"), "it goes on with its own memory"
        put(other)
        door.behave()
        wait_until(lambda: connected(late), "connected to Redis", PATIENCE)
        assert get(rig, late)[0] != b"1"
        late.stop()


def test_after_a_reload_with_another_redis(rig: Rig, redis: RedisServer) -> None:
    upstream = rig.upstream(counting)
    with RedisServer() as elsewhere:
        moving = rig.forward(upstream, route={"cache": {}}, redis=elsewhere.url)
        other = rig.forward(upstream, route={"cache": {}}, redis=redis.url)
        for gateway in moving, other:
            wait_until(lambda gateway=gateway: connected(gateway), "connected to Redis", PATIENCE)
        assert get(rig, moving)[0] == b"1"
        wait_until(lambda: stored(moving), "shared", PATIENCE)
        put(other)
        moving.reload(*settings(upstream), redis=redis.url)
        wait_until(lambda: connected(moving), "connected to the other Redis", PATIENCE)
        assert get(rig, moving)[0] != b"1"


@pytest.mark.parametrize("before", [1, 20])
def test_when_redis_starts_its_counters_again(rig: Rig, redis: RedisServer, before: int) -> None:
    """Others publish further invalidations, with numbers that this gateway has received already."""
    one, two = a_pair(rig, redis)
    for _ in range(before):
        put(one, "/other")
    with Redis(port=redis.port) as client:
        wait_until(lambda: int(client.get("passerelle:1:default:sequence") or 0) == before, "all published", PATIENCE)
        client.flushall()
    put(one)
    over = threading.Event()

    def steadily() -> None:
        while not over.wait(0.2):
            put(one, "/other")

    others = threading.Thread(target=steadily)
    if before > 1:  # with one, the numbers agree from now on, and nothing more is published
        others.start()
    try:
        wait_until(lambda: get(rig, two)[0] != b"1", "the gateway looks again", PATIENCE)
    finally:
        over.set()
        if before > 1:
            others.join(PATIENCE)


@pytest.mark.parametrize("junk", ["", "junk", "7", "1 a D", "x y z \xff", "99999999 a D b", "-1 a D b", "0 a D b"])
def test_an_invalid_message_does_not_end_the_subscription(rig: Rig, redis: RedisServer, junk: str) -> None:
    one, two = a_pair(rig, redis)
    with Redis(port=redis.port) as client:
        for channel in "invalid", "flights":
            client.publish(f"passerelle:1:default:{channel}", junk.encode("latin-1"))
    put(one)
    wait_until(lambda: get(rig, two)[0] != b"1", "the gateway receives the invalidation", PATIENCE)
