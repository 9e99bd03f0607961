"""Users of a file, and API keys of the configuration and in the query, through a running gateway."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from passerelle.config import inspect_text, load_text
from passerelle.config.checks import warnings
from passerelle.errors import CannotStart
from tests.caching.redis_server import RedisServer
from tests.integration.test_sessions import server
from tests.requirements import needs
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok
from tests.support.wire import wait_until

__all__ = ["server"]

SALT = bcrypt.gensalt(4)
KEY = "0123456789abcdef-fixed"
OTHER = "another-key-of-the-file"


def line(name: str, password: str) -> str:
    return f"{name}:{bcrypt.hashpw(password.encode(), SALT).decode()}\n"


def basic(name: str, password: str) -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Shop:
    """``/open``, ``/in`` (a password), ``/key`` (a key), ``/either``, ``/stored`` (a key, cached), ``/whole``."""

    def __init__(self, rig: Rig, folder: Path, **top: Any) -> None:
        self.users = folder / "users"
        self.users.write_text(line("ada", "right") + line("Ren\u00e9", "caf\u00e9"))
        self.log = folder / "access.log"
        self.upstream = rig.upstream(
            answering(ok(b"{}", b"Content-Type: application/json", b"Cache-Control: public, max-age=60"))
        )
        self.services = {"u": {"targets": [self.upstream.url]}}
        self.routes: list[dict[str, Any]] = [
            {"path": "/open", "service": "u"},
            {"path": "/in", "service": "u", "auth": ["basic"]},
            {"path": "/key", "service": "u", "auth": ["key"], "require": {"scopes": ["read"]}},
            {"path": "/either", "service": "u", "auth": ["key", "basic"]},
            {"path": "/stored", "service": "u", "auth": ["key"], "cache": {"identity": "consumer"}},
            {"path": "/whole", "auth": ["key"], "compose": {"a": {"service": "u", "path": "/part"}}},
        ]
        fixed = [
            {"owner": "app", "key": KEY, "scopes": ["read"]},
            {"owner": "other", "sha256": hashlib.sha256(OTHER.encode()).hexdigest()},
        ]
        self.top = {
            "basic": {"file": str(self.users), "realm": "shop", "attempts": 3},
            "keys": {"fixed": fixed, "query": "api_key"},
            "access_log": str(self.log),
            **top,
        }
        self.gateway = rig.gateway(self.services, self.routes, **self.top)
        self.client = rig.connect(self.gateway)

    def get(self, path: str, *fields: tuple[str, str]):
        return self.client.request("GET", path, *fields)

    def last(self) -> Any:
        return self.upstream.requests[-1]


@pytest.fixture
def shop(rig: Rig, tmp_path: Path) -> Shop:
    return Shop(rig, tmp_path)


def test_a_user_gets_in_and_the_service_learns_the_name_and_not_the_password(shop: Shop) -> None:
    refused = shop.get("/in")
    assert refused.status == 401
    assert refused.get("www-authenticate") == b'Basic realm="shop", charset="UTF-8"'
    assert shop.get("/in", basic("ada", "right")).status == 200
    request = shop.last()
    assert (request.all("x-consumer"), request.all("x-consumer-auth")) == ([b"ada"], [b"basic"])
    assert request.all("authorization") == []
    assert shop.get("/in", basic("Ren\u00e9", "caf\u00e9")).status == 200
    assert shop.last().all("x-consumer") == [b"Ren%C3%A9"]
    assert shop.get("/in", basic("ada", "wrong")).status == 401
    assert shop.get("/in", basic("eve", "right")).status == 401
    shop.gateway.stop()
    log = shop.log.read_text()
    assert base64.b64encode(b"ada:right").decode() not in log and '"consumer":"ada"' in log


def test_either_credential_is_enough_and_no_password_is_forwarded(shop: Shop) -> None:
    assert shop.get("/either", basic("ada", "right")).status == 200
    assert shop.get("/either", ("X-API-Key", KEY), basic("ada", "right")).status == 200
    assert shop.last().all("x-consumer") == [b"app"]
    assert shop.last().all("authorization") == shop.last().all("x-api-key") == []
    # A route without passwords leaves the field to its service.
    shop.get("/open", basic("a", "b"))
    assert len(shop.last().all("authorization")) == 1


@pytest.mark.parametrize("kind", ["file", pytest.param("redis", marks=needs("redis-server"))])
def test_guesses_are_limited(rig: Rig, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    top = {}
    if kind == "redis":
        shared: RedisServer = request.getfixturevalue("server")
        top = {"redis": shared.url}
    shop = Shop(rig, tmp_path, **top)
    statuses = [shop.get("/in", basic("ada", f"guess {number}")).status for number in range(4)]
    assert statuses == [401, 401, 401, 429]
    refused = shop.get("/in", basic("ada", "right"))
    assert refused.status == 429 and int(refused.get("retry-after") or b"0") >= 1


def test_a_changed_file_is_read_and_one_that_is_wrong_changes_nothing(shop: Shop) -> None:
    assert shop.get("/in", basic("ada", "right")).status == 200
    replacement = shop.users.with_suffix(".new")
    replacement.write_text("ada:plain\n")
    os.replace(replacement, shop.users)
    method = shop.gateway.gateway._guards._basic
    version = method._seen
    wait_until(lambda: method._seen != version, "the file is seen", 10)
    assert shop.get("/in", basic("ada", "right")).status == 200
    replacement.write_text(line("bob", "new"))
    os.replace(replacement, shop.users)
    wait_until(lambda: shop.get("/in", basic("ada", "right")).status in (401, 429), "ada is refused", 10)
    assert shop.get("/in", basic("bob", "new")).status == 200


def test_a_reload_keeps_users_and_applies_other_settings(shop: Shop) -> None:
    assert shop.get("/in", basic("ada", "right")).status == 200
    provider = shop.gateway.gateway._guards._basic
    shop.gateway.reload(shop.services, shop.routes, **shop.top)
    assert shop.gateway.gateway._guards._basic is provider
    assert shop.get("/in", basic("ada", "right")).status == 200
    shop.gateway.reload(
        shop.services, shop.routes, **{**shop.top, "basic": {"file": str(shop.users), "realm": "other"}}
    )
    assert provider._thread._shutdown
    assert shop.get("/in").get("www-authenticate") == b'Basic realm="other", charset="UTF-8"'
    assert shop.get("/in", basic("ada", "right")).status == 200


def test_a_reload_that_fails_changes_neither_attempts_nor_the_bound_of_refreshes(
    shop: Shop, rig: Rig, tmp_path: Path
) -> None:
    page = tmp_path / "404.html"
    page.write_text("missing")
    more: dict[str, Any] = {"basic": {**shop.top["basic"], "attempts": 1000}, "cache": {"refreshes": 1}}
    settings = {**shop.top, **more, "services": shop.services, "routes": shop.routes, "errors": {"404": str(page)}}
    config = load_text(json.dumps(settings))
    page.unlink()  # between the check and its use
    cache = shop.gateway.gateway.context.cache
    assert cache is not None
    before = cache.max_refreshes
    with pytest.raises(CannotStart, match=r"404\.html"):
        rig.loop.call(lambda: shop.gateway.gateway.reload(config))
    assert cache.max_refreshes == before != 1
    statuses = [shop.get("/in", basic("ada", f"guess {number}")).status for number in range(4)]
    assert statuses == [401, 401, 401, 429]
    shop.gateway.reload(shop.services, shop.routes, **{**shop.top, **more})
    assert cache.max_refreshes == 1
    assert shop.get("/in", basic("ada", "guess")).status == 401


def test_keys_of_the_file_need_no_store(shop: Shop) -> None:
    assert shop.get("/key", ("X-API-Key", KEY)).status == 200
    assert shop.last().all("x-consumer") == [b"app"]
    assert shop.get("/key", ("X-API-Key", OTHER)).status == 403
    for wrong in (KEY[:-1], KEY + "x", "", "psr_" + "a" * 54):
        assert shop.get("/key", ("X-API-Key", wrong)).status == 401
    shop.gateway.reload(shop.services, shop.routes, **{**shop.top, "keys": {"fixed": [{"owner": "o", "key": OTHER}]}})
    assert shop.get("/key", ("X-API-Key", KEY)).status == 401


def test_a_key_in_the_query_is_taken_out(shop: Shop) -> None:
    assert shop.get(f"/key?a=1&api_key={KEY}&b=%20").status == 200
    request = shop.last()
    assert request.start == b"GET /key?a=1&b=%20 HTTP/1.1"
    assert KEY.encode() not in request.raw
    assert shop.get(f"/key?api%5Fkey={KEY.replace('-', '%2D')}").status == 200
    assert shop.last().start == b"GET /key HTTP/1.1"
    assert shop.get(f"/whole?api_key={KEY}").status == 200
    assert all(KEY.encode() not in each.raw for each in shop.upstream.requests)
    assert all(b"passerelle-query-key" not in each.raw.lower() for each in shop.upstream.requests)
    # More than one key, a wrong one, and one that would end the line.
    assert shop.get(f"/key?api_key={KEY}&api_key={KEY}").status == 401
    assert shop.get(f"/key?api_key={KEY}", ("X-API-Key", KEY)).status == 401
    assert shop.get("/key?api_key=wrong").status == 401
    assert shop.get(f"/key?api_key={KEY}%0d%0aX-Consumer:%20root").status == 401
    # A route without keys loses it as well, and its service never sees the field.
    assert shop.get(f"/open?api_key={KEY}").status == 200
    assert shop.last().start == b"GET /open HTTP/1.1"
    assert KEY.encode() not in shop.last().raw
    assert shop.get(f"/nowhere?api_key={KEY}").status == 404
    shop.gateway.stop()
    log = shop.log.read_text()
    assert KEY not in log and json.loads(log.splitlines()[0])["target"] == "/key?a=1&b=%20"


def test_a_key_in_the_query_is_no_part_of_the_key_of_a_stored_response(shop: Shop) -> None:
    before = len(shop.upstream.requests)
    for _ in range(3):
        assert shop.get(f"/stored?api_key={KEY}").status == 200
    assert shop.get("/stored", ("X-API-Key", KEY)).status == 200
    assert len(shop.upstream.requests) == before + 1


def test_check_names_the_packages_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passerelle.config.checks.passwords.find_spec", lambda name: None)
    users = tmp_path / "users"
    users.write_text(line("ada", "right") + "bob:plain\n")
    routes = "routes: [{path: /, respond: 200, auth: [basic]}]"
    first, second = inspect_text(f"basic: {{file: {users}}}\n{routes}\n").errors
    assert first.message == "basic needs argon2-cffi and bcrypt: pip install 'passerelle[passwords]'"
    assert second.message.startswith(f"{users}:2: found no hash of a known kind")


def test_check_warns_about_keys_in_queries_weak_hashes_and_plain_http(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(line("ada", "right"))
    config = load_text(
        json.dumps(
            {
                "listen": "0.0.0.0:8080",
                "basic": {"file": str(tmp_path / "users")},
                "keys": {"query": "token", "fixed": [{"owner": "o", "key": KEY}]},
                "services": {"u": {"targets": ["http://127.0.0.1:1"]}},
                "routes": [{"path": "/", "service": "u", "auth": ["basic", "key"]}],
            }
        )
    )
    found = {finding.loc: finding.message for finding in warnings(config)}
    assert found[("keys", "query")].startswith("keys in URLs remain")
    assert found[("basic", "file")].startswith("the hashes of 'ada' are cheap to guess")
    assert found[("basic",)].startswith("without TLS")
