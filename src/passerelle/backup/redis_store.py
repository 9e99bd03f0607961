"""API keys and sessions in Redis: read by SCAN while gateways use them, restored beside the present ones.

The dump is an SQLite file. Redis has no moment that a reader could hold, so each entry is one of its own moment. A key
consists of two entries that are written together: one without the other was created meanwhile, and is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from passerelle.backup.archive import sha256_of
from passerelle.backup.databases import Restored
from passerelle.backup.errors import BackupError
from passerelle.backup.manifest import Part, Table, differences
from passerelle.caching.redis.blocking import blocking_client
from passerelle.caching.redis.location import locate
from passerelle.security.credentials import redis_api_keys, redis_sessions
from passerelle.security.credentials.redis_lookup import UNREADABLE

MOST_ENTRIES = 2_000_000
"""Entries of one store; a key has two."""
KEPT_DAYS = 7
"""How long the former content, and what was restored to look at, stays in Redis."""

_SECONDS = 10.0  # for a connection or a reply
_BATCH = 500
_IDS = b"ids"  # the set of all keys, which follows from them
_LAYOUT = hashlib.sha256(b"redis 1").hexdigest()
_SCHEMA = "CREATE TABLE entries (name TEXT PRIMARY KEY, value TEXT NOT NULL, expires INTEGER) WITHOUT ROWID"
_UNPAIRED = (
    "DELETE FROM entries WHERE name LIKE 'digest:%' AND 'key:' || value NOT IN (SELECT name FROM entries)",
    "DELETE FROM entries WHERE name LIKE 'key:%' AND substr(name, 5) NOT IN"
    " (SELECT value FROM entries WHERE name LIKE 'digest:%')",
)

# KEYS: for each entry the names of the present, the former and the restored one. ARGV: for how long the former one is
# kept (ms), or an empty text if entries expire themselves. At no moment an entry is missing that both have.
_EXCHANGE = """
for i = 1, #KEYS, 3 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
    if ARGV[1] ~= '' then redis.call('PEXPIRE', KEYS[i + 1], ARGV[1]) end
  end
  if redis.call('EXISTS', KEYS[i + 2]) == 1 then
    redis.call('RENAME', KEYS[i + 2], KEYS[i])
    if ARGV[1] ~= '' then redis.call('PERSIST', KEYS[i]) end
  end
end
"""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry: its name without the prefix, a text or the fields of a hash, and when it expires (ms since 1970)."""

    name: bytes
    value: bytes | dict[bytes, bytes]
    expires: int | None


