"""A gateway that did not hear what others told each other over Redis does not go by what it holds from before that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.caching.redis_server import RedisServer
from tests.gateway.test_cache_redis import PATIENCE, connected, counting, get, settings, stored
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
