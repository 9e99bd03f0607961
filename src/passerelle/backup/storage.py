"""Where archives are kept: a folder, or (in :mod:`.s3`) a bucket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from passerelle.backup.errors import BackupError
from passerelle.backup.manifest import stamp
from passerelle.system.durable import sync

_NAME = re.compile(r"(?P<prefix>.+)-(?P<time>\d{8}T\d{6}Z)\.tar\.gz(?:\.age)?").fullmatch


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive in a storage. ``prefix`` names the installation."""

    name: str
    size: int
    prefix: str
    time: datetime

    @property
    def is_encrypted(self) -> bool:
        """Whether it needs a key."""
        return self.name.endswith(".age")


def archive_name(prefix: str, time: datetime, *, encrypted: bool) -> str:
    """Return the name of an archive made at ``time``."""
    return f"{prefix}-{stamp(time.astimezone(UTC))}.tar.gz{'.age' if encrypted else ''}"


def parse_name(name: str, size: int) -> Archive | None:
    """Parse the name of a file; None if it is not that of an archive."""
    match = _NAME(name)
    if match is None:
        return None
    try:
        time = datetime.strptime(match["time"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return Archive(name, size, match["prefix"], time)


class Storage(Protocol):
    """A place for archives. All methods raise ``BackupError``."""

    @property
    def place(self) -> str:
        """Its path or address, without secrets."""

    def archives(self) -> list[Archive]:
        """Return the archives of all installations, the oldest first."""

    def locked(self) -> AbstractContextManager[None]:
        """Exclude other backups to the same place, as far as it supports that."""

    def adding(self, name: str) -> AbstractContextManager[Path]:
        """Yield the path of a new file with the mode 0600, which becomes the archive ``name`` at the end.

        After an error nothing of it is left.
        """

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Yield the path of a file with the content of the archive ``name``."""

    def delete(self, name: str) -> None:
        """Delete an archive."""


class FolderStorage:
    """A folder, created with the mode 0700 if missing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def place(self) -> str:
        """Its path."""
        return str(self.path)

    def archives(self) -> list[Archive]:
        """Return the archives in the folder; other files are ignored."""
        try:
            entries = [(entry.name, entry.stat().st_size) for entry in os.scandir(self.path) if entry.is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _cannot("read", self.path, error) from None
        found = [archive for name, size in entries if (archive := parse_name(name, size)) is not None]
        return sorted(found, key=lambda archive: (archive.time, archive.name))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock on the folder; the kernel releases it if this process dies."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _cannot("write to", self.path, error) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError(f"another backup to {self.path} is running") from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):  # not every file system has locks
                    raise _cannot("lock", self.path, error) from None
            else:
                self._remove_leftovers()
            yield
        finally:
            os.close(descriptor)

    def _remove_leftovers(self) -> None:
        """Remove the files of runs that were killed."""
        for path in self.path.glob(".*.tar.gz*.part"):
            path.unlink(missing_ok=True)

    @contextmanager
    def adding(self, name: str) -> Iterator[Path]:
        """Yield a hidden file in the folder; at the end it is written to disk and renamed."""
        final = self.path / name
        path = self.path / f".{name}.{os.getpid()}.part"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            yield path
            if final.exists():
                raise BackupError(f"{final} exists already")
            sync(path)
            os.rename(path, final)
            sync(self.path)
        except OSError as error:
            raise _cannot("write", final, error) from None
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Yield the file itself."""
        path = self.path / name
        if not path.is_file():
            raise BackupError(f"there is no backup {path}")
        yield path

    def delete(self, name: str) -> None:
        """Delete a file."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise _cannot("delete", self.path / name, error) from None


def _cannot(what: str, path: Path, error: OSError) -> BackupError:
    return BackupError(f"cannot {what} {path}: {(error.strerror or str(error)).lower()}")
