"""Cache-aside: documents kept in Redis in front of the database they come from, where ``REDIS_URL`` is set.

A read takes what Redis has, or else asks the database and leaves the answer in Redis for ``TTL``; that there is no
such row is left too, for a shorter time. A write puts a mark in the document's place that is gone after ``HELD``: as
long as it stands, nothing is left there. So a read that began before the write cannot leave what it saw after it.

Redis is never needed. An operation that fails or takes over ``TIMEOUT`` costs its request that and no more: the
request goes on to the database, and so do all others for ``PAUSE`` seconds, without asking; then one of them tries
again. What was written meanwhile is made up for before anything is read. At worst an answer is as old as ``TTL``.
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

TTL = 60.0  # seconds that a document is kept
MISSING_TTL = 5.0  # seconds that "there is none" is kept: who asks for what does not exist must not fill Redis
HELD = 2.0  # seconds that a write keeps its document's place; what a read took longer than half of it for is not kept
TIMEOUT = 0.05  # seconds for one operation, connecting too; a Redis that is well answers within one millisecond
PAUSE = 1.0  # seconds without asking after a failure
MOST_OWED = 10_000  # documents that were written while Redis was away; older ones are left to their TTL

Document = dict[str, object]

_MARK = b"-"
_NONE = b"null"


class Aside:
    """One process's way to Redis, shared by its threads and resources. ``clock`` tells seconds."""

    def __init__(self, client: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._away_until: float | None = None
        self._owed: dict[str, object] = {}  # documents that were written; the value tells one write from the next

    @classmethod
    def at(cls, url: str) -> Aside:
        """Over the Redis at ``url``. Connects when it is first asked; raises ``ValueError`` if that is no Redis URL."""
        none = Retry(NoBackoff(), 0)  # the database is the second attempt
        return cls(Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=none))

    def read(self, key: str, load: Callable[[], Document | None], fits: Callable[[Document], bool]) -> Document | None:
        """Return the document under ``key``, or what ``load`` finds in the database (None: there is none).

        ``fits`` tells whether a document found in Redis is what ``load`` could have returned.
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
            log.warning("redis: %s holds something else than a document: %.100r", key, found)
            self._ask(lambda: self._client.delete(key))
        began = self._clock()
        document = load()
        # A mark of a write that happened meanwhile may be gone again, and what was read may be from before it.
        if found != _MARK and self._away_until is None and self._clock() - began < HELD / 2:
            value, ttl = (_NONE, MISSING_TTL) if document is None else (orjson.dumps(document), TTL)
            self._ask(lambda: self._client.set(key, value, px=int(ttl * 1000), nx=True))
        return document

    def forget(self, key: str) -> None:
        """Let go of the document under ``key``: the database has another one now, or none any more."""
        with self._lock:
            self._owed[key] = object()
        if self._may_ask():
            self._ask(self._pay)

    @contextlib.contextmanager
    def changing(self, key: str) -> Iterator[None]:
        """A block that writes what is under ``key``; one that raises a ``Problem`` has written nothing."""
        try:
            yield
        except Problem:
            raise
        except BaseException:
            self.forget(key)  # it may have been written all the same
            raise
        self.forget(key)

    def _get(self, key: str) -> Any:
        self._pay()
        return self._client.get(key)

    def _pay(self) -> None:
        """Let go of everything that was written since the last time."""
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
        """Whether Redis is there, or it is this thread's turn to find out."""
        if self._away_until is None:
            return True
        with self._lock:
            if self._away_until is not None and self._clock() < self._away_until:
                return False
            self._away_until = self._clock() + PAUSE
        return True

    def _ask(self, operation: Callable[[], Any]) -> Any:
        """Return what Redis answers; None where it does not answer."""
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
            log.warning("redis: the database answers alone: %s", error)


def _parsed(value: Any) -> Document | None:
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
