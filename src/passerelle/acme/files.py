"""The folder with certificates, keys and accounts: each file is replaced as a whole, with mode 0600.

A certificate, its chain and its key are one file, so that no reader ever sees a key of another certificate.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Final

from passerelle.system.durable import sync

PLACEHOLDER: Final = ".placeholder.pem"  # no name begins with a dot
LOCK: Final = ".lock"
MOST: Final = 256 * 1024
"""Bytes of a file; a longer one is none of this program."""


def certificate_file(folder: Path, name: str) -> Path:
    """Return the file of the certificate of ``name``."""
    return folder / f"{name}.pem"


def read(path: Path) -> bytes | None:
    """Return the contents of a file, or None if there is none. :raises OSError: if it cannot be read."""
    try:
        with open(path, "rb") as file:
            found = file.read(MOST + 1)
    except FileNotFoundError:
        return None
    if len(found) > MOST:
        raise OSError(f"{path} has more than {MOST} bytes")
    return found


def write(path: Path, data: bytes) -> None:
    """Replace a file; a crash at any time leaves the one before or the new one. :raises OSError: if that fails."""
    path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    sync(path.parent)


def ensure_placeholder(folder: Path) -> Path:
    """Return the file of a certificate that is signed by itself and valid for no name; it is made if it is missing.

    :raises OSError: if it cannot be written.
    """
    path = folder / PLACEHOLDER
    if not path.exists():
        made = _placeholder()
        if not path.exists():  # a worker that started at the same time may have been faster
            write(path, made)
    return path


def _placeholder() -> bytes:
    from cryptography import x509  # the imports take 0.1 s
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "passerelle: no certificate yet")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + made.public_bytes(pem)


class FolderLock:
    """A lock among the processes of one machine that use a folder; it ends with its process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock, if no other process has it. :raises OSError: if the folder cannot be used."""
        if self._descriptor is not None:
            return True
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give up the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
