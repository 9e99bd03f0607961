"""Real PostgreSQL on a free port of 127.0.0.1 that a test can stop and restart.

Its data is in a temporary folder and is not synced to disk. The superuser ``shop`` needs no password; every other role
needs its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg import sql

from passerelle.system import ports
from tests.requirements import program

START_LIMIT = 30.0  # seconds
SUPERUSER = "shop"
ACCESS = f"host all {SUPERUSER} 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


class PostgresServer:
    """Running server; ``settings`` are options such as ``max_connections=50``."""

    def __init__(self, *settings: str) -> None:
        self._databases = 0
        self._scratch: str | None = None
        self._settings = ("listen_addresses=127.0.0.1", "fsync=off", *settings)
        self._user = _unprivileged_user()
        # pytest's temporary folders are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="shop-postgresql-"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._data = self.folder / "data"
        self.port = ports.free()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._initialize()
            self.start()
        except BaseException:
            self.close()
            raise

    def _initialize(self) -> None:
        make = (program("initdb"), "-D", str(self._data), "-U", SUPERUSER, "-E", "UTF8", "--no-locale", "-N")
        done = subprocess.run(make, user=self._user, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (self._data / "pg_hba.conf").write_text(ACCESS)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = [word for setting in self._settings for word in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", str(self._data), "-p", str(self.port), "-k", str(self.folder), *options],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self.folder,
            )
        end = time.monotonic() + START_LIMIT
        while True:
            try:
                psycopg.connect(self.conninfo(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise AssertionError((self.folder / "log").read_text(errors="replace")) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server; SIGINT ends all sessions, SIGQUIT is like a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(START_LIMIT)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None

    def close(self) -> None:
        """Stop the server and remove its data."""
        try:
            self.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(self.folder)

    def conninfo(self, database: str = "postgres") -> str:
        """Return the URL of ``database`` for libpq, as the superuser."""
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of ``database``, as the superuser."""
        return self.conninfo(database).replace("postgresql://", "postgresql+psycopg://")

    def create_database(self) -> str:
        """Create an empty database and return its URL."""
        self._databases += 1
        name = f"shop_{self._databases}"
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def scratch(self) -> str:
        """Return the URL of a database that was emptied: creating one per test would take most of the time."""
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

    def drop(self, *roles: str) -> None:
        """Drop these roles, and the databases of the same names."""
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            for name in map(sql.Identifier, roles):
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))


def _unprivileged_user() -> str | None:
    """Return another user if running as root, since PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("root has no other user to run PostgreSQL as")
