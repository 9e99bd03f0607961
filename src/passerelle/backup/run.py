"""Make, verify and restore backups."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from passerelle.backup.archive import read_archive, write_archive
from passerelle.backup.databases import Database, Restored
from passerelle.backup.encryption import Key
from passerelle.backup.errors import BackupError
from passerelle.backup.manifest import Manifest, Part, stamp
from passerelle.backup.rotation import Keep, kept
from passerelle.backup.storage import Archive, Storage, archive_name


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made: its archive, and the archives that were deleted afterwards."""

    name: str
    size: int
    manifest: Manifest
    verified: bool
    deleted: tuple[str, ...]


def make_backup(
    databases: Sequence[Database],
    storage: Storage,
    prefix: str,
    now: datetime,
    program: str,
    *,
    key: Key | None = None,
    keep: Keep | None = None,
    verify: bool = True,
) -> Made:
    """Back up all databases to one archive, verify it by restoring, and apply the rule ``keep``.

    The archive appears in the storage when it is verified. Old archives are deleted only after that, so the last good
    one is never among them. ``prefix`` names the installation.

    :raises BackupError: if anything fails. Then the storage has no new archive, and nothing was deleted.
    :raises OSError: if temporary files cannot be written.
    """
    now = now.astimezone(UTC).replace(microsecond=0)
    name = archive_name(prefix, now, encrypted=key is not None)
    with storage.locked():
        with storage.adding(name) as path:
            with _folder() as folder:
                parts = tuple(database.dump(folder) for database in databases)
                manifest = Manifest(program=program, time=now, parts=parts)
                with path.open("wb") as file:
                    write_archive(file, manifest, folder, key)
                if verify and key is not None and not key.identities:
                    # Only the holder of the secret key can read the archive.
                    _verify(databases, manifest, folder)
            if verify and (key is None or key.identities):
                with _folder() as folder:
                    _verify(databases, read_archive(path, folder, key, name=name), folder)
            size = path.stat().st_size
        deleted = rotate(storage, prefix, keep) if keep is not None and verify else ()
    return Made(name, size, manifest, verify, deleted)


def rotate(storage: Storage, prefix: str, keep: Keep) -> tuple[str, ...]:
    """Delete the archives of an installation that the rule does not keep. Returns their names."""
    own = [archive for archive in storage.archives() if archive.prefix == prefix]
    wanted = kept([archive.time for archive in own], keep)
    old = [archive for archive in own if archive.time not in wanted]
    for archive in old:
        storage.delete(archive.name)
    return tuple(archive.name for archive in old)


def verify_backup(databases: Sequence[Database], storage: Storage, name: str, key: Key | None) -> Manifest:
    """Check an archive completely, and restore each database to a scratch database.

    :raises BackupError: if the archive is not intact or a restored database differs from the manifest.
    :raises OSError: if temporary files cannot be written.
    """
    with storage.fetched(name) as path, _folder() as folder:
        manifest = read_archive(path, folder, key, name=name)
        _verify(databases, manifest, folder)
    return manifest


def restore_backup(
    databases: Sequence[Database],
    storage: Storage,
    name: str,
    key: Key | None,
    now: datetime,
    *,
    replace: bool,
    beside: bool,
) -> list[tuple[Part, Restored]]:
    """Restore ``databases`` from an archive.

    All of them are restored beside the present ones and compared first. With ``beside``, they stay there. Otherwise
    they take the places of the present ones, whose content is kept; those that exist need ``replace``.

    :raises BackupError: if that is not possible. Before the first database was replaced, nothing has changed then.
    :raises OSError: if temporary files cannot be written.
    """
    if not beside and not replace and (present := [each for each in databases if each.exists()]):
        places = ", ".join(f"{each.name} ({each.place})" for each in present)
        raise BackupError(
            f"nothing was restored, since these databases exist: {places}; --yes replaces them and keeps their "
            "content beside, --to-scratch restores to new databases beside them"
        )
    with storage.fetched(name) as path, _folder() as folder:
        manifest = read_archive(path, folder, key, name=name)
        pairs = list(_matched(databases, manifest, name))
        mark = stamp(now.astimezone(UTC), milliseconds=True)
        ready = [(database, part, database.restore_beside(part, folder, mark)) for database, part in pairs]
    if beside:
        return [(part, found) for _, part, found in ready]
    return [(part, database.replace(found, mark)) for database, part, found in ready]


def _verify(databases: Sequence[Database], manifest: Manifest, folder: Path) -> None:
    by_name = {database.name: database for database in databases}
    for part in manifest.parts:
        database = by_name.get(part.name)
        if database is None:
            known = ", ".join(by_name) or "none"
            raise BackupError(f"the configuration has no database {part.name!r} (it has: {known}) to restore it with")
        _check_engine(database, part)
        database.verify(part, folder)


def _matched(databases: Sequence[Database], manifest: Manifest, name: str) -> Iterator[tuple[Database, Part]]:
    parts = {part.name: part for part in manifest.parts}
    for database in databases:
        if database.name not in parts:
            raise BackupError(f"{name} has no database {database.name!r}; it has: {', '.join(parts)}")
        _check_engine(database, parts[database.name])
        yield database, parts[database.name]


def _check_engine(database: Database, part: Part) -> None:
    if database.engine != part.engine:
        raise BackupError(
            f"{part.name} was backed up from {part.engine}, and the configuration has {database.engine}: restore with "
            f"the former configuration{', then `passerelle keys import`' if part.name == 'keys' else ''}"
        )


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a temporary folder that only this user can read (``TMPDIR``), removed at the end."""
    folder = tempfile.TemporaryDirectory(prefix="passerelle-backup-")
    try:
        yield Path(folder.name)
    finally:
        try:
            folder.cleanup()
        finally:
            # A signal may have ended the first attempt.
            shutil.rmtree(folder.name, ignore_errors=True)


def newest(archives: Sequence[Archive], prefix: str) -> Archive:
    """Return the newest archive of an installation. :raises BackupError: if there is none."""
    own = [archive for archive in archives if archive.prefix == prefix]
    if not own:
        raise BackupError(f"there is no backup named {prefix}-…")
    return own[-1]
