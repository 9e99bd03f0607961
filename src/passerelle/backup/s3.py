"""Archives in a bucket of S3 or of a storage that is compatible with it, by obstore.

An upload becomes visible when it is complete. Its size is compared afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from passerelle.backup.errors import BackupError
from passerelle.backup.storage import Archive, parse_name

_LEAST_CHUNK = 8 << 20
_MOST_CHUNKS = 5000  # S3 allows 10,000 parts of an upload
_TRIES = 3
_TRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """The address of a bucket. What is None comes from the environment (``AWS_REGION`` …), or from the machine's role.

    Without ``endpoint``, it is Amazon's.
    """

    name: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


class S3Storage:
    """The archives below the prefix of a bucket. Nothing excludes concurrent backups to it."""

    def __init__(self, bucket: Bucket) -> None:
        try:
            from obstore.store import S3Store
        except ModuleNotFoundError:
            raise BackupError("a target in S3 needs obstore: pip install 'passerelle[s3]'") from None
        self._bucket = bucket
        config: dict[str, Any] = {
            "endpoint": bucket.endpoint,
            "region": bucket.region,
            "access_key_id": bucket.access_key,
            "secret_access_key": bucket.secret_key,
        }
        with self._reported("use"):
            self._store = S3Store(
                bucket.name,
                prefix=bucket.prefix or None,
                client_options={"allow_http": (bucket.endpoint or "").startswith("http://")},
                retry_config={"max_retries": _TRIES, "retry_timeout": timedelta(seconds=_TRY_SECONDS)},
                **{key: value for key, value in config.items() if value is not None},
            )

    @property
    def place(self) -> str:
        """Its address."""
        return f"s3://{self._bucket.name}{'/' + self._bucket.prefix if self._bucket.prefix else ''}"

    def archives(self) -> list[Archive]:
        """Return the archives directly below the prefix."""
        with self._reported("list"):
            found = [(meta["path"], meta["size"]) for page in self._store.list() for meta in page]
        archives = [archive for name, size in found if (archive := parse_name(name, size)) and "/" not in name]
        return sorted(archives, key=lambda archive: (archive.time, archive.name))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Do nothing: names have the time, and an existing archive is never replaced."""
        yield

    @contextmanager
    def adding(self, name: str) -> Iterator[Path]:
        """Yield a temporary file, which is uploaded at the end."""
        with tempfile.TemporaryDirectory(prefix="passerelle-backup-") as folder:
            path = Path(folder, name)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            yield path
            size = path.stat().st_size
            if any(archive.name == name for archive in self.archives()):
                raise BackupError(f"{self.place}/{name} exists already")
            with self._reported("write to"):
                self._store.put(name, path, chunk_size=max(_LEAST_CHUNK, size // _MOST_CHUNKS + 1), max_concurrency=4)
                stored = self._store.head(name)["size"]
            if stored != size:
                raise BackupError(f"{self.place}/{name} has {stored} bytes instead of {size}")

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Yield a temporary file with the content of an archive."""
        with tempfile.TemporaryDirectory(prefix="passerelle-backup-") as folder:
            path = Path(folder, name)
            try:
                with self._reported("read"), path.open("wb") as file:
                    for block in self._store.get(name).stream():
                        file.write(block)
            except FileNotFoundError:
                raise BackupError(f"there is no backup {self.place}/{name}") from None
            yield path

    def delete(self, name: str) -> None:
        """Delete an archive."""
        with self._reported("delete from"):
            self._store.delete(name)

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            text = str(error)
            if "NoSuchBucket" in text:
                text = "there is no such bucket"
            elif isinstance(error, FileNotFoundError) and what == "read":
                raise
            # The first paragraph; the rest is for programmers, and would not fit on a line.
            reason = " ".join(text.partition("\n\nDebug source")[0].split())[:500]
            raise BackupError(f"cannot {what} {self.place}: {reason}") from None
