"""Fixtures for tests of the shop: its packages on the path, a real PostgreSQL cluster, new databases of both kinds."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.requirements import program

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
sys.path.insert(0, str(SHOP))
# The applications must not find a database or a Redis in use by a developer.
for name in [name for name in os.environ if name.endswith(("DATABASE_URL", "REDIS_URL"))]:
    del os.environ[name]

START_LIMIT = 30.0  # seconds


class Cluster:
    """PostgreSQL server on a free port of 127.0.0.1, with trust authentication and without fsync."""

    def __init__(self) -> None:
        self._databases = 0
        self._scratch: str | None = None
        self._user = _unprivileged_user()
        # pytest's temporary folders are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="shop-postgresql-"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        data = self.folder / "data"
        self._run(program("initdb"), "-D", str(data), "-U", "shop", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        self.port = _free_port()
        self._log = (self.folder / "log").open("wb")
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=50"]
        self._process = subprocess.Popen(
            [program("postgres"), "-D", str(data), "-p", str(self.port), "-k", str(self.folder), *options],
            stdout=self._log,
            stderr=self._log,
            user=self._user,
            cwd=self.folder,
        )
        self._wait()

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of ``database``."""
        return f"postgresql+psycopg://shop@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Create an empty database and return its URL."""
        import psycopg

        self._databases += 1
        name = f"shop_{self._databases}"
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def scratch(self) -> str:
        """Return the URL of a database that was emptied: creating one per test would take most of the time."""
        import psycopg

        if self._scratch is None:
            self._scratch = self.create_database()
        with psycopg.connect(self._scratch.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self._scratch

    def close(self) -> None:
        """Stop the server and remove its data."""
        self._process.send_signal(signal.SIGQUIT)  # immediately: its data is no longer needed
        try:
            self._process.wait(START_LIMIT)
        finally:
            self._process.kill()
            self._process.wait()
            self._log.close()
            shutil.rmtree(self.folder)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, user=self._user, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def _wait(self) -> None:
        import psycopg

        end = time.monotonic() + START_LIMIT
        while True:
            try:
                psycopg.connect(self.url().replace("+psycopg", ""), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self.folder / "log").read_text(errors="replace")) from None
                time.sleep(0.05)


def _unprivileged_user() -> str | None:
    """Return another user if running as root, since PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("root has no other user to run PostgreSQL as")


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run one PostgreSQL server for all tests; tests that need it are skipped if PostgreSQL is missing."""
    for name in ("initdb", "postgres"):
        program(name)
    running = Cluster()
    yield running
    running.close()


@pytest.fixture
def postgresql(cluster: Cluster) -> str:
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
