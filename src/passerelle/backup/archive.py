"""Archives: a manifest and the dumps in one tar file, compressed by gzip, and encrypted if there is a key.

``tar`` and ``age`` can open them without passerelle. The manifest is the first file, and has the SHA-256 of the others.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import IO, TYPE_CHECKING

from passerelle.backup.encryption import MAGIC, Key, decrypting, encrypting
from passerelle.backup.errors import BackupError
from passerelle.backup.manifest import Manifest, Part, parse_manifest

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MANIFEST = "manifest.json"
_MOST_MANIFEST_BYTES = 64 << 20
_BLOCK = 1 << 20
_LEVEL = 4  # of gzip: higher levels take several times as long for a few per cent


def write_archive(target: BufferedIOBase, manifest: Manifest, folder: Path, key: Key | None) -> None:
    """Write the manifest and the dumps, which are in ``folder``, to ``target``.

    :raises OSError: if that fails.
    """
    if key is None:
        _write(target, manifest, folder)
        return
    recorder = _ErrorRecorder(target)
    try:
        with encrypting(recorder, key) as stream:
            _write(stream, manifest, folder)
    except Exception as error:
        raise recorder.error or error from None


def read_archive(path: Path, folder: Path, key: Key | None, *, name: str | None = None) -> Manifest:
    """Check an archive completely, and write its dumps to ``folder``. ``name`` is that of errors.

    :raises BackupError: if it is not a complete, unchanged archive, or cannot be decrypted.
    :raises OSError: if it cannot be read, or the dumps cannot be written.
    """
    name = name or path.name
    with path.open("rb") as file, _opened(file, name, key) as stream:
        try:
            with gzip.GzipFile(fileobj=stream) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                manifest = _read(tar, folder, name)
                while plain.read(_BLOCK):  # to the end: the checksum of gzip is there
                    pass
        except EOFError:
            raise BackupError(f"{name} is cut: its end is missing") from None
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error) as error:
            raise BackupError(f"{name} is damaged: {error}") from None
    return manifest


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(target: BufferedIOBase, manifest: Manifest, folder: Path) -> None:
    with (
        gzip.GzipFile("", "wb", _LEVEL, target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        data = manifest.to_json()
        tar.addfile(_entry(manifest, _MANIFEST, len(data)), io.BytesIO(data))
        for part in manifest.parts:
            with (folder / part.file).open("rb") as file:
                tar.addfile(_entry(manifest, part.file, part.size), file)


def _entry(manifest: Manifest, name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(manifest.time.timestamp())
    return entry


@contextmanager
def _opened(file: BufferedIOBase, name: str, key: Key | None) -> Iterator[BufferedIOBase]:
    head = file.read(len(MAGIC))
    file.seek(0)
    if not head:
        raise BackupError(f"{name} is empty")
    if MAGIC.startswith(head) or head.startswith(MAGIC):
        if key is None:
            raise BackupError(f"{name} is encrypted; give the key with --key-file")
        if not key.identities:
            raise BackupError(f"{name} is encrypted, and the key file has only a public key, which cannot decrypt it")
        with decrypting(file, key, name) as stream:
            yield stream
    elif head.startswith(b"\x1f\x8b"):
        yield file
    else:
        raise BackupError(f"{name} is not a backup of passerelle")


def _read(tar: tarfile.TarFile, folder: Path, name: str) -> Manifest:
    first = tar.next()
    if first is None or first.name != _MANIFEST or not first.isreg() or first.size > _MOST_MANIFEST_BYTES:
        raise BackupError(f"{name} is not a backup of passerelle: it does not begin with a manifest")
    content = tar.extractfile(first)
    assert content is not None, "it is a regular file"
    manifest = parse_manifest(_exactly(content, first.size), name)
    for part in manifest.parts:
        entry = tar.next()
        if entry is None or entry.name != part.file or not entry.isreg():
            raise BackupError(f"{name} is damaged: {part.file} is missing")
        file = tar.extractfile(entry)
        assert file is not None, "it is a regular file"
        _extract(file, part, folder / part.file, name)
    if tar.next() is not None:
        raise BackupError(f"{name} is damaged: it has files that are not in its manifest")
    return manifest


def _extract(source: IO[bytes], part: Part, path: Path, name: str) -> None:
    """Write a dump to ``path``, never more than the manifest states, and check its SHA-256."""
    digest = hashlib.sha256()
    left = part.size
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        while block := source.read(min(_BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            target.write(block)
    if left or digest.hexdigest() != part.sha256:
        raise BackupError(f"{name} is damaged: the content of {part.file} does not have the SHA-256 of the manifest")


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return data


class _ErrorRecorder(BufferedIOBase):
    """Passes writes on and records the error of one: the encryption reports it without its number."""

    def __init__(self, target: BufferedIOBase) -> None:
        self._target = target
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write ``data``."""
        try:
            return self._target.write(data)
        except OSError as error:
            self.error = error
            raise
