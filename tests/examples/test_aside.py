"""Cache-aside in the shop's services, with a real Redis that comes and goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import text

from shopkit import aside
from shopkit.aside import Aside
from shopkit.prepare import prepare
from shopkit.service import create_app, engine_of
from shopkit.settings import redis_url
from tests.caching.redis_server import RedisServer
from tests.examples.test_instances import ask, running
from tests.support.wire import wait_until

PATIENCE = 30.0  # seconds
BODIES: dict[str, list[dict[str, Any]]] = {
    "user": [{"username": "ada", "email": "ada@example.com"}, {"username": "bob", "email": "bob@example.com"}],
    "product": [{"name": "tea", "price": 4.5}, {"name": "pot", "price": 19.99}],
}
TABLES = {"user": "users", "product": "products"}
both = pytest.mark.parametrize("kind", ["user", "product"])


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(redis: RedisServer) -> Iterator[Redis]:
    with Redis(port=redis.port) as made:
        yield made


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every :class:`Aside` in a test. Lifetimes in Redis itself are longer than any test."""
    made = Clock()
    monkeypatch.setattr(Aside.__init__, "__defaults__", (made,))
    for name, seconds in {"TIMEOUT": 5.0, "HELD": 60.0, "MISSING_TTL": 60.0, "TTL": 600.0}.items():
        monkeypatch.setattr(aside, name, seconds)
    return made


Make = Callable[..., FlaskClient]


@pytest.fixture
def make(redis: RedisServer, sqlite: str, clock: Clock) -> Iterator[Make]:
    """Return ``make(kind)``: a client of a new instance of that resource's service, with a shared database and
    Redis."""
    made: list[Flask] = []

    def instance(kind: str, url: str | None = None) -> FlaskClient:
        prepare(TABLES[kind], sqlite, seeds=False)
        made.append(create_app(TABLES[kind], sqlite, url or redis.url))
        return made[-1].test_client()

    yield instance
    for app in made:
        engine_of(app).dispose()


def change_behind(service: FlaskClient, statement: str) -> None:
    """Change the database without the service's knowledge, so that a response reveals its source."""
    with engine_of(service.application).connect() as connection:
        connection.execute(text(statement))


def create(service: FlaskClient, kind: str) -> str:
    response = service.post(f"/{kind}", json=BODIES[kind][0])
    assert response.status_code == 201
    path: str = response.headers["Location"]
    return path


def pass_by(clock: Clock, client: Redis) -> None:
    """Advance the time until all marks of writes have expired."""
    clock.now += aside.HELD
    for key in client.scan_iter():
        if client.get(key) == b"-":
            client.delete(key)


@both
class TestReading:
    def test_the_second_read_does_not_query_the_database(self, make: Make, kind: str, client: Redis) -> None:
        service = make(kind)
        change_behind(service, INSERT[kind])
        first = service.get(f"/{kind}/1")
        change_behind(service, f"DELETE FROM {TABLES[kind]}")
        for instance in (service, make(kind)):
            again = instance.get(f"/{kind}/1")
            assert (again.status_code, again.data, again.headers["ETag"]) == (200, first.data, first.headers["ETag"])
            condition = {"If-None-Match": first.headers["ETag"]}
            assert instance.get(f"/{kind}/1", headers=condition).status_code == 304
        ttl = client.pttl(f"shop:{kind}:1")
        assert isinstance(ttl, int) and 0 < ttl <= aside.TTL * 1000

    def test_after_its_lifetime_the_database_is_queried_again(self, make: Make, kind: str, client: Redis) -> None:
        service = make(kind)
        change_behind(service, INSERT[kind])
        assert service.get(f"/{kind}/1").status_code == 200
        change_behind(service, f"DELETE FROM {TABLES[kind]}")
        client.pexpire(f"shop:{kind}:1", 1)
        wait_until(lambda: not client.exists(f"shop:{kind}:1"), "it expires", PATIENCE)
        assert service.get(f"/{kind}/1").status_code == 404

    def test_the_absence_of_a_row_is_stored_for_a_shorter_time(self, make: Make, kind: str, client: Redis) -> None:
        service = make(kind)
        assert service.get(f"/{kind}/1").status_code == 404
        change_behind(service, INSERT[kind])
        missing = service.get(f"/{kind}/1")
        assert missing.status_code == 404 and missing.headers["Cache-Control"] == "no-store"
        ttl = client.pttl(f"shop:{kind}:1")
        assert isinstance(ttl, int) and 0 < ttl <= aside.MISSING_TTL * 1000
        client.delete(f"shop:{kind}:1")
        assert service.get(f"/{kind}/1").status_code == 200

    @pytest.mark.parametrize("identity", ["0", "01", "x", "9" * 40, "%2A"])
    def test_what_is_no_id_never_gets_to_redis(self, make: Make, kind: str, client: Redis, identity: str) -> None:
        assert make(kind).get(f"/{kind}/{identity}").status_code == 404
        assert client.keys() == []

    def test_other_values_in_redis_are_no_answers(self, make: Make, kind: str, client: Redis) -> None:
        service = make(kind)
        change_behind(service, INSERT[kind])
        right = service.get(f"/{kind}/1").data
        other = {**json.loads(right), f"{kind}_id": "2"}
        fewer = {f"{kind}_id": "1"}
        more = {**json.loads(right), "password": "x"}
        values = [b"", b"{", b"\xff\x00", b"[]", b"1", b"{}", right[:-1], right + b"x"]
        values += [json.dumps(document).encode() for document in (other, fewer, more)]
        for value in values:
            client.set(f"shop:{kind}:1", value)
            assert service.get(f"/{kind}/1").data == right, value
            assert json.loads(client.get(f"shop:{kind}:1") or b"") == json.loads(right), "it is put right"
        client.delete(f"shop:{kind}:1")
        client.rpush(f"shop:{kind}:1", "a list")
        assert service.get(f"/{kind}/1").data == right
        assert client.type(f"shop:{kind}:1") == b"string"


