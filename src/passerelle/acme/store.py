"""Where certificates, accounts and attempts are kept: a folder, or a Redis that several gateways share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import orjson

from passerelle.acme.challenge import Pending
from passerelle.acme.files import FolderLock, certificate_file, read, write
from passerelle.acme.schedule import Attempt

_Result = TypeVar("_Result")


class StoreUnavailable(Exception):
    """The store cannot be read or written; the text is the reason."""


class Kept(NamedTuple):
    """What is kept about one name: the key, certificate and chain in PEM, or None; and the orders for it."""

    bundle: bytes | None = None
    attempt: Attempt = Attempt()


class News(NamedTuple):
    """What has changed in the store: whether certificates or attempts have, and the pending challenges by now.

    ``published`` identifies the challenges; it is empty without any.
    """

    changed: bool
    challenges: Sequence[Pending]
    published: str = ""


class CertificateStore(Protocol):
    """The store of certificates. All methods but :meth:`close` raise :class:`StoreUnavailable`."""

    async def load(self, names: Iterable[str]) -> dict[str, Kept]:
        """Return what is kept about ``names``."""

    async def keep_certificate(self, name: str, bundle: bytes, attempt: Attempt) -> None:
        """Replace the certificate of ``name`` and what is known about its orders."""

    async def keep_attempt(self, name: str, attempt: Attempt) -> None:
        """Replace what is known about the orders for ``name``."""

    async def account(self, directory: str) -> bytes | None:
        """Return the account with the authority at ``directory``, or None."""

    async def keep_account(self, directory: str, account: bytes) -> None:
        """Replace the account with the authority at ``directory``."""

    async def lock(self) -> bool:
        """Take or renew the right to order; return False if another gateway has it."""

    async def unlock(self) -> None:
        """Give up the right to order."""

    async def publish(self, challenges: Sequence[Pending]) -> None:
        """Replace the pending challenges; return once all gateways respond to them, or after a bounded time."""

    async def poll(self, seen: str) -> News:
        """Return what has changed since the last call; ``seen`` are the challenges that the workers respond to."""

    async def close(self) -> None:
        """Give up the right to order, and disconnect."""


class FolderStore:
    """Keeps certificates in files, from which workers read them. A lock keeps other processes from orders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FolderLock(folder)

    async def load(self, names: Iterable[str]) -> dict[str, Kept]:
        """Read the files. A damaged record of orders counts as none."""

        def found() -> dict[str, Kept]:
            return {
                name: Kept(read(certificate_file(self.folder, name)), decode(read(self.folder / f"{name}.json")))
                for name in names
            }

        return await self._run(found)

    async def keep_certificate(self, name: str, bundle: bytes, attempt: Attempt) -> None:
        """Replace both files, the certificate first: a crash in between leads to no second order."""

        def both() -> None:
            write(certificate_file(self.folder, name), bundle)
            write(self.folder / f"{name}.json", encode(attempt))

        await self._run(both)

    async def keep_attempt(self, name: str, attempt: Attempt) -> None:
        """Replace the file."""
        await self._run(lambda: write(self.folder / f"{name}.json", encode(attempt)))

    async def account(self, directory: str) -> bytes | None:
        """Read the file."""
        return await self._run(lambda: read(self._account_file(directory)))

    async def keep_account(self, directory: str, account: bytes) -> None:
        """Replace the file."""
        await self._run(lambda: write(self._account_file(directory), account))

    async def lock(self) -> bool:
        """Take the lock of the folder."""
        return await self._run(self._lock.acquire)

    async def unlock(self) -> None:
        """Give up the lock of the folder."""
        self._lock.release()

    async def publish(self, challenges: Sequence[Pending]) -> None:
        """Do nothing: no other gateway responds."""

    async def poll(self, seen: str) -> News:
        """Return that nothing has changed: workers find new files themselves."""
        return News(False, ())

    async def close(self) -> None:
        """Give up the lock."""
        self._lock.release()

    def _account_file(self, directory: str) -> Path:
        return self.folder / f".account-{hashlib.blake2b(directory.encode(), digest_size=9).hexdigest()}.json"

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            where = error.filename or self.folder
            raise StoreUnavailable(f"{where}: {error.strerror or error}") from error


def encode(attempt: Attempt) -> bytes:
    """Return ``attempt`` as JSON."""
    return orjson.dumps(attempt._asdict())


def decode(data: bytes | None) -> Attempt:
    """Return what :func:`encode` has written; nothing is known if that is damaged."""
    try:
        found = orjson.loads(data or b"{}")
        return Attempt(
            str(found.get("directory", "")),
            max(int(found.get("failures", 0)), 0),
            float(found.get("next_at", 0.0)),
            str(found.get("error", "")),
        )
    except (ValueError, TypeError, AttributeError):
        return Attempt()
