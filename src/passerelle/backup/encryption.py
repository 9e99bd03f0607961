"""Encryption of archives in the age format (https://age-encryption.org/v1), by pyrage.

age authenticates each 64 KiB and the end of the file, so that a change or a cut is detected. Archives are encrypted for
public keys: the machine that makes backups needs no secret that could decrypt them.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING

from passerelle.backup.errors import BackupError

if TYPE_CHECKING:
    from pyrage.x25519 import Identity, Recipient

MAGIC = b"age-encryption.org/"
_MOST_KEY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Key:
    """The keys of a file: ``recipients`` can encrypt, ``identities`` can decrypt."""

    recipients: tuple[Recipient, ...]
    identities: tuple[Identity, ...]


def read_key(path: Path) -> Key:
    """Read a key file: one public key (``age1…``) or secret key (``AGE-SECRET-KEY-1…``) a line, ``#`` for comments.

    :raises BackupError: if it cannot be read or contains anything else, which the message never shows.
    """
    _require_pyrage()
    from pyrage import IdentityError, RecipientError, x25519

    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_KEY_BYTES).decode("ascii").splitlines()
    except OSError as error:
        raise BackupError(f"the key file {path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise BackupError(f"the key file {path} is not a key file of age") from None
    recipients: list[Recipient] = []
    identities: list[Identity] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        try:
            if line.startswith("age1"):
                recipients.append(x25519.Recipient.from_str(line))
            else:
                identities.append(x25519.Identity.from_str(line))
        except (IdentityError, RecipientError):
            raise BackupError(
                f"the key file {path} has no valid key in line {number}; allowed are age1… and AGE-SECRET-KEY-1…"
            ) from None
    if not recipients and not identities:
        raise BackupError(f"the key file {path} has no key; passerelle backup key FILE creates one")
    recipients += [identity.to_public() for identity in identities]
    return Key(tuple(recipients), tuple(identities))


def create_key(path: Path, now: datetime) -> str:
    """Write a new secret key to ``path``, a new file with the mode 0600. Returns the public key.

    :raises OSError: if the file exists or cannot be written.
    """
    _require_pyrage()
    from pyrage import x25519

    identity = x25519.Identity.generate()
    public = str(identity.to_public())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"# created: {now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}\n# public key: {public}\n{identity}\n")
        file.flush()
        os.fsync(file.fileno())
    return public


@contextmanager
def encrypting(target: BufferedIOBase, key: Key) -> Iterator[BufferedIOBase]:
    """Open a stream whose content is encrypted for ``key`` and written to ``target``."""
    import pyrage

    with _piped(lambda source: pyrage.encrypt_io(source, target, list(key.recipients)), writing=True) as sink:
        yield sink


@contextmanager
def decrypting(source: BufferedIOBase, key: Key, name: str) -> Iterator[BufferedIOBase]:
    """Open a stream with the decrypted content of ``source``, an archive named ``name``.

    What is read before the end is authentic but may be incomplete: errors can arise at the end of the context.

    :raises BackupError: for a wrong key, and if ``source`` was changed or cut.
    """
    import pyrage

    def decrypt(sink: BufferedIOBase) -> None:
        try:
            pyrage.decrypt_io(source, sink, list(key.identities))
        except pyrage.DecryptError as error:
            if "No matching keys" in str(error):
                raise BackupError(f"{name} was encrypted for another key than that of the key file") from None
            raise BackupError(f"{name} is damaged: its head was changed or cut ({error})") from None
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            if "truncated" in str(error):
                raise BackupError(f"{name} is cut: its end is missing") from None
            # age cannot distinguish a last chunk that is too short from one that was changed.
            what = "is cut, or its end was changed" if not source.read(1) else "was changed after it was encrypted"
            raise BackupError(f"{name} {what}") from None

    with _piped(decrypt, writing=False) as stream:
        yield stream


@contextmanager
def _piped(run: Callable[[BufferedIOBase], object], *, writing: bool) -> Iterator[BufferedIOBase]:
    """Call ``run`` in a thread with one end of a pipe, and yield the other end, which is for writing or reading.

    An error of ``run`` replaces those that it causes in the body: a broken pipe, or a stream that ends too early.
    """
    read_end, write_end = os.pipe()
    near, far = (write_end, read_end) if writing else (read_end, write_end)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with _end(far, writing=not writing) as end:
                run(end)
        except BrokenPipeError:
            pass  # the body has ended early, with an error of its own
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="backup-encryption", daemon=True)
    thread.start()
    try:
        with _end(near, writing=writing) as end:
            yield end
    except Exception:
        thread.join()
        if failures:
            raise failures[0] from None
        raise
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _end(descriptor: int, *, writing: bool) -> BufferedIOBase:
    return open(descriptor, "wb") if writing else open(descriptor, "rb")


def _require_pyrage() -> None:
    if importlib.util.find_spec("pyrage") is None:
        raise BackupError("encryption needs pyrage: pip install 'passerelle[backup]'")
