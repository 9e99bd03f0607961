"""The running shop with logins, from the browser's side: processes, databases, Redis and cookies are real."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis

from shopkit import accounts, database
from shopkit.prepare import prepare
from tests.caching.redis_server import RedisServer
from tests.examples.conftest import SHOP
from tests.requirements import needs
from tests.supervisor.up import Up, up
from tests.support.postgresql import PostgresServer
from tests.support.wire import wait_until

LIMIT = 60.0  # seconds, for all waits: the machine may be busy
CUSTOMER, ADMIN, OTHER = "user_1", "user_2", "user_3"
PASSWORD = "correct horse"
PRODUCT = {"name": "Thé vert", "price": 4.5}


class Browser:
    """Keeps cookies, and sends its session's CSRF token like the shop's own page."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None, **fields: str) -> tuple[int, http.client.HTTPMessage, Any]:
        if self.cookies:
            fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if body is not None:
            fields["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), fields)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        for line in response.headers.get_all("Set-Cookie") or []:
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return response.status, response.headers, json.loads(text) if text else None

    def status(self, method: str, path: str, body: Any = None, **fields: str) -> int:
        return self.ask(method, path, body, **fields)[0]

    def login(self, name: str, password: str = PASSWORD) -> tuple[int, http.client.HTTPMessage, Any]:
        return self.ask("POST", "/login", {"username": name, "password": password})

    @property
    def token(self) -> dict[str, str]:
        return {"X-CSRF-Token": self.cookies["session-csrf"], "Origin": f"http://127.0.0.1:{self.port}"}


class Store:
    """What keeps the shop's data: SQLite files, or the Redis of ``server`` and the PostgreSQL of ``cluster``."""

    def __init__(self, folder: Path, server: RedisServer | None = None, cluster: PostgresServer | None = None) -> None:
        self.server = server
        self.file = folder / "sessions.db"
        names = {"users": "USERS_DATABASE_URL", "products": "PRODUCTS_DATABASE_URL"}
        if server is None or cluster is None:
            self.env = {name: f"sqlite:///{folder / service}.db" for service, name in names.items()}
            self.env["SESSION_STORE"] = str(self.file)
        else:
            self.env = {name: cluster.create_database() for name in names.values()}
            # The services have a Redis database of their own.
            self.env |= {"GATEWAY_REDIS_URL": server.url, "REDIS_URL": server.url[:-1] + "1", "SESSION_STORE": "redis"}

    @property
    def workers(self) -> int:
        """The number of workers; with Redis they share everything."""
        return 1 if self.server is None else 2

    def age(self, seconds: int) -> None:
        """Make every session older."""
        if self.server is None:
            with closing(sqlite3.connect(self.file, timeout=LIMIT, isolation_level=None)) as db:
                db.execute("UPDATE sessions SET created = created - ?, used = used - ?", (seconds, seconds))
            return
        with Redis(port=self.server.port) as client:
            for key in client.keys("passerelle:1:session:*"):
                for name in ("created", "used"):
                    client.hincrby(key, name, -seconds * 1_000_000)

    def content(self) -> list[bytes]:
        """Return every session in its stored form."""
        if self.server is None:
            with closing(sqlite3.connect(self.file, timeout=LIMIT, isolation_level=None)) as db:
                return [repr(row).encode() for row in db.execute("SELECT * FROM sessions")]
        with Redis(port=self.server.port) as client:
            return [key + repr(client.hgetall(key)).encode() for key in client.keys("passerelle:1:session:*")]


REAL = pytest.param("postgresql and redis", marks=needs("initdb", "postgres", "redis-server"))


@pytest.fixture(params=["sqlite", REAL])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield Store(tmp_path)
        return
    with RedisServer() as server:
        yield Store(tmp_path, server, request.getfixturevalue("cluster"))


@pytest.fixture
def shop(tmp_path: Path, store: Store) -> Iterator[Up]:
    """Run ``gateway-secure.yaml`` unchanged except for ports, one instance each, and the number of workers."""
    for service in ("users", "products"):
        prepare(service, store.env[f"{service.upper()}_DATABASE_URL"])
    engine = database.connect(store.env["USERS_DATABASE_URL"])
    for name, role in ((CUSTOMER, "customer"), (ADMIN, "admin"), (OTHER, "customer")):
        assert accounts.give(engine, name, PASSWORD, role)
    engine.dispose()
    config = yaml.safe_load((SHOP / "gateway-secure.yaml").read_text("utf-8"))
    del config["listen"], config["admin"]
    config["workers"] = store.workers
    for service in config["services"].values():
        service |= {"cwd": str(SHOP), "instances": 1}
    with up(tmp_path, yaml.safe_dump(config), env=store.env) as running:
        running.says("listening on", LIMIT)
        running.listening()
        yield running
        assert running.stop(limit=LIMIT) == 0


@pytest.mark.long
@pytest.mark.slow
def test_logins(shop: Up, store: Store, tmp_path: Path) -> None:
    stranger, customer, admin = Browser(shop.port), Browser(shop.port), Browser(shop.port)

    # All clients see products; users and changes require a login.
    assert stranger.status("GET", "/product/1") == 200
    assert stranger.status("GET", "/user/1") == 401
    assert stranger.status("GET", "/api/1/1") == 401
    assert stranger.status("POST", "/product", PRODUCT) == 401
    # The service's endpoint for passwords is not reachable through the gateway.
    asked = {"username": CUSTOMER, "password": PASSWORD}
    for path in ("/internal/verify", "/user/../internal/verify", "/user/%2e%2e/internal/verify"):
        assert stranger.status("POST", path, asked) in (400, 404, 405)

    # Login.
    status, fields, said = customer.login(CUSTOMER)
    assert (status, said["user"], said["roles"]) == (200, "1", ["customer"])
    assert fields["Cache-Control"] == "no-store"
    assert customer.ask("GET", "/user/1")[2]["username"] == CUSTOMER
    assert customer.ask("GET", "/api/1/1")[2]["product"]["price"] == 19.99
    assert admin.login(ADMIN)[0] == 200

    # A customer is refused, an admin is allowed.
    assert customer.status("POST", "/product", PRODUCT, **customer.token) == 403
    status, fields, said = admin.ask("POST", "/product", PRODUCT, **admin.token)
    assert status == 201
    created = fields["Location"]
    assert admin.status("PUT", created, {**PRODUCT, "price": 5.0}, **admin.token) == 200
    assert customer.status("PUT", created, PRODUCT, **customer.token) == 403
    assert customer.status("DELETE", created, **customer.token) == 403
    assert stranger.ask("GET", created)[2]["price"] == 5.0

    # A request sent by a page of another origin in the admin's browser is refused.
    assert admin.status("POST", "/product", PRODUCT) == 403
    assert admin.status("POST", "/product", PRODUCT, **{**admin.token, "Origin": "https://evil.example"}) == 403
    assert admin.status("POST", "/product", PRODUCT, **{**admin.token, "Sec-Fetch-Site": "cross-site"}) == 403
    assert admin.status("POST", "/product", PRODUCT, **{**admin.token, "X-CSRF-Token": "x" * 43}) == 403
    assert admin.status("POST", "/logout", **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert stranger.status("GET", f"/product/{int(created.split('/')[2]) + 1}") == 404

    # After five wrong passwords even the right one is refused; other users are unaffected.
    for _ in range(5):
        assert stranger.login(OTHER, "wrong password")[0] == 401
    status, fields, _ = stranger.login(OTHER)
    assert status == 429 and int(fields["Retry-After"]) > 0
    second = Browser(shop.port)
    assert second.login(CUSTOMER)[0] == 200

    # Logout ends the session itself, not only its cookie: immediately at its worker, a moment later at others.
    kept = dict(customer.cookies)
    assert customer.status("POST", "/logout", **customer.token) == 204
    assert customer.cookies == {}
    customer.cookies = kept
    wait_until(lambda: customer.status("GET", "/user/1") == 401, "the session is over", LIMIT)

    # A login ends the browser's previous session.
    before = dict(admin.cookies)
    assert admin.login(ADMIN)[0] == 200
    assert admin.cookies["session"] != before["session"]
    old = Browser(shop.port)
    old.cookies = before
    wait_until(lambda: old.status("GET", "/user/1") == 401, "the session before is over", LIMIT)
    assert admin.status("GET", "/user/1") == 200

    # A reader of the store gets no valid cookie.
    kept_sessions = store.content()
    assert len(kept_sessions) == 2  # the admin's and the customer's other one
    assert all(admin.cookies["session"].encode() not in session for session in kept_sessions)

    # A session ends twelve hours after its login, even if it is used.
    store.age(12 * 3600)
    for browser in (admin, second):
        wait_until(lambda browser=browser: browser.status("GET", "/user/1") == 401, "the session is over", LIMIT)

    # It also ends when it is not used for the time of `idle`.
    assert admin.login(ADMIN)[0] == 200
    assert admin.status("GET", "/user/1") == 200
    file = tmp_path / "gateway.yaml"
    text = file.read_text("utf-8")
    file.write_text(text.replace("sessions:\n", "sessions:\n  idle: 1s\n"), "utf-8")
    os.kill(shop.popen.pid, signal.SIGHUP)
    shop.says("gateway.yaml reloaded", LIMIT)
    admin.status("GET", "/user/1")
    wait_until(lambda: store.content() == [], "nothing of it is left", LIMIT)
    assert admin.status("GET", "/user/1") == 401
    assert PASSWORD not in shop.text and before["session"] not in shop.text