INSERT = {
    "user": "INSERT INTO users (id, username, email) VALUES (1, 'ada', 'ada@example.com')",
    "product": "INSERT INTO products (id, name, price) VALUES (1, 'tea', 4.5)",
}


@both
class TestWriting:
    def test_every_write_shows_in_the_next_read_of_every_instance(self, make: Make, kind: str) -> None:
        one, two = make(kind), make(kind)
        assert two.get(f"/{kind}/1").status_code == 404
        path = create(one, kind)
        assert path == f"/{kind}/1"
        for instance in (two, one):
            assert instance.get(path).status_code == 200
        changed = one.put(path, json=BODIES[kind][1])
        assert changed.status_code == 200
        for instance in (two, one):
            assert instance.get(path).data == changed.data
        assert two.delete(path).status_code == 204
        for instance in (two, one):
            assert instance.get(path).status_code == 404

    def test_what_a_write_has_changed_is_kept_again_after_a_while(
        self, make: Make, kind: str, client: Redis, clock: Clock
    ) -> None:
        service = make(kind)
        path = create(service, kind)
        held = client.pttl(f"shop:{kind}:1")
        assert isinstance(held, int) and 0 < held <= aside.HELD * 1000
        pass_by(clock, client)
        body = service.get(path).data
        change_behind(service, f"DELETE FROM {TABLES[kind]}")
        assert service.get(path).data == body

    def test_a_write_that_is_refused_invalidates_nothing(self, make: Make, kind: str, client: Redis) -> None:
        service = make(kind)
        change_behind(service, INSERT[kind])
        body = service.get(f"/{kind}/1").data
        assert service.put(f"/{kind}/1", json={}).status_code == 422
        assert service.put(f"/{kind}/1", data=b"{", content_type="application/json").status_code == 400
        assert json.loads(client.get(f"shop:{kind}:1") or b"") == json.loads(body)

    def test_a_write_that_ends_with_an_error_may_have_been_done(self, make: Make, kind: str, client: Redis) -> None:
        service = make(kind)
        change_behind(service, INSERT[kind])
        assert service.get(f"/{kind}/1").status_code == 200
        change_behind(service, f"ALTER TABLE {TABLES[kind]} RENAME TO gone")
        assert service.put(f"/{kind}/1", json=BODIES[kind][1]).status_code == 503
        assert client.get(f"shop:{kind}:1") == b"-"


DOCUMENT: aside.Document = {"user_id": "1"}


class TestRaces:
    @pytest.fixture
    def kept(self, redis: RedisServer, clock: Clock) -> Aside:
        return Aside.at(redis.url)

    def test_what_a_read_saw_before_a_write_is_not_kept_after_it(self, kept: Aside, client: Redis) -> None:
        def load() -> aside.Document:
            kept.forget("k")  # the write happens between the read's statement and its storing the result
            return DOCUMENT

        assert kept.read("k", load, bool) == DOCUMENT
        assert client.get("k") == b"-"

    def test_a_read_that_took_longer_than_the_mark_stands_is_not_kept(
        self, kept: Aside, client: Redis, clock: Clock
    ) -> None:
        def load() -> aside.Document:
            kept.forget("k")
            pass_by(clock, client)
            return DOCUMENT

        assert kept.read("k", load, bool) == DOCUMENT
        assert not client.exists("k")

    def test_a_database_that_fails_leaves_nothing(self, kept: Aside, client: Redis) -> None:
        def load() -> aside.Document:
            raise OSError

        with pytest.raises(OSError):
            kept.read("k", load, bool)
        assert client.keys() == []


