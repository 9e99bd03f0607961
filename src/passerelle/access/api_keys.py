"""API keys in a running worker. Those in a file: it is watched, and the last use of each key is written to it now and
then."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from passerelle.security.credentials.api_keys import KeyStore
from passerelle.security.credentials.authentication import FileKeyMethod, KeyMethod
from passerelle.security.credentials.redis_api_keys import RedisKeyMethod

if TYPE_CHECKING:
    from passerelle.access.redis_client import RedisClient

# How often it is asked whether the file has changed (seconds): a revoked key is refused at most this much later.
REFRESH = 0.5
# How often last uses are written (seconds).
WRITE = 10.0

_log = logging.getLogger(__name__)


class KeyProvider:
    """The keys that a worker accepts, wherever they are kept."""

    def __init__(self, method: KeyMethod) -> None:
        self.method = method

    def start(self) -> None:
        """Begin what goes on beside the requests."""

    def stop(self) -> None:
        """End it."""


class RedisKeyProvider(KeyProvider):
    """The keys in the Redis of ``redis``, shown in the field ``header``."""

    def __init__(self, redis: RedisClient, header: str) -> None:
        super().__init__(RedisKeyMethod(redis, header.lower().encode("ascii")))
        self.redis = redis


class FileKeyProvider(KeyProvider):
    """The keys in the file ``path``, shown in the field ``header``. sqlite3.Error when the file cannot be used."""

    method: FileKeyMethod

    def __init__(self, path: Path, header: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._store = KeyStore(path)
        super().__init__(FileKeyMethod(self._store, header.lower().encode("ascii")))
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Begin to watch."""
        self._refresh()
        self._timers["write"] = self._loop.call_later(WRITE, self._write_later)

    def stop(self) -> None:
        """Write what there is, and close the file."""
        for timer in self._timers.values():
            timer.cancel()
        used, self.method.used = self.method.used, {}
        if used:
            write_used(self._path, used)
        self._store.close()

    def _refresh(self) -> None:
        self.method.refresh()
        self._timers["refresh"] = self._loop.call_later(REFRESH, self._refresh)

    def _write_later(self) -> None:
        used, self.method.used = self.method.used, {}
        if used:
            # On a thread: a writer may have to wait for another one, and for the disk.
            self._loop.run_in_executor(None, write_used, self._path, used)
        self._timers["write"] = self._loop.call_later(WRITE, self._write_later)


def write_used(path: Path, used: dict[str, int]) -> None:
    """Note last uses in the file; what cannot be written is lost, and said in the log of the process."""
    try:
        store = KeyStore(path)
        try:
            store.touch(used)
        finally:
            store.close()
    except sqlite3.Error as error:
        _log.warning("keys: the last use of %d keys could not be written: %s", len(used), error)
