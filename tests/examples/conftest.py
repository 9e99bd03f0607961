"""Fixtures for tests of the shop: its packages on the path, a real PostgreSQL cluster, new databases of both kinds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.requirements import program
from tests.support.postgresql import PostgresServer

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
sys.path.insert(0, str(SHOP))
# The applications must not find a database or a Redis in use by a developer.
for name in [name for name in os.environ if name.endswith(("DATABASE_URL", "REDIS_URL"))]:
    del os.environ[name]


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresServer]:
    """Run one PostgreSQL server for all tests; tests that need it are skipped if PostgreSQL is missing."""
    for name in ("initdb", "postgres"):
        program(name)
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture
def postgresql(cluster: PostgresServer) -> str:
    """Return the URL of an empty PostgreSQL database."""
    return cluster.scratch()


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """Return the URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'folder' / 'shop.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database, of each kind in turn."""
    url: str = request.getfixturevalue(request.param)
    return url


Build = Callable[[str, str], Flask]


def application(service: str, url: str) -> Flask:
    """Return the application of ``service`` on the database at ``url``, without migrating it."""
    from monolith import build as build_monolith
    from shopkit.service import create_app
    from users import build as build_users

    builders = {"monolith": build_monolith, "users": build_users}
    return builders[service](url) if service in builders else create_app(service, url)


@pytest.fixture
def build() -> Iterator[Build]:
    """Return ``build(service, url)``, which migrates a database and creates an application on it, closed at the end."""
    from shopkit.prepare import prepare
    from shopkit.service import engine_of

    made: list[Flask] = []

    def make(service: str, url: str) -> Flask:
        prepare(service, url, seeds=False)
        made.append(application(service, url))
        return made[-1]

    yield make
    for app in made:
        engine_of(app).dispose()


class Applications:
    """One application per service and kind of database for the whole session; its tables are emptied for each test."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Flask] = {}

    def client(self, service: str, kind: str, new_database: Callable[[], str]) -> FlaskClient:
        """Return a client of ``service`` on empty tables of ``kind``."""
        from sqlalchemy import text

        from shopkit.prepare import prepare
        from shopkit.service import engine_of

        if (service, kind) not in self._made:
            url = new_database()
            prepare(service, url, seeds=False)
            self._made[service, kind] = application(service, url)
        app = self._made[service, kind]
        tables = ("users", "products") if service == "monolith" else (service,)
        with engine_of(app).connect() as connection:
            for table in tables:
                if kind == "postgresql":
                    connection.execute(text(f"TRUNCATE {table} RESTART IDENTITY"))
                else:
                    connection.execute(text(f"DELETE FROM {table}"))
            if kind == "sqlite":
                connection.execute(text("DELETE FROM sqlite_sequence"))
        return app.test_client()

    def close(self) -> None:
        """Close all connections."""
        from shopkit.service import engine_of

        for app in self._made.values():
            engine_of(app).dispose()


@pytest.fixture(scope="session")
def applications() -> Iterator[Applications]:
    """Yield the session's applications."""
    made = Applications()
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def client_of(
    request: pytest.FixtureRequest, applications: Applications, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], FlaskClient]:
    """Return ``client_of(service)``, which creates a client on empty tables, on each kind of database in turn."""
    kind: str = request.param
    if kind == "postgresql":
        new_database = request.getfixturevalue("cluster").create_database
    else:

        def new_database() -> str:
            return f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}"

    return lambda service: applications.client(service, kind, new_database)


@pytest.fixture
def users(client_of: Callable[[str], FlaskClient]) -> FlaskClient:
    """Return a client of the user service with an empty table."""
    return client_of("users")


@pytest.fixture
def products(client_of: Callable[[str], FlaskClient]) -> FlaskClient:
    """Return a client of the product service with an empty table."""
    return client_of("products")


@pytest.fixture
def monolith(client_of: Callable[[str], FlaskClient]) -> FlaskClient:
    """Return a client of the monolith with empty tables."""
    return client_of("monolith")