class TestWithoutRedis:
    @both
    def test_a_redis_that_never_was_changes_no_answer(self, make: Make, kind: str, redis: RedisServer) -> None:
        redis.stop()
        service = make(kind)
        path = create(service, kind)
        for number in (1, 0, 1):
            changed = service.put(path, json=BODIES[kind][number])
            assert changed.status_code == 200
            assert service.get(path).data == changed.data
        assert service.delete(path).status_code == 204
        assert service.get(path).status_code == 404

    def test_redis_is_not_tried_again_before_the_pause_is_over(
        self, make: Make, redis: RedisServer, client: Redis, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = make("user")
        change_behind(service, INSERT["user"])
        right = service.get("/user/1").data
        redis.stop()
        assert service.get("/user/1").data == right
        redis.start()
        planted = right.replace(b"ada@", b"eve@")
        client.set("shop:user:1", planted)
        clock.now += aside.PAUSE * 0.9
        for _ in range(20):
            assert service.get("/user/1").data == right, "it was asked"
        clock.now += aside.PAUSE * 0.2
        assert service.get("/user/1").data == planted, "it was not asked"
        told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("redis:")]
        assert len(told) == 2 and "only the database is used" in told[0] and told[1] == "redis: back"

    def test_one_request_a_pause_pays_for_a_redis_that_answers_nothing(
        self, make: Make, redis: RedisServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(aside, "TIMEOUT", 0.05)
        service = make("user")
        change_behind(service, INSERT["user"])
        right = service.get("/user/1").data
        kept = service.application.extensions["aside"]
        asked = []
        get = kept._client.get
        monkeypatch.setattr(kept._client, "get", lambda key: asked.append(key) or get(key))
        redis.freeze()
        try:
            for _ in range(3):
                for _ in range(20):
                    assert service.get("/user/1").data == right
                clock.now += aside.PAUSE
            assert len(asked) == 3
        finally:
            redis.thaw()

    @both
    def test_writes_while_redis_was_cut_off_are_invalidated_later(
        self, make: Make, kind: str, redis: RedisServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(aside, "TIMEOUT", 0.2)
        service = make(kind)
        change_behind(service, INSERT[kind])
        service.get(f"/{kind}/1")
        redis.freeze()
        try:
            changed = service.put(f"/{kind}/1", json=BODIES[kind][1])
            assert changed.status_code == 200
        finally:
            redis.thaw()
        clock.now += aside.PAUSE
        monkeypatch.setattr(aside, "TIMEOUT", 5.0)
        assert service.get(f"/{kind}/1").data == changed.data

    def test_pending_invalidations_are_bounded(self, redis: RedisServer, clock: Clock, client: Redis) -> None:
        kept = Aside.at(redis.url)
        redis.stop()
        for number in range(aside.MOST_OWED + 500):
            if number % 400 == 0:
                clock.now += aside.PAUSE
            kept.forget(f"k{number}")
        clock.now += aside.PAUSE
        kept.forget("last")
        redis.start()
        clock.now += aside.PAUSE
        assert kept.read("k", lambda: None, bool) is None
        count = client.dbsize()
        assert isinstance(count, int) and count == aside.MOST_OWED + 1  # and "k"
        assert client.exists("last") and not client.exists("k0")


@pytest.mark.long
@pytest.mark.slow
def test_no_request_fails_or_is_wrong_while_redis_is_killed_and_comes_back(redis: RedisServer, sqlite: str) -> None:
    prepare("users", sqlite)
    stop = threading.Event()
    answers: list[tuple[int, bool]] = []
    faults: list[BaseException] = []

    with running("users:app", USERS_DATABASE_URL=sqlite, REDIS_URL=redis.url) as port:

        def load(worker: int) -> None:
            number = 0
            try:
                while not stop.is_set():
                    identity = 1 + worker * 10 + number % 10
                    if number % 20 == 0:
                        email = f"{worker}.{number}@example.com"
                        user = {"username": f"user_{identity}", "email": email}
                        answers.append((ask(port, "PUT", f"/user/{identity}", user)[0], True))
                        # Only this service writes: the next read must show the change, with or without Redis.
                        status, _, shown = ask(port, "GET", f"/user/{identity}")
                        answers.append((status, shown["email"] == email))
                    else:
                        status, _, shown = ask(port, "GET", f"/user/{identity}")
                        answers.append((status, shown["user_id"] == str(identity)))
                    number += 1
            except BaseException as error:
                faults.append(error)

        def more(count: int) -> None:
            goal = len(answers) + count
            wait_until(lambda: len(answers) >= goal or faults, "the load goes on", PATIENCE)

        threads = [threading.Thread(target=load, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                more(200)
                redis.stop()
                more(200)
                redis.start()
            more(200)
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
    assert not faults
    assert set(answers) == {(200, True)}


@pytest.mark.parametrize("kind", ["user", pytest.param("product", marks=pytest.mark.long)])
def test_the_service_takes_redis_from_the_environment(
    redis: RedisServer, client: Redis, sqlite: str, kind: str
) -> None:
    service = TABLES[kind]
    prepare(service, sqlite)
    environment = {f"{service.upper()}_DATABASE_URL": sqlite, "REDIS_URL": redis.url}
    with running(f"{service}:app", **environment) as port:
        assert ask(port, "GET", f"/{kind}/1")[0] == 200
    assert json.loads(client.get(f"shop:{kind}:1") or b"")[f"{kind}_id"] == "1"


def test_an_empty_url_is_none() -> None:
    assert redis_url({}) is redis_url({"REDIS_URL": ""}) is None
    assert redis_url({"REDIS_URL": "redis://h"}) == "redis://h"


def test_an_invalid_redis_url_is_reported_at_the_start(sqlite: str) -> None:
    with pytest.raises(ValueError):
        create_app("users", sqlite, "localhost:6379")
