"""Passwords and roles of the shop's users."""

from __future__ import annotations

import io
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask.testing import FlaskClient
from sqlalchemy import Engine, select, text

from shopkit import accounts
from shopkit.catalogue import users as table
from shopkit.prepare import prepare
from shopkit.service import engine_of
from tests.examples.test_openapi import conforms, paths

ADA = {"username": "ada", "email": "ada@example.com"}


@pytest.fixture
def engine(users: FlaskClient) -> Engine:
    """Return the users database, with one user who has a password."""
    users.post("/user", json=ADA)
    engine = engine_of(users.application)
    assert accounts.give(engine, "ada", "correct horse")
    return engine


def verify(client: FlaskClient, body: Any) -> Any:
    response = client.post("/internal/verify", json=body)
    conforms(paths("users")["/internal/verify"]["post"], response, "post")
    assert response.headers["Cache-Control"] == "no-store"
    return response


def stored(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.execute(select(table.c.password)).scalar_one())


def test_the_right_password_and_no_other(users: FlaskClient, engine: Engine) -> None:
    right = verify(users, {"username": "ada", "password": "correct horse"})
    assert (right.status_code, right.json) == (200, {"user_id": "1", "roles": ["customer"]})
    for name, password in [
        ("ada", "correct horse "),
        ("ada", ""),
        ("Ada", "correct horse"),
        ("bob", "correct horse"),
        ("bob", "no user has this password"),
        ("ada\0", "correct horse"),
        ("ada' OR '1'='1", "x"),
    ]:
        assert verify(users, {"username": name, "password": password}).status_code == 401
    for body in ({}, [], {"username": "ada"}, {"username": "ada", "password": 1}):
        assert verify(users, body).status_code == 422
    assert verify(users, {"username": "ada", "password": "x" * 1025}).status_code == 422


def test_it_is_kept_as_argon2id_and_never_shown(users: FlaskClient, engine: Engine) -> None:
    assert stored(engine).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert users.get("/user/1").json == {"user_id": "1", **ADA}
    assert users.put("/user/1", json={**ADA, "role": "admin"}).status_code == 422
    assert users.put("/user/1", json={**ADA, "password": "another"}).status_code == 422
    assert users.put("/user/1", json=ADA).status_code == 200
    assert verify(users, {"username": "ada", "password": "correct horse"}).status_code == 200


def test_a_user_without_password_cannot_log_in(users: FlaskClient) -> None:
    users.post("/user", json=ADA)
    for password in ("", "None", "no user has this password"):
        assert verify(users, {"username": "ada", "password": password}).status_code == 401


def test_roles(users: FlaskClient, engine: Engine) -> None:
    assert accounts.give(engine, "ada", "correct horse", "admin")
    assert verify(users, {"username": "ada", "password": "correct horse"}).json["roles"] == ["admin"]
    assert accounts.give(engine, "ada", "another one")
    assert verify(users, {"username": "ada", "password": "another one"}).json["roles"] == ["admin"]
    assert not accounts.give(engine, "bob", "correct horse")


def test_an_old_hash_is_replaced(users: FlaskClient, engine: Engine) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse")
    with engine.connect() as connection:
        connection.execute(text("UPDATE users SET password = :old"), {"old": old})
    assert verify(users, {"username": "ada", "password": "correct horse"}).status_code == 200
    assert "m=19456" in stored(engine)
    assert verify(users, {"username": "ada", "password": "correct horse"}).status_code == 200


def test_the_command(sqlite: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("users", sqlite)
    monkeypatch.setenv("USERS_DATABASE_URL", sqlite)

    def run(password: str, *arguments: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
        return accounts.main(arguments)

    assert run("correct horse", "user_1", "--role", "admin") == 0
    assert capsys.readouterr().out == "user_1: the password is set\n"
    assert run("correct horse", "eve") == 1
    assert run("short", "user_1") == 1
    assert capsys.readouterr().err == "there is no user 'eve'\na password has 8 to 1024 characters\n"
