"""Logging in and out through a running gateway: the same wherever sessions are kept."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from passerelle.access.login import MAX_BODY, credentials, parse_verdict
from passerelle.errors import Failure
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support.gateways import Rig
from tests.support.upstream import Connection, ok
from tests.support.wire import Response, wait_until

JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
USERS: dict[str, Any] = {
    "ada": {"user_id": "1", "roles": ["customer"]},
    "root": {"user_id": 2, "roles": ["admin", "customer"]},
}


def status(code: int, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (code, len(body), body)


def serve(conn: Connection) -> None:
    """Knows the users above, whose password is ``right``; all else is answered with 200."""
    while True:
        request = conn.read_request()
        if not request.start.startswith(b"POST /verify "):
            conn.send(status(200))
            continue
        said = json.loads(request.body)
        if said["username"] == "broken":
            conn.send(status(500))
        elif said["username"] == "odd":
            conn.send(ok(b'{"user": 1}'))
        elif said["username"] in USERS and said["password"] == "right":
            conn.send(ok(json.dumps(USERS[said["username"]]).encode()))
        else:
            conn.send(status(401))


class Shop:
    """``/open``, ``/me`` (a session), ``/admin`` (the role), ``/either`` (a session or a key)."""

    def __init__(self, rig: Rig, folder: Path, redis_url: str | None = None, **sessions: Any) -> None:
        self.rig = rig
        self.file = folder / "sessions.db"
        self.log = folder / "access.log"
        self.upstream = rig.upstream(serve)
        self.services: dict[str, Any] = {"u": {"targets": [self.upstream.url], "eject": "off"}}
        self.routes: list[dict[str, Any]] = [
            {"path": "/login", "login": {"service": "u", "path": "/verify"}},
            {"path": "/logout", "logout": True},
            {"path": "/open", "service": "u"},
            {"path": "/me", "service": "u", "auth": ["session"]},
            {"path": "/admin", "service": "u", "auth": ["session"], "require": {"roles": ["admin"]}},
            {"path": "/either", "service": "u", "auth": ["key", "session"]},
            {"path": "/whole", "auth": ["session"], "compose": {"a": {"service": "u", "path": "/part"}}},
        ]
        self.top: dict[str, Any] = {
            "sessions": sessions if redis_url else {"store": str(self.file), **sessions},
            "keys": {"store": str(folder / "keys.db")},
            "access_log": str(self.log),
        }
        if redis_url:
            self.top["redis"] = redis_url
        self.gateway = rig.gateway(self.services, self.routes, **self.top)
        self.client = rig.connect(self.gateway)

    def login(self, name: str, password: str = "right", *fields: tuple[str, str]) -> Response:
        body = json.dumps({"username": name, "password": password}).encode()
        return self.client.request("POST", "/login", JSON, *fields, body=body)

    def ask(self, method: str, path: str, identity: str, *fields: tuple[str, str]) -> Response:
        return self.client.request(method, path, ("Cookie", f"__Host-session={identity}"), *fields)

    def asked(self) -> list[Any]:
        """What reached the service but for passwords."""
        return [request for request in self.upstream.requests if not request.start.startswith(b"POST /verify ")]


def session(answer: Response) -> str:
    """The id that a login gave."""
    assert answer.status == 200
    (line,) = [line for line in answer.all("set-cookie") if line.startswith(b"__Host-session=")]
    return line.partition(b"=")[2].partition(b";")[0].decode()


def token(answer: Response) -> tuple[str, str]:
    said: str = json.loads(answer.body)["csrf_token"]
    return "X-CSRF-Token", said


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["file", pytest.param("redis", marks=needs("redis-server"))])
def shop(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path) -> Shop:
    if request.param == "file":
        return Shop(rig, tmp_path)
    server: RedisServer = request.getfixturevalue("server")
    with redis.Redis(port=server.port) as client:
        client.flushall()
    return Shop(rig, tmp_path, server.url)


@pytest.fixture
def of_file(rig: Rig, tmp_path: Path) -> Shop:
    return Shop(rig, tmp_path)


def test_a_login_gives_a_cookie_that_holds(shop: Shop) -> None:
    assert shop.client.request("GET", "/me").status == 401
    answer = shop.login("ada")
    said = json.loads(answer.body)
    assert (said["user"], said["roles"], said["expires_in"]) == ("1", ["customer"], 43200)
    assert answer.get("cache-control") == b"no-store"
    own, readable = answer.all("set-cookie")
    assert own.endswith(b"; Path=/; SameSite=Lax; Max-Age=43200; Secure; HttpOnly")
    assert readable == b"__Host-session-csrf=%b; Path=/; SameSite=Lax; Max-Age=43200; Secure" % (
        said["csrf_token"].encode()
    )
    assert shop.ask("GET", "/me", session(answer)).status == 200
    (request,) = shop.asked()
    assert request.all("x-consumer") == [b"1"]
    assert request.all("x-consumer-auth") == [b"session"]
    assert request.all("x-consumer-roles") == [b"customer"]


def test_the_service_sees_other_cookies_only(shop: Shop) -> None:
    identity = session(shop.login("ada"))
    cookies = f"a=1; __Host-session={identity}; __Host-session-csrf=x; b=2"
    for path in ("/me", "/whole"):
        assert shop.client.request("GET", path, ("Cookie", cookies), ("X-Consumer-Roles", "admin")).status == 200
    for request in shop.asked():
        assert request.all("cookie") == [b"a=1; b=2"]
        assert request.all("x-consumer-roles") == [b"customer"]
        assert identity.encode() not in request.raw


def test_no_route_sends_the_session_upstream(shop: Shop) -> None:
    identity = session(shop.login("ada"))
    sent = [("Cookie", f"__Host-session={identity}; b=2"), ("cookie", f" __Host-session={identity}")]
    assert shop.client.request("GET", "/open", *sent).status == 200
    (request,) = shop.asked()
    assert request.all("cookie") == [b"b=2"]
    assert identity.encode() not in request.raw


def test_roles(shop: Shop) -> None:
    customer, admin = session(shop.login("ada")), session(shop.login("root"))
    assert shop.ask("GET", "/admin", customer).status == 403
    assert shop.ask("GET", "/admin", admin).status == 200
    assert shop.asked()[0].all("x-consumer-roles") == [b"admin customer"]


def test_forms(shop: Shop) -> None:
    answer = shop.client.request("POST", "/login", FORM, body=b"username=ada&password=right")
    assert answer.status == 200
    asked = json.loads(shop.upstream.requests[0].body)
    assert asked == {"username": "ada", "password": "right"}


def test_a_body_in_pieces_and_after_the_head(shop: Shop) -> None:
    shop.client.send(
        b"POST /login HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for piece in (b'{"username":', b'"ada","password"', b':"right"}'):
        shop.client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    shop.client.send(b"0\r\n\r\n")
    assert shop.client.read_response("POST").status == 200
    assert shop.login("ada").status == 200  # the connection goes on


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b'{"username": "ada"}'),
        ("application/json", b'{"username": "ada", "password": 1}'),
        ("application/json", b'{"username": "", "password": "right"}'),
        ("application/json", json.dumps({"username": "ada", "password": "x" * 1025}).encode()),
        ("text/plain", b'{"username": "ada", "password": "right"}'),
        ("application/x-www-form-urlencoded", b"username=ada&username=root&password=right"),
        ("application/x-www-form-urlencoded", b"username=ada&password=%FF"),
        ("application/x-www-form-urlencoded", b"username=\xff&password=1"),
    ],
)
def test_what_is_no_login(shop: Shop, content_type: str, body: bytes) -> None:
    answer = shop.client.request("POST", "/login", ("Content-Type", content_type), body=body)
    assert answer.status == 400
    assert shop.upstream.requests == []
    with pytest.raises(Failure):
        credentials(content_type.encode(), body)


def test_a_body_that_is_too_long(shop: Shop) -> None:
    assert shop.client.request("POST", "/login", JSON, body=b" " * (MAX_BODY + 1)).status == 413


def test_other_methods(shop: Shop) -> None:
    for path in ("/login", "/logout"):
        answer = shop.client.request("GET", path)
        assert (answer.status, answer.get("allow")) == (405, b"POST")


def test_five_wrong_passwords(shop: Shop) -> None:
    for _ in range(5):
        answer = shop.login("ada", "wrong")
        assert answer.status == 401
        assert answer.get("www-authenticate") == b'Session realm="passerelle"'
        assert not answer.all("set-cookie")
    assert len(shop.upstream.requests) == 5
    answer = shop.login("ada", "right")
    assert answer.status == 429
    assert 1 <= int(answer.get("retry-after") or b"0") <= 180
    assert len(shop.upstream.requests) == 5  # no request reaches the service
    assert shop.login("root").status == 200
    shop.gateway.reload(shop.services, [*shop.routes, {"path": "/new", "service": "u"}], **shop.top)
    assert shop.login("ada", "right").status == 429


def test_a_service_that_fails_costs_no_attempt(shop: Shop) -> None:
    for _ in range(7):
        assert shop.login("broken").status == 502
        assert shop.login("odd").status == 502


def test_a_new_login_ends_the_session_before_it(shop: Shop) -> None:
    first = session(shop.login("ada"))
    second = session(shop.login("ada", "right", ("Cookie", f"__Host-session={first}")))
    assert shop.ask("GET", "/me", first).status == 401
    assert shop.ask("GET", "/me", second).status == 200
    planted = "A" * 43
    assert session(shop.login("ada", "right", ("Cookie", f"__Host-session={planted}"))) != planted


def test_logout(shop: Shop) -> None:
    answer = shop.login("ada")
    identity, csrf = session(answer), token(answer)
    assert shop.ask("POST", "/logout", identity).status == 403
    assert shop.ask("GET", "/me", identity).status == 200
    out = shop.ask("POST", "/logout", identity, csrf)
    assert out.status == 204
    assert all(b"; Max-Age=0" in line for line in out.all("set-cookie")) and len(out.all("set-cookie")) == 2
    assert shop.ask("GET", "/me", identity).status == 401
    assert shop.ask("POST", "/logout", identity).status == 204
    assert shop.client.request("POST", "/logout").status == 204


def test_forged_requests(shop: Shop) -> None:
    answer = shop.login("ada")
    identity, csrf = session(answer), token(answer)
    evil = ("Origin", "https://evil.example")
    assert shop.ask("POST", "/me", identity).status == 403
    assert shop.ask("POST", "/me", identity, csrf, evil).status == 403
    assert shop.asked() == []
    assert shop.ask("POST", "/me", identity, csrf, ("Origin", "https://gw")).status == 200
    assert shop.ask("GET", "/me", identity, evil).status == 200
    assert shop.ask("POST", "/logout", identity, csrf, evil).status == 403
    assert shop.login("ada", "right", evil).status == 403


def test_a_key_beside_a_session_needs_no_token(shop: Shop, tmp_path: Path) -> None:
    from passerelle.security.credentials.api_keys import KeyStore

    store = KeyStore(tmp_path / "keys.db")
    key = store.create("app", (), 1)[1]
    store.close()
    identity = session(shop.login("ada"))
    assert shop.ask("POST", "/either", identity).status == 403
    assert shop.ask("POST", "/either", identity, ("X-API-Key", key)).status == 200
    assert shop.asked()[0].all("x-consumer") == [b"app"]
    assert not shop.asked()[0].all("cookie")


def test_workers_share_sessions(shop: Shop) -> None:
    other = shop.rig.gateway(shop.services, shop.routes, **{**shop.top, "access_log": "off"})
    client = shop.rig.connect(other)
    answer = shop.login("ada")
    cookie = ("Cookie", f"__Host-session={session(answer)}")
    assert client.request("GET", "/me", cookie).status == 200
    assert shop.client.request("POST", "/logout", cookie, token(answer)).status == 204
    wait_until(lambda: client.request("GET", "/me", cookie).status == 401, "the logout is seen", 20)


def test_the_end_of_a_session(of_file: Shop) -> None:
    shop = of_file
    identity = session(shop.login("ada"))
    assert shop.ask("GET", "/me", identity).status == 200
    db = sqlite3.connect(shop.file, isolation_level=None)
    db.execute("UPDATE sessions SET created = created - 43200")
    db.close()
    wait_until(lambda: shop.ask("GET", "/me", identity).status == 401, "the session is over", 20)


def test_uses_are_written(of_file: Shop) -> None:
    shop = of_file
    identity = session(shop.login("ada"))
    assert shop.ask("GET", "/me", identity).status == 200
    shop.gateway.stop()
    db = sqlite3.connect(shop.file)
    ((created, used),) = db.execute("SELECT created, used FROM sessions").fetchall()
    db.close()
    assert used > created


def test_sessions_survive_a_restart(shop: Shop) -> None:
    identity = session(shop.login("ada"))
    shop.gateway.stop()
    again = shop.rig.gateway(shop.services, shop.routes, **{**shop.top, "access_log": "off"})
    answer = shop.rig.connect(again).request("GET", "/me", ("Cookie", f"__Host-session={identity}"))
    assert answer.status == 200


def test_neither_passwords_nor_cookies_are_logged_or_kept(shop: Shop, tmp_path: Path) -> None:
    identity = session(shop.login("ada"))
    assert shop.login("ada", "hunter2").status == 401
    assert shop.ask("POST", "/me", identity).status == 403
    shop.gateway.stop()
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert b"hunter2" not in content and identity.encode() not in content, file
    reasons = [json.loads(line).get("why") for line in shop.log.read_text().splitlines()]
    assert reasons == [
        None,
        "the wrong password for 'ada', or no such user",
        "a session of '1', but it has no CSRF token",
    ]


def test_a_client_that_leaves(shop: Shop) -> None:
    client = shop.rig.connect(shop.gateway)
    body = json.dumps({"username": "ada", "password": "right"}).encode()
    head = f"POST /login HTTP/1.1\r\nHost: gw\r\n{JSON[0]}: {JSON[1]}\r\nContent-Length: {len(body)}\r\n\r\n"
    client.send(head.encode() + body)
    client.close()
    wait_until(lambda: len(shop.upstream.requests) == 1 or shop.login("ada").status == 200, "it goes on", 20)
    assert shop.login("root").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"user_id": ""}',
        b'{"user_id": true}',
        b'{"user_id": "1", "roles": "admin"}',
        b'{"user_id": "1", "roles": ["a b"]}',
        b'{"user_id": "1", "roles": [1]}',
        json.dumps({"user_id": "x" * 2000}).encode(),
    ],
)
def test_verdicts_without_an_identity_are_failures(body: bytes) -> None:
    with pytest.raises(Failure):
        parse_verdict(200, body)
