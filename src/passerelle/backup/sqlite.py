"""SQLite databases: copies by the online backup of SQLite, which waits for no writer in WAL mode.

A live database is replaced by the same means: its new content is written in one transaction, so programs that have it
open see it at their next read. Replacing the file would leave them with the old file, and the new one with the
write-ahead log of the old.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from passerelle.backup.archive import sha256_of
from passerelle.backup.databases import Restored
from passerelle.backup.errors import BackupError
from passerelle.backup.manifest import Part, Table, differences
from passerelle.system.durable import sync

BUSY_SECONDS = 30.0
"""How long other writers may hold up a backup or the replacement of a database (seconds)."""

_STEP = 2048  # pages
_UNUSABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COMPANIONS = ("", "-wal", "-shm", "-journal")


class SqliteDatabase:
    """The SQLite file at ``path``, named ``name`` in backups."""

    engine: Final = "sqlite"

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    @property
    def place(self) -> str:
        """Its path."""
        return str(self.path)

    def dump(self, folder: Path) -> Part:
        """Copy the database at one moment, and check the copy."""
        copy = folder / f"{self.name}.db"
        if not self.path.exists():
            raise BackupError(f"{self.name}: {self.path} does not exist")
        with self._reported(self.path), closing(_open(self.path)) as source, closing(sqlite3.connect(copy)) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            # In one read transaction, so that the numbers of rows are those of the copy.
            source.execute("BEGIN")
            layout, tables = _content(source)
            _copy(source, target)
        if not tables:
            raise BackupError(f"{self.name}: {self.path} has no tables; there is nothing to back up")
        return Part(
            name=self.name,
            engine=self.engine,
            version=sqlite3.sqlite_version,
            file=copy.name,
            size=copy.stat().st_size,
            sha256=sha256_of(copy),
            layout=layout,
            tables=tables,
        )

    def verify(self, part: Part, folder: Path) -> None:
        """Check the copy, and compare it with the manifest. It is a complete database itself."""
        path = folder / part.file
        with self._reported(path), closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
            (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise BackupError(f"{self.name}: the copy is not intact: {found}")
            if wrong := differences(part, *_content(db)):
                raise BackupError(f"{self.name}: the copy is not equal to the manifest: {'; '.join(wrong[:3])}")

    def exists(self) -> bool:
        """Return whether there is a file."""
        return self.path.exists()

    def restore_beside(self, part: Part, folder: Path, stamp: str) -> Restored:
        """Write the database to a new file in the same folder, with the owner and mode of the present one."""
        self.verify(part, folder)
        path = self.path.with_name(f"{self.path.name}.restored-{stamp}")
        try:
            with (
                (folder / part.file).open("rb") as source,
                open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target,
            ):
                while block := source.read(1 << 20):
                    target.write(block)
                with contextlib.suppress(FileNotFoundError):
                    present = self.path.stat()
                    os.fchmod(target.fileno(), present.st_mode & 0o777)
                    with contextlib.suppress(PermissionError):
                        os.fchown(target.fileno(), present.st_uid, present.st_gid)
                target.flush()
                os.fsync(target.fileno())
        except OSError as error:
            if not isinstance(error, FileExistsError):
                path.unlink(missing_ok=True)
            raise BackupError(f"{self.name}: cannot write {path}: {(error.strerror or str(error)).lower()}") from None
        return Restored(str(path))

    def replace(self, beside: Restored, stamp: str) -> Restored:
        """Write the restored content to the live database in one transaction; its former content is kept in a file."""
        new = Path(beside.place)
        old = self.path.with_name(f"{self.path.name}.before-{stamp}")
        if not self.path.exists():
            self._move(new, old)
            return Restored(str(self.path))
        try:
            with self._reported(self.path), closing(_open(self.path)) as live, closing(_open(new)) as source:
                with closing(sqlite3.connect(old)) as kept:
                    os.chmod(old, self.path.stat().st_mode & 0o777)
                    live.execute("BEGIN")
                    live.execute("SELECT 1 FROM sqlite_schema").fetchone()
                    _copy(live, kept)
                    live.execute("COMMIT")
                _copy(source, live)
        except _Unusable:
            self._move(new, old)
            return Restored(str(self.path), str(old), "the file was damaged; restart the programs that have it open")
        new.unlink()
        return Restored(str(self.path), str(old))

    def _move(self, new: Path, old: Path) -> None:
        """Replace the file by rename. Its write-ahead log must not meet the new file, so it is moved as well."""
        old.unlink(missing_ok=True)
        for suffix in _COMPANIONS[1:]:
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{old}{suffix}")
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path, old)
        os.replace(new, self.path)
        sync(self.path.parent)

    @contextlib.contextmanager
    def _reported(self, path: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _UNUSABLE:
                raise _Unusable(f"{self.name}: {path} is damaged: {error}") from None
            raise BackupError(f"{self.name}: {path}: {error}") from None


class _Unusable(BackupError):
    """The file is not a database, or a damaged one."""


def _open(path: Path) -> sqlite3.Connection:
    # Never creates a file, unlike a plain path. Writable, because a log that a crash has left must be replayed.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a database in one transaction of the target, and of the source if that has begun one.

    It takes several steps, so that a signal can end it.
    """
    source.backup(target, pages=_STEP, progress=_deadline(time.monotonic() + BUSY_SECONDS), sleep=0.02)


def _deadline(until: float) -> Callable[[int, int, int], None]:
    def progress(status: int, _remaining: int, _total: int) -> None:
        # sqlite3 repeats the step as long as the database is locked.
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > until:
            raise sqlite3.OperationalError("database is locked")

    return progress


def _content(db: sqlite3.Connection) -> tuple[str, dict[str, Table]]:
    """Return the hash of the schema, and the number of rows of each table that is not virtual."""
    rows = db.execute(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    layout = hashlib.sha256("\n".join("\t".join(row) for row in sorted(rows)).encode()).hexdigest()
    tables = {}
    for kind, name, _, sql in sorted(rows):
        if kind == "table" and not sql.upper().startswith("CREATE VIRTUAL"):
            quoted = name.replace('"', '""')
            (count,) = db.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608 -- a quoted name
            tables[name] = Table(rows=count)
    return layout, tables
