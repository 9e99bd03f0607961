"""The API keys that a worker accepts, from an SQLite file or from Redis.

A file is checked for changes, and the last use of each key is written to it periodically.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from passerelle.observability.events import STORE
from passerelle.security.credentials.api_keys import KeyStore
from passerelle.security.credentials.authentication import FileKeyMethod, KeyMethod
from passerelle.security.credentials.redis_api_keys import RedisKeyMethod

if TYPE_CHECKING:
    from passerelle.access.redis_client import RedisClient

# How often the file is checked for changes (seconds): the longest time until a revoked key is refused.
REFRESH = 0.5
# How often last uses are written (seconds).
WRITE = 10.0

_log = logging.getLogger(__name__)


class KeyProvider:
    """The source of the keys that a worker accepts."""

    def __init__(self, method: KeyMethod) -> None:
        self.method = method

    def start(self) -> None:
        """Start background work."""

    def stop(self) -> None:
        """Stop background work."""


class RedisKeyProvider(KeyProvider):
    """The keys in Redis; clients send them in the field ``header``."""

    def __init__(self, redis: RedisClient, header: str) -> None:
        super().__init__(RedisKeyMethod(redis, header.lower().encode("ascii")))
        self.redis = redis


class FileKeyProvider(KeyProvider):
    """The keys in the file ``path``; clients send them in the field ``header``.

    :raises sqlite3.Error: if the file cannot be used.
    """

    method: FileKeyMethod

    def __init__(self, path: Path, header: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._store = KeyStore(path)
        super().__init__(FileKeyMethod(self._store, header.lower().encode("ascii")))
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Start to check the file and to write last uses."""
        self._refresh()
        self._timers["write"] = self._loop.call_later(WRITE, self._write_later)

    def stop(self) -> None:
        """Write the pending last uses, and close the file."""
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
            # In a thread: a write may wait for another writer and for the disk.
            self._loop.run_in_executor(None, write_used, self._path, used)
        self._timers["write"] = self._loop.call_later(WRITE, self._write_later)


def write_used(path: Path, used: dict[str, int]) -> None:
    """Write last uses to the file. Uses that cannot be written are lost, and the error is logged."""
    try:
        store = KeyStore(path)
        try:
            store.touch(used)
        finally:
            store.close()
    except sqlite3.Error as error:
        _log.warning("keys: the last use of %d keys could not be written: %s", len(used), error, extra=STORE)
