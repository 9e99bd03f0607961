"""Gateways with a faulty Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.caching.redis_server import RedisServer
from tests.chaos.two_gateways import LONG, TwoGateways, serve
from tests.support.bad_redis import BadRedis
from tests.support.upstream import Upstream
from tests.support.wire import wait_until


@pytest.fixture(scope="module")
def _two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoGateways]:
    upstream = Upstream(serve)
    with RedisServer() as server, BadRedis(server.port) as door:
        made = TwoGateways(server, door, upstream, tmp_path_factory.mktemp("gateways"))
        try:
            yield made
        finally:
            made.stop()
            upstream.close()


@pytest.fixture
def two(_two: TwoGateways) -> Iterator[TwoGateways]:
    wait_until(_two.is_used, "Redis is used", LONG)
    yield _two
    _two.door.behave()
