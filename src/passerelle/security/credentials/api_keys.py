"""API keys: generated at random, stored as digests, looked up by digest.

A key is ``psr_<id>_<secret>``: a prefix that secret scanners can recognize, ten characters that identify the key in
lists and logs, and 256 random bits. The store has the SHA-256 of the whole key. A slow, salted hash protects passwords,
which can be guessed. A random key of 256 bits cannot be guessed at any speed, so a fast hash is sufficient: it takes
half a microsecond per request, where argon2 would take fifty milliseconds.

The store is one SQLite file. Times are whole seconds since the epoch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from passerelle.security.credentials.sqlite_file import SqliteFile

PREFIX = "psr"
_ID_LENGTH = 10
KEY_FORM = rb"psr_[a-z2-7]{10}_[A-Za-z0-9_-]{43}"
_FORM = re.compile(KEY_FORM)
_ID = re.compile(r"[a-z2-7]{10}")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER,
    last_used INTEGER,
    replaces TEXT
) STRICT
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Stored properties of a key, without the key itself. Times are in seconds since the epoch, None for never."""

    id: str
    owner: str
    scopes: tuple[str, ...]
    created: int
    expires: int | None
    revoked: int | None
    last_used: int | None
    replaces: str | None

    def refusal(self, now: float) -> str:
        """Return why the key is not valid at ``now``, or an empty string if it is valid."""
        if self.revoked is not None:
            return "revoked"
        if self.expires is not None and self.expires <= now:
            return "expired"
        return ""


def new_key() -> tuple[str, str]:
    """Generate an id and the key that contains it. The key is displayed once and never stored."""
    identity = base64.b32encode(secrets.token_bytes(8)).decode("ascii").lower()[:_ID_LENGTH]
    return identity, f"{PREFIX}_{identity}_{secrets.token_urlsafe(32)}"


def digest_of(key: bytes) -> bytes | None:
    """Return the digest under which a key is stored, or None if ``key`` is not well-formed."""
    return hashlib.sha256(key).digest() if _FORM.fullmatch(key) else None


def is_id(text: str) -> bool:
    """Return whether ``text`` is a well-formed key id."""
    return _ID.fullmatch(text) is not None


class UnknownKey(LookupError):
    """No key has this id."""


class KeyStore(SqliteFile):
    """Store of API keys in the file at ``path`` (see :class:`SqliteFile`)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, _SCHEMA, "NORMAL")

    def create(
        self, owner: str, scopes: Iterable[str], now: int, expires: int | None = None, replaces: str | None = None
    ) -> tuple[ApiKey, str]:
        """Create a key for ``owner``; return its stored properties and the key itself, which is not stored."""
        identity, key = new_key()
        made = ApiKey(identity, owner, tuple(scopes), now, expires, None, None, replaces)
        digest = hashlib.sha256(key.encode("ascii")).digest()
        self._db.execute(
            "INSERT INTO keys (id, digest, owner, scopes, created, expires, replaces) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (identity, digest, owner, json.dumps(made.scopes), now, expires, replaces),
        )
        return made, key

    def rotate(self, identity: str, now: int, overlap: int, expires: int | None = None) -> tuple[ApiKey, str]:
        """Create a key that replaces another; the old key remains valid for at most ``overlap`` seconds.

        :raises UnknownKey: if no key has this id, or the key is no longer valid.
        """
        with self._transaction():
            old = self.get(identity)
            if old is None or old.refusal(now):
                raise UnknownKey(identity)
            until = now + overlap if old.expires is None else min(old.expires, now + overlap)
            self._db.execute("UPDATE keys SET expires = ? WHERE id = ?", (until, identity))
            return self.create(old.owner, old.scopes, now, expires, identity)

    def revoke(self, identity: str, now: int) -> None:
        """Revoke a key permanently; revoking it again has no effect. :raises UnknownKey: if no key has this id."""
        done = self._db.execute("UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?", (now, identity))
        if done.rowcount == 0:
            raise UnknownKey(identity)

    def get(self, identity: str) -> ApiKey | None:
        """Return the key with this id, or None."""
        if not is_id(identity):
            return None
        row = self._db.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (identity,)).fetchone()  # noqa: S608
        return _key(row) if row else None

    def find(self, digest: bytes) -> ApiKey | None:
        """Return the key with this digest, or None (30 us)."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM keys WHERE digest = ?", (digest,)).fetchone()  # noqa: S608
        return _key(row) if row else None

    def all(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM keys ORDER BY created, id").fetchall()  # noqa: S608
        return [_key(row) for row in rows]

    def export(self) -> list[tuple[ApiKey, bytes]]:
        """Return all keys with their digests, for import into another store."""
        rows = self._db.execute(f"SELECT {_COLUMNS}, digest FROM keys ORDER BY created, id").fetchall()  # noqa: S608
        return [(_key(row[:-1]), row[-1]) for row in rows]

    def put(self, key: ApiKey, digest: bytes) -> bool:
        """Import a key from another store; return False, changing nothing, if its id exists already."""
        row = (
            *(key.id, digest, key.owner, json.dumps(key.scopes), key.created),
            *(key.expires, key.revoked, key.last_used, key.replaces),
        )
        done = self._db.execute(
            "INSERT INTO keys (id, digest, owner, scopes, created, expires, revoked, last_used, replaces)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            row,
        )
        return done.rowcount == 1

    def touch(self, used: Mapping[str, int]) -> None:
        """Record when keys (by id) were last used."""
        with self._transaction():
            self._db.executemany(
                "UPDATE keys SET last_used = max(coalesce(last_used, 0), ?) WHERE id = ?",
                [(when, identity) for identity, when in used.items()],
            )


_COLUMNS = "id, owner, scopes, created, expires, revoked, last_used, replaces"


def _key(row: tuple[str, str, str, int, int | None, int | None, int | None, str | None]) -> ApiKey:
    identity, owner, scopes, created, expires, revoked, last_used, replaces = row
    return ApiKey(identity, owner, tuple(json.loads(scopes)), created, expires, revoked, last_used, replaces)
