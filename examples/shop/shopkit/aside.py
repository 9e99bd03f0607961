"""Cache-aside: documents stored in Redis in front of the database, if ``REDIS_URL`` is set.

A read uses the document in Redis, or else reads the database and stores the result in Redis for ``TTL``; the absence of
a row is stored too, for a shorter time. A write replaces the document by a mark that expires after ``HELD``: as long as
the mark exists, no read stores the document. A read that began before the write can therefore not store an old document
after the write.

Redis is optional. An operation that fails or takes longer than ``TIMEOUT`` delays its request by that time and no more:
the request uses the database, and so do all others for ``PAUSE`` seconds without trying Redis; then one of them tries
again. Documents written meanwhile are deleted from Redis before anything is read. A response is at most ``TTL`` old.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from shopkit.problems import Problem

log = logging.getLogger("shop")

TTL = 60.0  # lifetime of a document in seconds
MISSING_TTL = 5.0  # lifetime of "no such row" in seconds: requests for missing rows must not fill Redis
HELD = 2.0  # lifetime of a write's mark in seconds; the result of a read that took more than half of it is not stored
TIMEOUT = 0.05  # timeout of an operation in seconds, connecting included; a healthy Redis replies within a millisecond
PAUSE = 1.0  # seconds without operations after a failure
MOST_OWED = 10_000  # documents written while Redis was unavailable; older ones expire by their TTL

Document = dict[str, object]

_MARK = b"-"
_NONE = b"null"


class Aside:
    """Redis client of one process, shared by its threads and resources. ``clock`` gives seconds."""

    def __init__(self, client: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._away_until: float | None = None
        self._owed: dict[str, object] = {}  # written documents; the value distinguishes one write from the next

    @classmethod
    def at(cls, url: str) -> Aside:
        """Create a client for the Redis at ``url``, which connects when first used; raise ``ValueError`` for an invalid
        URL."""
        none = Retry(NoBackoff(), 0)  # the database is the second attempt
        return cls(Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=none))

    def read(self, key: str, load: Callable[[], Document | None], fits: Callable[[Document], bool]) -> Document | None:
        """Return the document under ``key``, or the result of ``load`` from the database (None: there is none).

        ``fits`` returns whether a document found in Redis is one that ``load`` could have returned.
        """
        if not self._may_ask():
            return load()
        found = self._ask(lambda: self._get(key))
        if found == _NONE:
            return None
        if found is not None and found != _MARK:
            document = _parsed(found)
            if document is not None and fits(document):
                return document
            log.warning("redis: %s does not hold a document: %.100r", key, found)
            self._ask(lambda: self._client.delete(key))
        began = self._clock()
        document = load()
        # The mark of a write during this read may have expired, and the result may predate that write.
        if found != _MARK and self._away_until is None and self._clock() - began < HELD / 2:
            value, ttl = (_NONE, MISSING_TTL) if document is None else (orjson.dumps(document), TTL)
            self._ask(lambda: self._client.set(key, value, px=int(ttl * 1000), nx=True))
        return document

    def forget(self, key: str) -> None:
        """Delete the document under ``key``: the database has a newer one, or none."""
        with self._lock:
            self._owed[key] = object()
        if self._may_ask():
            self._ask(self._pay)

    @contextlib.contextmanager
    def changing(self, key: str) -> Iterator[None]:
        """Context of a write to ``key``; if it raises a ``Problem``, nothing was written."""
        try:
            yield
        except Problem:
            raise
        except BaseException:
            self.forget(key)  # the write may have succeeded despite the exception
            raise
        self.forget(key)

    def _get(self, key: str) -> Any:
        self._pay()
        return self._client.get(key)

    def _pay(self) -> None:
        """Delete all documents from Redis that were written since the last time."""
        while self._owed:
            with self._lock:
                owed = dict(self._owed)
            pipeline = self._client.pipeline(transaction=False)
            for key in owed:
                pipeline.set(key, _MARK, px=int(HELD * 1000))
            pipeline.execute()
            with self._lock:
                for key, write in owed.items():
                    if self._owed.get(key) is write:
                        del self._owed[key]

    def _may_ask(self) -> bool:
        """Return whether Redis is available, or this thread is the one that tries again."""
        if self._away_until is None:
            return True
        with self._lock:
            if self._away_until is not None and self._clock() < self._away_until:
                return False
            self._away_until = self._clock() + PAUSE
        return True

    def _ask(self, operation: Callable[[], Any]) -> Any:
        """Return Redis's reply, or None without a reply."""
        try:
            answer = operation()
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return b""
            self._failed(error)
        except RedisError as error:
            self._failed(error)
        else:
            if self._away_until is not None:
                self._away_until = None
                log.warning("redis: back")
            return answer
        return None

    def _failed(self, error: RedisError) -> None:
        with self._lock:
            first = self._away_until is None
            self._away_until = self._clock() + PAUSE
            for key in list(self._owed)[: max(0, len(self._owed) - MOST_OWED)]:
                del self._owed[key]
        if first:
            log.warning("redis: unavailable, only the database is used: %s", error)


def _parsed(value: Any) -> Document | None:
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