class RedisStore:
    """The store ``name``, `keys` or `sessions`, in the Redis at ``url``."""

    engine: Final = "redis"

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url
        self._where = locate(url).label
        self._lasts = name == "keys"  # no entry expires
        self._prefix = redis_api_keys.PREFIX if self._lasts else redis_sessions.PREFIX

    @property
    def place(self) -> str:
        """The address of Redis."""
        return f"redis {self._where}"

    def dump(self, folder: Path) -> Part:
        """Read all entries."""
        file = folder / f"{self.name}.db"
        with self._connected() as client:
            version = str(client.info("server")["redis_version"])
            self._read_to(file, client, self._prefix)
        return Part(
            name=self.name,
            engine="redis",
            version=version,
            file=file.name,
            size=file.stat().st_size,
            sha256=sha256_of(file),
            layout=_LAYOUT,
            tables=self._content(file),
        )

    def verify(self, part: Part, folder: Path) -> None:
        """Check the dump, and compare it with the manifest: its entries are independent of each other."""
        with self._readable(folder / part.file):
            wrong = differences(part, _LAYOUT, self._content(folder / part.file))
        if wrong:
            raise BackupError(f"{self.name}: the dump is not equal to the manifest: {'; '.join(wrong[:3])}")

    def exists(self) -> bool:
        """Return whether there is an entry."""
        with self._connected() as client:
            return next(client.scan_iter(match=self._prefix + b"*", count=1000), None) is not None

    def restore_beside(self, part: Part, folder: Path, stamp: str) -> Restored:
        """Write the entries under other names, read them back, and compare them, without those that have expired."""
        self.verify(part, folder)
        prefix = self._beside("restored", stamp)
        back = folder / f"{self.name}.back.db"
        with self._connected() as client:
            try:
                self._write_from(folder / part.file, client, prefix)
                self._read_to(back, client, prefix)
                now = _now(client)
                if self._content(back, now) != self._content(folder / part.file, now):
                    raise BackupError(f"{self.name}: what was restored to {self.place} differs from the backup")
            except BaseException:
                self._delete(client, prefix)
                raise
        return Restored(self._shown(prefix), note=f"it is deleted after {KEPT_DAYS} days")

    def replace(self, beside: Restored, stamp: str) -> Restored:
        """Exchange the names of entries, some at a time. Gateways find each entry that both have at any moment."""
        new, old = self._beside("restored", stamp), self._beside("before", stamp)
        kept_ms = str(KEPT_DAYS * 86_400_000) if self._lasts else ""
        with self._connected() as client:
            present = self._names(client, self._prefix)
            names = present | self._names(client, new)
            for batch in _batches(sorted(names)):
                triples = [prefix + name for name in batch for prefix in (self._prefix, old, new)]
                client.eval(_EXCHANGE, len(triples), *triples, kept_ms)
            if self._lasts:
                for batch in _batches(sorted(self._names(client, self._prefix))):
                    ids = [name.removeprefix(b"key:") for name in batch if name.startswith(b"key:")]
                    if ids:
                        client.sadd(redis_api_keys.IDS, *ids)
        kept = f"{self._shown(old)} for {KEPT_DAYS} days" if self._lasts else self._shown(old)
        return Restored(self._shown(self._prefix), kept if present else "")

    def _beside(self, kind: str, stamp: str) -> bytes:
        return f"passerelle:{kind}-{stamp}:{self.name}:".encode()

    def _shown(self, prefix: bytes) -> str:
        return f"{self.place} ({prefix.decode()}*)"

    def _names(self, client: Any, prefix: bytes) -> set[bytes]:
        """Return the names of all entries, without the prefix."""
        names: set[bytes] = set()
        for name in client.scan_iter(match=prefix + b"*", count=1000):
            names.add(name.removeprefix(prefix))
            if len(names) > MOST_ENTRIES:
                raise BackupError(f"{self.name}: {self.place} has more than {MOST_ENTRIES} entries")
        return names

    def _read_to(self, file: Path, client: Any, prefix: bytes) -> None:
        """Write all entries under ``prefix`` to a new dump."""
        with self._readable(file), closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")
            db.execute(_SCHEMA)
            for batch in _batches(self._names(client, prefix) - {_IDS}):
                rows = [
                    (_text(each.name), _packed(each.value), each.expires) for each in _entries(client, prefix, batch)
                ]
                db.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
            if self._lasts:
                for statement in _UNPAIRED:
                    db.execute(statement)
            db.commit()

    def _write_from(self, file: Path, client: Any, prefix: bytes) -> None:
        """Write the entries of a dump under ``prefix``. Those without an end get one."""
        until = _now(client) + KEPT_DAYS * 86_400_000
        with self._readable(file), closing(sqlite3.connect(file)) as db:
            for batch in _batches(db.execute("SELECT name, value, expires FROM entries")):
                pipeline = client.pipeline(transaction=False)
                for name, packed, expires in batch:
                    place = prefix + name.encode("latin-1")
                    if name.startswith("digest:"):
                        pipeline.set(place, packed.encode("latin-1"))
                    else:
                        fields = json.loads(packed).items()
                        pipeline.hset(
                            place, mapping={key.encode("latin-1"): value.encode("latin-1") for key, value in fields}
                        )
                    pipeline.pexpireat(place, until if expires is None else expires)
                pipeline.execute()

    def _delete(self, client: Any, prefix: bytes) -> None:
        with contextlib.suppress(Exception):  # they expire
            for batch in _batches(self._names(client, prefix)):
                client.unlink(*(prefix + name for name in batch))

    def _content(self, file: Path, now: int = 0) -> dict[str, Table]:
        """Describe a dump, without what has expired: the number of keys or sessions, and a SHA-256 of all entries."""
        digest, number = hashlib.sha256(), 0
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as db:
            wanted = "SELECT name, value FROM entries WHERE expires IS NULL OR expires > ? ORDER BY name"
            for name, value in db.execute(wanted, (now,)):
                digest.update(f"{name}\0{value}\0".encode())
                number += not name.startswith("digest:")
        return {self.name: Table(rows=number, digest=digest.hexdigest())}

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """Connect to Redis, and report its errors without its URL, which may have a password."""
        if importlib.util.find_spec("redis") is None:
            raise BackupError("backups of what is in Redis need the extra: pip install 'passerelle[redis]'")
        from redis import RedisError

        try:
            with closing(blocking_client(self._url, _SECONDS)) as client:
                yield client
        except (RedisError, *UNREADABLE) as error:  # UNREADABLE: replies that are not valid RESP
            raise BackupError(f"{self.name}: {self.place}: {' '.join(str(error).split())[:300]}") from None

    @contextlib.contextmanager
    def _readable(self, file: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise BackupError(f"{self.name}: {file.name}: {error}") from None


def _entries(client: Any, prefix: bytes, names: Iterable[bytes]) -> Iterator[_Entry]:
    """Read entries; those that have gone meanwhile are missing."""
    names = list(names)
    now = _now(client)
    pipeline = client.pipeline(transaction=False)
    for name in names:
        (pipeline.get if name.startswith(b"digest:") else pipeline.hgetall)(prefix + name)
        pipeline.pttl(prefix + name)
    found = pipeline.execute()
    for name, value, left in zip(names, found[::2], found[1::2], strict=True):
        if value:
            yield _Entry(name, value, now + left if left >= 0 else None)


def _now(client: Any) -> int:
    """Return the time of Redis (ms since 1970)."""
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(items)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _text(data: bytes) -> str:
    return data.decode("latin-1")  # for any bytes


def _packed(value: bytes | dict[bytes, bytes]) -> str:
    if isinstance(value, bytes):
        return _text(value)
    return json.dumps({_text(key): _text(item) for key, item in sorted(value.items())})
