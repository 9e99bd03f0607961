"""Session store: one SQLite file.

A client holds 256 random bits; the file has their SHA-256. As for API keys (:mod:`.api_keys`), a fast hash is
sufficient, since 256 random bits cannot be guessed. A reader of the file learns who is logged in, but no valid cookie.
Times are seconds since the epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

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


# Sessions that were begun at an identity provider, by what it names when it ends them: see link_of().
_LINKS = """
CREATE TABLE IF NOT EXISTS links (
    link BLOB NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (link, digest)
) STRICT, WITHOUT ROWID
"""


# What a session keeps of its provider, sealed by access/oidc/renewal.py; and when it is used again.
_GRANTS = """
CREATE TABLE IF NOT EXISTS grants (
    digest BLOB PRIMARY KEY,
    sealed BLOB NOT NULL,
    due REAL NOT NULL
) STRICT, WITHOUT ROWID
"""


class Grant(NamedTuple):
    """What a session keeps of its provider, which only the client of the session can unseal.

    ``due`` is when it is used next, in seconds since the epoch.
    """

    sealed: bytes
    due: float


def link_of(issuer: str, kind: str, value: str) -> bytes:
    """Return what sessions of ``value``, a user (``sub``) or a session (``sid``) of a provider, are found by."""
    return hashlib.sha256(json.dumps([issuer, kind, value]).encode()).digest()


@dataclass(frozen=True, slots=True)
class Session:
    """Session of a user, with the time of the login; ``used`` is the last use recorded by the store."""

    user: str
    roles: tuple[str, ...]
    created: float
    used: float


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds since the last use, and since the login, after which a session expires."""

    idle: float
    absolute: float

    def ended(self, created: float, used: float, now: float) -> bool:
        """Return whether a session has expired at ``now``."""
        return now >= used + self.idle or now >= created + self.absolute


def new_id() -> bytes:
    """Generate a session id: 256 random bits as 43 characters that are valid in a cookie."""
    return secrets.token_urlsafe(32).encode("ascii")


def digest_of(identity: bytes) -> bytes | None:
    """Return the digest under which a session is stored, or None if ``identity`` is not well-formed."""
    return hashlib.sha256(identity).digest() if _FORM.fullmatch(identity) else None


class SessionStore(SqliteFile):
    """Store of sessions in the file at ``path`` (see :class:`SqliteFile`)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Each commit is synced to disk: a revoked session does not reappear after a crash of the machine.
        super().__init__(path, _SCHEMA, "FULL")

    def _open(self) -> None:
        super()._open()
        try:
            self._db.execute(_LINKS)
            self._db.execute(_GRANTS)
        except sqlite3.Error:
            self._db.close()
            raise

    def find(self, digest: bytes) -> Session | None:
        """Return the session with this digest, or None."""
        found = self._db.execute("SELECT user, roles, created, used FROM sessions WHERE digest = ?", (digest,))
        row: tuple[str, str, float, float] | None = found.fetchone()
        return None if row is None else Session(row[0], tuple(json.loads(row[1])), row[2], row[3])

    def replace(self, old: bytes | None, digest: bytes, session: Session, links: tuple[bytes, ...] = ()) -> None:
        """Store a new session with its ``links`` and end the client's previous one, in one transaction."""
        with self._transaction():
            if old is not None:
                self._db.execute("DELETE FROM sessions WHERE digest = ?", (old,))
            row = (digest, session.user, json.dumps(session.roles), session.created, session.used)
            self._db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)
            self._db.executemany("INSERT INTO links VALUES (?, ?)", [(link, digest) for link in links])

    def revoke(self, digest: bytes) -> None:
        """End a session; ending it again has no effect."""
        with self._transaction():
            self._db.execute("DELETE FROM sessions WHERE digest = ?", (digest,))

    def keep_grant(self, digest: bytes, grant: Grant) -> None:
        """Keep the grant of a session, in place of its former one."""
        with self._transaction():
            self._db.execute("REPLACE INTO grants VALUES (?, ?, ?)", (digest, *grant))

    def claim_grant(self, digest: bytes, now: float, until: float) -> Grant | None:
        """Return the grant of a session. If it is due, it is due again at ``until``: one worker alone uses it now."""
        with self._transaction():
            row = self._db.execute("SELECT sealed, due FROM grants WHERE digest = ?", (digest,)).fetchone()
            if row is not None and row[1] <= now:
                self._db.execute("UPDATE grants SET due = ? WHERE digest = ?", (until, digest))
        return None if row is None else Grant(*row)

    def renew(self, digest: bytes, roles: tuple[str, ...], grant: Grant) -> None:
        """Replace roles and grant of a session, unless it has ended meanwhile."""
        with self._transaction():
            row = (json.dumps(roles), digest)
            if self._db.execute("UPDATE sessions SET roles = ? WHERE digest = ?", row).rowcount:
                self._db.execute("REPLACE INTO grants VALUES (?, ?, ?)", (digest, *grant))

    def revoke_linked(self, link: bytes) -> None:
        """End all sessions with ``link``."""
        with self._transaction():
            digests = "SELECT digest FROM links WHERE link = ?"
            self._db.execute(f"DELETE FROM sessions WHERE digest IN ({digests})", (link,))  # noqa: S608
            self._db.execute("DELETE FROM links WHERE link = ?", (link,))

    def touch(self, used: Mapping[bytes, float], lifetimes: Lifetimes, now: float) -> None:
        """Record when sessions (by digest) were last used, then delete those that have expired at ``now``.

        Sessions revoked meanwhile do not reappear.
        """
        with self._transaction():
            self._db.executemany(
                "UPDATE sessions SET used = max(used, ?) WHERE digest = ?",
                [(when, digest) for digest, when in used.items()],
            )
            over = (now - lifetimes.idle, now - lifetimes.absolute)
            self._db.execute("DELETE FROM sessions WHERE used <= ? OR created <= ?", over)
            for table in ("links", "grants"):
                self._db.execute(f"DELETE FROM {table} WHERE digest NOT IN (SELECT digest FROM sessions)")  # noqa: S608
