"""Where sessions are kept: one SQLite file in WAL mode, in which readers never wait for a writer.

What a client holds is 256 random bits; the file has their SHA-256. As for API keys (:mod:`.keys`), a fast hash is
right: nobody guesses 256 bits. Who reads the file learns who is logged in, and no cookie that would be let in.
Times are seconds since the epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FORM = re.compile(rb"[A-Za-z0-9_-]{43}")

# How long a writer waits for another one (seconds).
BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    digest BLOB PRIMARY KEY,
    user TEXT NOT NULL,
    roles TEXT NOT NULL,
    created REAL NOT NULL,
    used REAL NOT NULL
) STRICT, WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Session:
    """Who has logged in and when; ``used`` is the last use that the store knows of."""

    user: str
    roles: tuple[str, ...]
    created: float
    used: float


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds from the last use, and from the login, after which a session holds no longer."""

    idle: float
    absolute: float

    def ended(self, created: float, used: float, now: float) -> bool:
        """Whether a session is over at ``now``."""
        return now >= used + self.idle or now >= created + self.absolute


def new_id() -> bytes:
    """A fresh session id: 256 random bits as 43 characters that a cookie can hold."""
    return secrets.token_urlsafe(32).encode("ascii")


def digest_of(identity: bytes) -> bytes | None:
    """What an id is stored and looked up as, or None for what does not have the form of one."""
    return hashlib.sha256(identity).digest() if _FORM.fullmatch(identity) else None


class SessionStore:
    """The file at ``path``, made with mode 0600 if it is not there. sqlite3.Error when it cannot be used.

    One thread uses a store; others open their own.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            except OSError as error:
                raise sqlite3.OperationalError(error.strerror) from error
        self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._use_wal()
            # Each commit is on the disk: what was ended does not come back after a crash of the machine.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(_SCHEMA)
        except sqlite3.Error:
            self._db.close()
            raise

    def _use_wal(self) -> None:
        """The change to WAL needs the file alone and does not wait for that (workers open it at the same moment)."""
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
        self._db.close()

    def version(self) -> int:
        """A number that changes when somebody else has changed the file."""
        row: tuple[int] = self._db.execute("PRAGMA data_version").fetchone()
        return row[0]

    def find(self, digest: bytes) -> Session | None:
        """The session with this digest, or None."""
        found = self._db.execute("SELECT user, roles, created, used FROM sessions WHERE digest = ?", (digest,))
        row: tuple[str, str, float, float] | None = found.fetchone()
        return None if row is None else Session(row[0], tuple(json.loads(row[1])), row[2], row[3])

    def replace(self, old: bytes | None, digest: bytes, session: Session) -> None:
        """Keep a new session, and end the one that the same client had before, at once or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if old is not None:
                self._db.execute("DELETE FROM sessions WHERE digest = ?", (old,))
            row = (digest, session.user, json.dumps(session.roles), session.created, session.used)
            self._db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def revoke(self, digest: bytes) -> None:
        """End a session. Once more changes nothing."""
        self._db.execute("DELETE FROM sessions WHERE digest = ?", (digest,))

    def touch(self, used: Mapping[bytes, float], lifetimes: Lifetimes, now: float) -> None:
        """Note when sessions (by digest) were used last, then forget those that are over at ``now``.

        What was revoked meanwhile does not come back.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "UPDATE sessions SET used = max(used, ?) WHERE digest = ?",
                [(when, digest) for digest, when in used.items()],
            )
            over = (now - lifetimes.idle, now - lifetimes.absolute)
            self._db.execute("DELETE FROM sessions WHERE used <= ? OR created <= ?", over)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
