"""Where sessions are kept: in one SQLite file.

What a client holds is 256 random bits; the file has their SHA-256. As for API keys (:mod:`.api_keys`), a fast hash is
right: nobody guesses 256 bits. Who reads the file learns who is logged in, and no cookie that would be let in.
Times are seconds since the epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from passerelle.security.credentials.sqlite_file import SqliteFile

_FORM = re.compile(rb"[A-Za-z0-9_-]{43}")

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


class SessionStore(SqliteFile):
    """The sessions in the file at ``path`` (see :class:`SqliteFile`)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Each commit is on the disk: what was ended does not come back after a crash of the machine.
        super().__init__(path, _SCHEMA, "FULL")

    def find(self, digest: bytes) -> Session | None:
        """The session with this digest, or None."""
        found = self._db.execute("SELECT user, roles, created, used FROM sessions WHERE digest = ?", (digest,))
        row: tuple[str, str, float, float] | None = found.fetchone()
        return None if row is None else Session(row[0], tuple(json.loads(row[1])), row[2], row[3])

    def replace(self, old: bytes | None, digest: bytes, session: Session) -> None:
        """Keep a new session, and end the one that the same client had before, at once or not at all."""
        with self._transaction():
            if old is not None:
                self._db.execute("DELETE FROM sessions WHERE digest = ?", (old,))
            row = (digest, session.user, json.dumps(session.roles), session.created, session.used)
            self._db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)

    def revoke(self, digest: bytes) -> None:
        """End a session. Once more changes nothing."""
        self._db.execute("DELETE FROM sessions WHERE digest = ?", (digest,))

    def touch(self, used: Mapping[bytes, float], lifetimes: Lifetimes, now: float) -> None:
        """Note when sessions (by digest) were used last, then forget those that are over at ``now``.

        What was revoked meanwhile does not come back.
        """
        with self._transaction():
            self._db.executemany(
                "UPDATE sessions SET used = max(used, ?) WHERE digest = ?",
                [(when, digest) for digest, when in used.items()],
            )
            over = (now - lifetimes.idle, now - lifetimes.absolute)
            self._db.execute("DELETE FROM sessions WHERE used <= ? OR created <= ?", over)
