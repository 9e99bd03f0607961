"""A real PostgreSQL server for the tests of backups, and databases of both engines with a relation to check."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from passerelle.backup.databases import Database
from passerelle.backup.postgresql import PostgresDatabase
from passerelle.backup.sqlite import SqliteDatabase
from tests.conformance.conftest import loop, rig
from tests.requirements import program
from tests.support.postgresql import PostgresServer

__all__ = ["loop", "rig"]

SCHEMA = (
    "CREATE TABLE entries (n INTEGER PRIMARY KEY, amount INTEGER NOT NULL, kind VARCHAR(9) CHECK (kind IN ('a', 'b')))",
    "CREATE TABLE totals (n INTEGER NOT NULL, amount INTEGER NOT NULL)",
    "CREATE INDEX entries_by_kind ON entries (kind)",
    "INSERT INTO totals VALUES (0, 0)",
)
START = datetime(2026, 11, 30, 3, 0, 0, tzinfo=UTC)
RATE = 100  # transactions a second


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    for name in ("initdb", "postgres"):
        program(name)
    running = PostgresServer("max_connections=40")
    yield running
    running.close()


class Ledger:
    """A database of one engine whose two tables agree at each moment between two transactions."""

    def __init__(self, database: Database, connect: Callable[[], Any], mark: str) -> None:
        self.database = database
        self.connect = connect
        self._insert = f"INSERT INTO entries VALUES ({mark}, {mark}, 'a')"
        self._update = f"UPDATE totals SET n = {mark}, amount = amount + {mark}"
        with closing(connect()) as db:
            for statement in SCHEMA:
                db.execute(statement)
            db.commit()

    def add(self, db: Any, n: int) -> None:
        """Add entry ``n`` in one transaction."""
        db.execute(self._insert, (n, _amount(n)))
        db.execute(self._update, (n, _amount(n)))
        db.commit()

    def fill(self, number: int) -> None:
        """Add entries until there are ``number``."""
        first = self.number() + 1
        with closing(self.connect()) as db:
            rows = [(n, _amount(n)) for n in range(first, number + 1)]
            db.cursor().executemany(self._insert, rows)
            db.execute(self._update, (number, sum(amount for _, amount in rows)))
            db.commit()

    def number(self) -> int:
        """Return the number of entries, having checked that the tables agree."""
        with closing(self.connect()) as db:
            found = db.execute(
                "SELECT (SELECT count(*) FROM entries), (SELECT coalesce(max(n), 0) FROM entries),"
                " (SELECT coalesce(sum(amount), 0) FROM entries), t.n, t.amount FROM totals t"
            ).fetchone()
        entries, last, amount, n, total = found
        assert (entries, last, amount) == (n, n, total)
        return int(n)

    def execute(self, *statements: str) -> None:
        """Execute statements in one transaction."""
        with closing(self.connect()) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    @contextmanager
    def written(self) -> Iterator[Writes]:
        """Write :data:`RATE` transactions a second while the body runs."""
        writes = Writes(self.number())
        stop = threading.Event()

        def write() -> None:
            with closing(self.connect()) as db:
                started = time.monotonic()
                while not stop.wait(max(0.0, started + writes.done / RATE - time.monotonic())):
                    begun = time.monotonic()
                    try:
                        self.add(db, writes.last + 1)
                    except Exception as error:
                        writes.error = error
                        return
                    writes.last += 1
                    writes.done += 1
                    writes.seconds = time.monotonic() - started
                    writes.slowest = max(writes.slowest, time.monotonic() - begun)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield writes
        finally:
            stop.set()
            thread.join()
        assert writes.error is None, writes.error


def _amount(n: int) -> int:
    return n * 7919 % 1000


class Writes:
    """What a writer has done: the last entry, the number of transactions, their seconds, and those of the slowest."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.done = 0
        self.seconds = 0.0
        self.slowest = 0.0
        self.error: Exception | None = None


def sqlite_ledger(path: Path, journal: str = "WAL") -> Ledger:
    """Create a ledger in an SQLite file."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA journal_mode = {journal}")

    def connect() -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=30)
        db.execute("PRAGMA synchronous = OFF")  # the disk is not what is tested
        return db

    return Ledger(SqliteDatabase(path.stem, path), connect, "?")


_numbers = count()


def postgresql_ledger(server: PostgresServer) -> Ledger:
    """Create a ledger in a new PostgreSQL database, whose owner may create databases and has a password."""
    name = f"ledger {next(_numbers)}"
    password = "p/a'ss\\word"
    with psycopg.connect(server.conninfo(), autocommit=True) as db:
        if not db.execute("SELECT 1 FROM pg_roles WHERE rolname = 'keeper'").fetchone():
            db.execute("CREATE ROLE keeper LOGIN CREATEDB PASSWORD 'p/a''ss\\word'")
        db.execute(f'CREATE DATABASE "{name}" OWNER keeper')
    url = f"postgresql://keeper:{password.replace('/', '%2F')}@127.0.0.1:{server.port}/{name.replace(' ', '%20')}"
    return Ledger(PostgresDatabase("ledger", url), lambda: psycopg.connect(url), "%s")


@pytest.fixture
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """Return a new ledger of the kind that the test names."""
    if request.param == "postgresql":
        return postgresql_ledger(request.getfixturevalue("server"))
    return sqlite_ledger(tmp_path / "ledger.db", "WAL" if request.param == "sqlite" else "DELETE")


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """Return a clock that advances by a minute with each call."""
    minutes = count()
    return lambda: START + timedelta(minutes=next(minutes))
