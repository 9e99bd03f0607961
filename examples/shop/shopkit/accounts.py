"""Passwords and roles of the shop's users: argon2id in the users table, and the endpoint that verifies a password.

``POST /internal/verify`` is for the gateway's login (docs/reference/sessions.md): no route of the gateway leads there.
``python -m shopkit.accounts USERNAME [--role admin]`` sets a password, which it reads without echo.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from flask import Flask, Response
from sqlalchemy import Engine, bindparam, select, update
from sqlalchemy.exc import SQLAlchemyError

from shopkit import database
from shopkit.catalogue import users
from shopkit.problems import Problem
from shopkit.routes import answer, json_body
from shopkit.settings import database_url

ROLES = ("customer", "admin")
LEAST, MOST = 8, 1024  # length of a password in characters

# OWASP's parameters for argon2id: 19 MiB and 20 ms per password, so that four threads of five instances need 400 MiB.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

_by_name = users.c.username == bindparam("name")
_find = select(users.c.id, users.c.password, users.c.role).where(_by_name)
_set_password = update(users).where(_by_name).values(password=bindparam("hash"))


def mount(app: Flask, engine: Engine) -> None:
    """Add ``POST /internal/verify`` to ``app``, for the users table of ``engine``."""
    # Compared with the password of an unknown user, so that the response time does not reveal which users exist.
    dummy = _hasher.hash("no user has this password")

    def verify() -> Response:
        body = json_body()
        name, password = (body.get("username"), body.get("password")) if isinstance(body, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(password, str) or len(password) > MOST:
            raise Problem(422, f"username and password must be strings, of no more than {MOST} characters.")
        with engine.connect() as connection:
            row = connection.execute(_find, {"name": name}).first() if "\0" not in name else None
        known = row.password if row is not None else None
        try:
            _hasher.verify(known or dummy, password)
        except (VerificationError, InvalidHashError):
            known = None
        if row is None or known is None:
            raise Problem(401, "The user name or the password is wrong.")
        if _hasher.check_needs_rehash(known):
            with engine.connect() as connection:
                connection.execute(_set_password, {"name": name, "hash": _hasher.hash(password)})
        response = answer({"user_id": str(row.id), "roles": [row.role]})
        response.headers["Cache-Control"] = "no-store"
        return response

    app.add_url_rule("/internal/verify", "verify", verify, methods=["POST"])


def give(engine: Engine, name: str, password: str, role: str | None = None) -> bool:
    """Set the password of a user, and the role if one is given; return False if there is no such user.

    Raises ValueError if the password is too short or too long.
    """
    if not LEAST <= len(password) <= MOST:
        raise ValueError(f"a password has {LEAST} to {MOST} characters")
    values = {"password": _hasher.hash(password)} | ({"role": role} if role is not None else {})
    with engine.connect() as connection:
        return bool(connection.execute(update(users).where(users.c.username == name).values(values)).rowcount)


def main(arguments: Sequence[str] | None = None) -> int:
    """Set a password in the user service's database; return 0, or 1 on failure."""
    parser = argparse.ArgumentParser(prog="shopkit.accounts", description="Set a user's password and role.")
    parser.add_argument("username")
    parser.add_argument("--role", choices=ROLES, help="the new role (default: unchanged)")
    options = parser.parse_args(arguments)
    password = getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    engine = database.connect(database_url("users"))
    try:
        if not give(engine, options.username, password, options.role):
            raise ValueError(f"there is no user {options.username!r}")
    except (ValueError, SQLAlchemyError) as error:
        print(f"{getattr(error, 'orig', None) or error}".strip(), file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    print(f"{options.username}: the password is set")
    return 0


if __name__ == "__main__":
    sys.exit(main())
