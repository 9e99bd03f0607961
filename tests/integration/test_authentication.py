"""Authentication and authorization through a running gateway: the same wherever keys are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from passerelle.security.credentials.api_keys import KeyStore
from passerelle.security.credentials.redis_api_keys import RedisKeyStore
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok
from tests.support.wire import wait_until


class Shop:
    """A gateway with keys: ``/open``, ``/any`` (a key), ``/read`` (a scope), ``/app`` (a consumer)."""

    def __init__(self, rig: Rig, folder: Path, server: RedisServer | None = None) -> None:
        self.upstream = rig.upstream(answering(ok()))
        self.store: KeyStore | RedisKeyStore
        if server is None:
            self.top: dict[str, Any] = {"keys": {"store": str(folder / "keys.db")}}
            self.store = KeyStore(folder / "keys.db")
        else:
            self.top = {"keys": {}, "redis": server.url}
            self.store = RedisKeyStore(Redis(port=server.port))
        self.log = folder / "access.log"
        routes: list[dict[str, Any]] = [
            {"path": "/open", "service": "u"},
            {"path": "/any", "service": "u", "auth": ["key"]},
            {"path": "/read", "service": "u", "auth": ["key"], "require": {"scopes": ["read"]}},
            {"path": "/app", "service": "u", "auth": ["key"], "require": {"consumers": ["app"]}},
            {
                "path": "/limited",
                "service": "u",
                "auth": ["key"],
                "rate_limit": [{"rate": "2/h", "by": "consumer"}, {"rate": "5/h", "by": "address"}],
            },
            {"path": "/whole", "auth": ["key"], "compose": {"a": {"service": "u", "path": "/part"}}},
        ]
        self.services = {"u": {"targets": [self.upstream.url]}}
        self.routes = routes
        self.gateway = rig.gateway(self.services, routes, **self.top, access_log=str(self.log))
        if server is not None:  # until then limits are counted here
            wait_until(lambda: self.gateway.gateway._guards._redis.up, "Redis is there", 20)
        self.client = rig.connect(self.gateway)

    def key(self, owner: str = "app", *scopes: str, expires: int | None = None) -> str:
        return self.store.create(owner, scopes, int(time.time()), expires)[1]

    def get(self, path: str, key: str | None = None, *fields: tuple[str, str]):
        return self.client.request("GET", path, *([("X-API-Key", key)] if key else []), *fields)

    def logged(self) -> str:
        self.gateway.stop()
        return self.log.read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["file", pytest.param("redis", marks=needs("redis-server"))])
def shop(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path):
    server: RedisServer | None = None
    if request.param == "redis":
        server = request.getfixturevalue("server")
        with Redis(port=server.port) as client:
            client.flushall()
    made = Shop(rig, tmp_path, server)
    yield made
    made.store.close()


def test_deny_by_default(shop: Shop) -> None:
    assert shop.get("/open").status == 200
    answer = shop.get("/any")
    assert answer.status == 401
    assert answer.get("www-authenticate") == b'ApiKey realm="passerelle"'
    assert shop.get("/any", shop.key()).status == 200
    assert len(shop.upstream.requests) == 2


def test_the_identity_reaches_the_service_and_cannot_come_from_outside(shop: Shop) -> None:
    key = shop.key("app", "b", "a")
    forged = [
        *(("X-Consumer", "root"), ("X-Consumer-Scopes", "all"), ("x_consumer", "root"), ("X-Consumer_Auth", "root")),
        *(("X-Consumer-Email", "root"), ("Connection", "x-consumer, X-Consumer-Scopes, x-api-key")),
    ]
    shop.get("/any", key, *forged)
    shop.get("/open", None, *forged)
    known, unknown = shop.upstream.requests
    assert known.all("x-consumer") == [b"app"]
    assert known.all("x-consumer-scopes") == [b"a b"]
    assert known.all("x-consumer-auth") == [b"key"]
    assert b"root" not in known.raw and b"root" not in unknown.raw
    assert not unknown.all("x-consumer")


def test_a_key_goes_neither_upstream_nor_into_the_log(shop: Shop) -> None:
    key = shop.key()
    assert shop.get("/any", key).status == 200
    assert shop.get("/any", key[:-1] + ("A" if key[-1] != "A" else "B")).status == 401
    assert key[15:-1].encode() not in shop.upstream.requests[0].raw
    log = shop.logged()
    assert key[15:-1] not in log
    assert [json.loads(line).get("why") for line in log.splitlines()] == [None, "unknown API key"]


def test_scopes_and_consumers(shop: Shop) -> None:
    reader, other = shop.key("other", "read"), shop.key("app", "write")
    assert shop.get("/read", reader).status == 200
    refused = shop.get("/read", other)
    assert refused.status == 403
    assert json.loads(refused.body).keys() == {"type", "title", "status", "kind", "request_id"}
    assert shop.get("/app", other).status == 200
    assert shop.get("/app", reader).status == 403
    assert len(shop.upstream.requests) == 2
    why = [json.loads(line).get("why") for line in shop.logged().splitlines()]
    assert why == [None, "'app' lacks the scope read", None, "'other' is not an allowed consumer"]


def test_parts_of_a_composition_are_requested_as_its_consumer(shop: Shop) -> None:
    assert shop.get("/whole").status == 401
    key = shop.key()
    shop.get("/whole", key, ("X-Consumer", "root"))
    (request,) = shop.upstream.requests
    assert request.all("x-consumer") == [b"app"]
    assert key.encode() not in request.raw


def test_a_revoked_key_is_refused_within_a_second(shop: Shop) -> None:
    key = shop.key()
    assert shop.get("/any", key).status == 200
    shop.store.revoke(shop.store.all()[0].id, int(time.time()))
    started = time.monotonic()
    wait_until(lambda: shop.get("/any", key).status == 401, "the key is refused", 5)
    assert time.monotonic() - started < 2.5  # a second at most, and what a busy machine adds


def test_an_expired_key_is_refused(shop: Shop) -> None:
    assert shop.get("/any", shop.key(expires=int(time.time()) - 1)).status == 401


def test_last_use_is_written_at_the_end_at_the_latest(shop: Shop) -> None:
    shop.get("/any", shop.key())
    shop.gateway.stop()
    assert abs((shop.store.all()[0].last_used or 0) - time.time()) < 30


def test_consumers_have_their_own_limits_and_guessing_is_limited_by_address(shop: Shop) -> None:
    one, two = shop.key("one"), shop.key("two")
    assert [shop.get("/limited", one).status for _ in range(3)] == [200, 200, 429]
    assert shop.get("/limited", two).status == 200
    assert shop.get("/limited").status == 401
    assert shop.get("/limited", two).status == 429  # the address has asked five times
    assert shop.get("/limited").status == 429


def test_an_unauthenticated_upload_gets_no_100_continue(shop: Shop) -> None:
    shop.client.send(b"POST /any HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert shop.client.read_response("POST").status == 401
    assert not shop.upstream.heads


def test_a_reload_forgets_neither_keys_nor_what_limits_have_counted(shop: Shop, rig: Rig) -> None:
    key = shop.key()
    assert [shop.get("/limited", key).status for _ in range(3)] == [200, 200, 429]
    gateway = shop.gateway.gateway
    config = gateway._config
    renamed = [route for route in config.routes if route.path != "/open"]
    rig.loop.call(lambda: gateway.reload(config.model_copy(update={"routes": tuple(renamed)})))
    assert shop.get("/open").status == 404
    assert shop.get("/any", key).status == 200
    assert shop.get("/limited", key).status == 429
    shop.store.revoke(shop.store.all()[0].id, int(time.time()))
    wait_until(lambda: shop.get("/any", key).status == 401, "the key is refused", 5)


def test_the_log_names_the_consumer_if_there_is_one(shop: Shop) -> None:
    key = shop.key('O"Brien', "read")
    shop.get("/read", key)
    shop.get("/read")
    lines = [json.loads(line) for line in shop.logged().splitlines()]
    assert [line.get("consumer") for line in lines] == ['O"Brien', None]


@pytest.mark.parametrize("path", ["/open", "/any", "/whole"])
def test_no_spelling_of_the_key_goes_upstream_on_any_route(rig: Rig, tmp_path: Path, path: str) -> None:
    shop = Shop(rig, tmp_path)
    key, second = shop.key(), shop.key()
    lines = [("X-API-Key", key), ("X_API_Key", second), ("x-api_key", f"a, {second}"), ("X-API-Keys", "kept")]
    shop.client.request("GET", path, *lines)
    (request,) = shop.upstream.requests
    assert b"psr_" not in request.raw and request.get("x-api-keys") == b"kept"
    shop.store.close()


def test_a_key_of_another_form_goes_upstream_on_an_open_route(rig: Rig, tmp_path: Path) -> None:
    shop = Shop(rig, tmp_path)
    assert shop.get("/open", "the-service-s-own").status == 200
    assert shop.upstream.requests[0].get("x-api-key") == b"the-service-s-own"
    shop.store.close()
