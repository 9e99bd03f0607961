"""SQLite file in WAL mode, in which readers never wait for a writer: the store of credentials without Redis."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

# How long a writer waits for another writer (seconds).
BUSY_SECONDS = 5.0


class SqliteFile:
    """SQLite file at ``path``, created with mode 0600 and with the tables of ``schema`` if it does not exist.

    ``synchronous`` is SQLite's setting: FULL if no commit may be lost in a crash of the machine. Raises sqlite3.Error
    if the file cannot be used. Each thread opens its own object.
    """

    def __init__(self, path: str | os.PathLike[str], schema: str, synchronous: str) -> None:
        self.path = Path(path)
        self._schema = schema
        self._synchronous = synchronous
        if not self.path.exists():
            try:
                # Only the owner may read the file: it contains no credentials, but it shows who has one.
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            except OSError as error:
                raise sqlite3.OperationalError(error.strerror) from error
        self._file = self._identity()
        self._open()

    def _open(self) -> None:
        fresh = self.path.stat().st_size == 0
        self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._use_wal()
            self._db.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._db.execute(self._schema)
            if fresh:
                self._empty_wal()
            self._seen = self._version()
        except sqlite3.Error:
            self._db.close()
            raise

    def _identity(self) -> tuple[int, int] | None:
        """Return the device and inode of the file at ``path``, or None if it does not exist."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _use_wal(self) -> None:
        """Switch to WAL, retrying: the switch needs exclusive access and fails at once while another worker opens the
        file."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.total_changes:
                self._empty_wal()
        self._db.close()

    def _empty_wal(self) -> None:
        """Checkpoint and truncate the WAL, so that a file that replaces this one by rename never meets its WAL."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def changed(self) -> bool:
        """Return whether the file has changed since the last call, or cannot be read (20 us).

        Changes of other connections count. A file that has replaced the former one is opened.
        """
        file = self._identity()
        if file != self._file:
            # Each lookup on the closed connection fails until there is a file that can be opened.
            self._db.close()
            self._file = None
            if file is not None:
                with contextlib.suppress(sqlite3.Error, OSError):
                    self._open()
                    self._file = file
            return True
        try:
            version = self._version()
        except sqlite3.Error:
            version = -1
        seen, self._seen = self._seen, version
        return version != seen or version < 0

    def _version(self) -> int:
        row: tuple[int] = self._db.execute("PRAGMA data_version").fetchone()
        return row[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the enclosed statements in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._empty_wal()
