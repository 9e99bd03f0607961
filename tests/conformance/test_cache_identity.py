"""A response to one client is never served to another one, whatever identifies them (RFC 9111 §3.5)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OctKey
from joserfc.jwt import encode

from passerelle.security.credentials.api_keys import KeyStore
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support.client import Client
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response, wait_until

SECRET = "0123456789abcdef0123456789abcdef"
SHARING = ["public, max-age=60", "s-maxage=60", "max-age=60, must-revalidate"]
OWN = ["max-age=60", "max-age=60, proxy-revalidate", "max-age=60, immutable", "max-age=60, stale-if-error=60"]
TOLD = ("authorization", "x-consumer", "x-consumer-scopes", "cookie", "x-forwarded-for")


def telling(*fields: bytes) -> Callable[[Connection], None]:
    """Respond with what identifies the client to the service, and the number of the response."""

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            if request.start.startswith(b"POST /verify "):
                user = json.loads(request.body)["username"]
                conn.send(ok(json.dumps({"user_id": user}).encode(), b"Content-Type: application/json"))
                continue
            told = {name: value.decode() for name in TOLD for value in request.all(name)}
            told["number"] = str(len(conn.upstream.requests))
            conn.send(ok(json.dumps(told).encode(), b"Content-Type: application/json", *fields))

    return script


def told(answer: Response) -> dict[str, str]:
    assert answer.status == 200, answer.raw
    found: dict[str, str] = json.loads(answer.body)
    return found


class Shop:
    """A guarded, cached route ``/d`` and a composed one ``/whole``; clients have a credential of some kind."""

    def __init__(self, rig: Rig, folder: Path, auth: list[str], cache: dict[str, Any], *fields: bytes) -> None:
        self.upstream: Upstream = rig.upstream(telling(*fields))
        self.keys = KeyStore(folder / "keys.db")
        part = {"service": "u", "path": "/part"}
        guard = {"auth": auth} if auth else {}
        login = [{"path": "/login", "login": {"service": "u", "path": "/verify"}}] if "session" in auth else []
        self.gateway: Running = rig.gateway(
            {"u": {"targets": [self.upstream.url]}},
            [
                *login,
                {"path": "/d", "service": "u", "cache": cache, **guard},
                {"path": "/parts", "compose": {"a": {**part, "cache": cache}}, **guard},
                {"path": "/whole", "compose": {"a": part}, "cache": cache, **guard},
            ],
            **({"keys": {"store": str(folder / "keys.db")}} if "key" in auth else {}),
            **({"jwt": {"secret": SECRET, "algorithms": ["HS256"]}} if "jwt" in auth else {}),
            **({"sessions": {"store": str(folder / "sessions.db"), "insecure": True}} if "session" in auth else {}),
        )
        self.client: Client = rig.connect(self.gateway)

    def credential(self, kind: str, who: str, *scopes: str) -> tuple[str, str]:
        """Return a header field that identifies the client."""
        now = int(time.time())
        if kind == "key":
            return "X-API-Key", self.keys.create(who, scopes, now, None)[1]
        if kind == "jwt":
            token = encode(
                {"alg": "HS256"}, {"sub": who, "exp": now + 600, "scope": " ".join(scopes)}, OctKey.import_key(SECRET)
            )
            return "Authorization", f"Bearer {token}"
        if kind == "session":
            body = json.dumps({"username": who, "password": "right"}).encode()
            answer = self.client.request("POST", "/login", ("Content-Type", "application/json"), body=body)
            cookies = [line.decode().partition(";")[0] for line in answer.all("set-cookie")]
            return "Cookie", "; ".join(cookies)
        return {"bearer": ("Authorization", f"Bearer {who}"), "cookie": ("Cookie", f"sid={who}")}[kind]

    def get(self, *fields: tuple[str, str], path: str = "/d") -> dict[str, str]:
        found = told(self.client.request("GET", path, *fields))
        return found if path == "/d" else json.loads(json.dumps(found["a"]))


@pytest.fixture
def shop(rig: Rig, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    made: list[Shop] = []

    def make(*arguments: Any) -> Shop:
        made.append(Shop(rig, tmp_path, *arguments))
        return made[-1]

    yield make
    for each in made:
        each.keys.close()


GUARDED = ["key", "jwt", "session"]


@pytest.mark.parametrize("path", ["/d", "/parts", "/whole"])
@pytest.mark.parametrize("vary", ["X-Consumer", "x-consumer-scopes", "X-Consumer-Auth, Accept"])
@pytest.mark.parametrize("kind", GUARDED)
def test_a_service_may_select_by_the_identity_that_the_gateway_sends(
    shop: Any, kind: str, vary: str, path: str
) -> None:
    fields = (b"Cache-Control: public, max-age=60", b"Vary: " + vary.encode())
    made = shop([kind], {}, *fields)
    ada, bob = made.credential(kind, "ada"), made.credential(kind, "bob")
    assert made.get(ada, path=path)["x-consumer"] == "ada"
    assert made.get(bob, ("X-Consumer", "ada"), path=path)["x-consumer"] == "bob"
    assert made.get(ada, ("X-Consumer", "bob"), path=path)["x-consumer"] == "ada"
    assert len(made.upstream.requests) - 2 * (kind == "session") == 2, "each had it from the store the second time"


@pytest.mark.parametrize("path", ["/d", "/parts", "/whole"])
@pytest.mark.parametrize("control", OWN)
@pytest.mark.parametrize("kind", [*GUARDED, "bearer"])
def test_a_response_to_an_identified_client_is_not_shared(shop: Any, kind: str, control: str, path: str) -> None:
    made = shop([kind] if kind in GUARDED else [], {}, f"Cache-Control: {control}".encode())
    ada, bob = made.credential(kind, "ada"), made.credential(kind, "bob")
    numbers = [made.get(who, path=path)["number"] for who in (ada, bob, ada, bob)]
    assert len(set(numbers)) == 4
    if kind == "bearer":
        open_answer = made.get(path=path)
        assert open_answer["number"] not in numbers
        assert made.get(ada, path=path)["number"] != open_answer["number"], (
            "a response without credentials goes to clients without credentials"
        )
        assert made.get(path=path) == open_answer


@pytest.mark.parametrize("path", ["/d", "/parts", "/whole"])
@pytest.mark.parametrize("control", SHARING)
@pytest.mark.parametrize("kind", [*GUARDED, "bearer"])
def test_the_three_directives_share_it(shop: Any, kind: str, control: str, path: str) -> None:
    made = shop([kind] if kind in GUARDED else [], {}, f"Cache-Control: {control}".encode())
    first = made.get(made.credential(kind, "ada"), path=path)
    assert made.get(made.credential(kind, "bob"), path=path) == first


LIFETIMES: dict[str, tuple[dict[str, Any], tuple[bytes, ...]]] = {
    "heuristic": ({}, (b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT",)),
    "of the route": ({"ttl": "1m"}, ()),
    "of the route, whatever it was": ({"ttl": "1m"}, (b"Cache-Control: max-age=60",)),
    "Expires": ({}, (b"Expires: Fri, 01 Jan 2100 00:00:00 GMT",)),
    "targeted": ({}, (b"CDN-Cache-Control: max-age=60",)),
}


@pytest.mark.parametrize("path", ["/d", "/parts"])
@pytest.mark.parametrize("lifetime", LIFETIMES)
@pytest.mark.parametrize("kind", [*GUARDED, "bearer", "cookie"])
def test_no_lifetime_by_itself_shares_it(shop: Any, kind: str, lifetime: str, path: str) -> None:
    cache, fields = LIFETIMES[lifetime]
    made = shop([kind] if kind in GUARDED else [], cache, *fields)
    who = [made.credential(kind, name) for name in ("ada", "bob", "ada")]
    numbers = [made.get(each, path=path)["number"] for each in who]
    # A service that sets a lifetime itself and whose response depends on a cookie must declare it (Vary).
    meant = kind == "cookie" and not lifetime.startswith(("heuristic", "of the route"))
    if kind == "cookie" and lifetime.endswith("whatever it was"):
        meant = True
    assert len(set(numbers)) == (1 if meant else 3)


@pytest.mark.parametrize("path", ["/d", "/parts", "/whole"])
def test_a_cookie_that_a_service_names_chooses(shop: Any, path: str) -> None:
    made = shop([], {}, b"Cache-Control: max-age=60", b"Vary: Cookie")
    ada, bob = ("Cookie", "sid=ada"), ("Cookie", "sid=bob")
    found = [made.get(*who, path=path) for who in ((ada,), (bob,), (), (ada,), (bob,), ())]
    assert [each.get("cookie") for each in found[:3]] == ["sid=ada", "sid=bob", None]
    assert found[3:] == found[:3]


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-proto", "X-Real-IP", "Forwarded", "X-Request-Id"])
def test_what_depends_on_the_way_of_a_request_answers_no_other(shop: Any, name: str) -> None:
    """Clients at different addresses send the same request: the gateway adds the field that differs."""
    made = shop([], {}, b"Cache-Control: public, max-age=60", b"Vary: Accept, " + name.encode())
    assert made.get()["number"] != made.get()["number"]
    assert made.get(path="/whole")["number"] != made.get(path="/whole")["number"]


@pytest.mark.parametrize("path", ["/d", "/parts", "/whole"])
@pytest.mark.parametrize("vary", [b"Vary: X-User", b"Vary: Accept, x-user"])
def test_a_service_may_select_by_the_identity_that_another_service_states(rig: Rig, vary: bytes, path: str) -> None:
    def judge(conn: Connection) -> None:
        while True:
            who = conn.read_request().get("authorization")
            conn.send(ok(b"", *([b"X-User: " + who] if who else [])))

    def serve(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            who = request.get("x-user") or b"anonymous"
            number = len(conn.upstream.requests)
            fields = b"Content-Type: application/json", b"Cache-Control: public, max-age=60", vary
            conn.send(ok(b'{"who": "%b", "number": %d}' % (who, number), *fields))

    upstream, asked = rig.upstream(serve), rig.upstream(judge)
    ask = {"service": "j", "path": "/", "send_headers": ["Authorization"], "copy_headers": "X-User"}
    guard = {"forward_auth": ask}
    part = {"service": "u", "path": "/part"}
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}, "j": {"targets": [asked.url]}},
        [
            {"path": "/d", "service": "u", "cache": {}, **guard},
            {"path": "/parts", "compose": {"a": {**part, "cache": {}}}, **guard},
            {"path": "/whole", "compose": {"a": part}, "cache": {}, **guard},
        ],
    )
    client = rig.connect(gateway)

    def get(who: str | None, claimed: str | None) -> dict[str, Any]:
        fields = [("Authorization", who)] if who else []
        fields += [("X-User", claimed)] if claimed else []
        found = json.loads(client.request("GET", path, *fields).body)
        answer: dict[str, Any] = found if path == "/d" else found["a"]
        return answer

    seen = {who: get(who, claimed) for who, claimed in ((None, "ada"), ("bob", "ada"), ("ada", None), ("eve", "bob"))}
    assert {who: each["who"] for who, each in seen.items()} == {
        None: "anonymous",
        "bob": "bob",
        "ada": "ada",
        "eve": "eve",
    }
    assert {who: get(who, "ada") for who in seen} == seen, "each from the store"
    assert len(upstream.requests) == 4


class TestForEachConsumer:
    """``identity: consumer``: one stored response per consumer."""

    @pytest.mark.parametrize("path", ["/d", "/parts", "/whole"])
    @pytest.mark.parametrize("control", [*OWN, *SHARING])
    @pytest.mark.parametrize("kind", GUARDED)
    def test_each_consumer_has_its_own_entry(self, shop: Any, kind: str, control: str, path: str) -> None:
        made = shop([kind], {"identity": "consumer"}, f"Cache-Control: {control}".encode())
        who = [made.credential(kind, name) for name in ("ada", "bob", "eve")]
        first = [made.get(each, path=path) for each in who]
        assert [each["x-consumer"] for each in first] == ["ada", "bob", "eve"]
        assert [made.get(each, path=path) for each in who] == first, "from the store"
        assert [made.get(each, ("X-Consumer", "ada"), path=path) for each in who] == first

    def test_keys_of_one_consumer_share_what_both_may_see(self, shop: Any) -> None:
        """Services receive the scopes, too, and may respond accordingly."""
        made = shop(["key"], {"identity": "consumer", "ttl": "1m"})
        one, other = made.credential("key", "ada", "read"), made.credential("key", "ada", "read")
        admin = made.credential("key", "ada", "read", "admin")
        first = made.get(one)
        assert made.get(other) == first
        more = made.get(admin)
        assert more["x-consumer-scopes"] == "admin read" and more != first
        assert [made.get(each) for each in (one, admin)] == [first, more]

    def test_a_key_and_a_token_of_one_name_are_two(self, shop: Any) -> None:
        made = shop(["key", "jwt"], {"identity": "consumer", "ttl": "1m"})
        key, token = made.credential("key", "ada"), made.credential("jwt", "ada")
        first = [made.get(each) for each in (key, token)]
        assert first[0]["number"] != first[1]["number"]
        assert [made.get(each) for each in (key, token)] == first

    def test_a_credential_that_no_guard_has_verified_identifies_no_client(self, shop: Any) -> None:
        made = shop([], {"identity": "consumer"}, b"Cache-Control: max-age=60")
        ada, bob = made.credential("bearer", "ada"), made.credential("bearer", "bob")
        assert len({made.get(each, ("X-Consumer", "ada"))["number"] for each in (ada, bob, ada)}) == 3

    @pytest.mark.parametrize("control", ["private, max-age=60", "no-store"])
    def test_what_is_not_to_be_stored_is_not(self, shop: Any, control: str) -> None:
        made = shop(["key"], {"identity": "consumer"}, f"Cache-Control: {control}".encode())
        ada = made.credential("key", "ada")
        assert made.get(ada)["number"] != made.get(ada)["number"]


@pytest.mark.parametrize("kind", GUARDED)
def test_guards_come_before_what_is_stored(shop: Any, kind: str) -> None:
    made = shop([kind], {}, b"Cache-Control: public, max-age=60")
    made.get(made.credential(kind, "ada"))
    for fields in ((), (("Authorization", "Bearer x"),), (("X-API-Key", "x"),), (("Cookie", "session=x"),)):
        for path in ("/d", "/parts", "/whole"):
            assert made.client.request("GET", path, *fields).status == 401
    assert len(made.upstream.requests) - (kind == "session") == 1


def test_a_key_that_was_revoked_gets_nothing_more_out_of_the_store(shop: Any) -> None:
    made = shop(["key"], {"identity": "consumer", "ttl": "1m"})
    ada = made.credential("key", "ada")
    first = made.get(ada)
    assert made.get(ada) == first
    (key,) = made.keys.all()
    made.keys.revoke(key.id, int(time.time()))
    wait_until(lambda: made.client.request("GET", "/d", ada).status == 401, "it is seen", 20.0)


@needs("redis-server")
@pytest.mark.parametrize(
    ("cache", "fields"),
    [
        ({"identity": "consumer", "ttl": "1m"}, ()),
        ({}, (b"Cache-Control: public, max-age=60", b"Vary: X-Consumer")),
    ],
)
def test_gateways_that_share_a_redis_keep_consumers_apart(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: dict[str, Any], fields: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr("passerelle.caching.redis.store.TIMEOUT", 30.0)  # a response that is not shared in time is lost
    upstream = rig.upstream(telling(*fields))
    store = tmp_path / "keys.db"
    with contextlib.closing(KeyStore(store)) as keys, RedisServer() as redis:
        who = {name: ("X-API-Key", keys.create(name, (), int(time.time()), None)[1]) for name in ("ada", "bob")}
        services = {"u": {"targets": [upstream.url]}}
        routes = [{"path": "/d", "service": "u", "auth": ["key"], "cache": cache}]
        made = [rig.gateway(services, routes, keys={"store": str(store)}, redis=redis.url) for _ in range(2)]
        for gateway in made:
            wait_until(lambda gateway=gateway: gateway.snapshot()["cache"]["redis"]["connected"], "connected", 30.0)
        one, two = (rig.connect(gateway) for gateway in made)
        first = {name: told(one.request("GET", "/d", key)) for name, key in who.items()}
        wait_until(lambda: made[0].snapshot()["cache"]["redis"]["stores"] == 2, "both are shared", 30.0)
        again = {name: told(two.request("GET", "/d", who[name])) for name in ("bob", "ada")}
        assert {name: each["x-consumer"] for name, each in again.items()} == {"ada": "ada", "bob": "bob"}
        assert again == first
        assert len(upstream.requests) == 2
