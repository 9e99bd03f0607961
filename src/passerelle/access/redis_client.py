"""The connection to Redis that shared limits, sessions and keys go over: one for all requests, written to as they come
(pipelining).

No request waits long for it. An answer that has not come within a few looks means that Redis is gone: who waits is told
at once, who comes later does not wait at all, and the connection is made anew in the background.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Final, cast
from urllib.parse import unquote, urlsplit

import hiredis

from passerelle.caching.redis.reconnect import CONNECT, FIRST_PAUSE, LAST_PAUSE, USE
from passerelle.security.credentials import redis_api_keys, redis_login_throttle, redis_sessions
from passerelle.security.ratelimit.redis import DECIDE, HELLO, NOW, PREFIX

# Every script that is run, without the lines that set ``now`` (us), which each of them begins with.
SCRIPTS: Final = (
    DECIDE,
    HELLO,
    redis_api_keys.FIND,
    redis_login_throttle.GIVE_BACK,
    redis_sessions.HOLD,
    redis_sessions.OPEN,
    redis_sessions.END,
)
# By which name Redis calls a script; it names them so itself, and nothing is kept secret by that.
_NAMES: Final = {
    script: sha1((NOW + script).encode(), usedforsecurity=False).hexdigest().encode() for script in SCRIPTS
}

# Between two looks at what is not answered (seconds), and how many looks an answer may take: few for limits, which need
# not have it, more for credentials, without which there is a 503. Looks and not a time: a process that was kept from
# running for a second sees one look go by, and reads what came meanwhile before the next.
TICK: Final = 0.05
TICKS_OPTIONAL: Final = 3
TICKS_ESSENTIAL: Final = 20
# What Redis says when a command alone is wrong, such as for a key that holds something else; any other error is about
# Redis itself, and a new connection shows whether that goes on. Redis 6 says both as ERR where a script is stopped.
_OF_COMMAND: Final = ("ERR ", "WRONGTYPE ")
_OF_REDIS: Final = ("-OOM ", "-READONLY ", "-MISCONF ", "-NOREPLICAS ", "-MASTERDOWN ")
_LOST: Final = "the connection was lost"
_LATE: Final = "no answer"
# More than any answer has (bytes).
_MOST: Final = 1 << 20
# How often this gateway says that it is there, in looks, and for how long it is believed (microseconds).
_PRESENCE_TICKS: Final = 20
_PRESENCE_TTL: Final = 10_000_000

_GONE: Final = "each gateway admits its part of every limit, and sessions and keys that are kept there are not verified"

# What the reader gives while an answer is not whole; False is an answer.
_PART: Final = object()

_log = logging.getLogger(__name__)


def _words(script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> tuple[bytes, ...]:
    return (b"EVALSHA", _NAMES[script], b"%d" % len(keys), *keys, *arguments)


def _is_command_error(error: str) -> bool:
    return error.startswith(_OF_COMMAND) and not any(word in error for word in _OF_REDIS)


class PendingReply:
    """A command that is not answered yet. ``result`` stays None when it never will be."""

    __slots__ = ("_callback", "result", "ticks")

    def __init__(self) -> None:
        self.ticks = 0
        self.result: object = None
        self._callback: Callable[[], None] | None = None

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, at the end."""
        self._callback = callback

    def complete(self, result: object) -> None:
        """Redis has said ``result``, or is gone (None)."""
        self.result = result
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class _Connection(asyncio.Protocol):
    """One connection: answers come in the order of the commands."""

    def __init__(self, lost: Callable[[_Connection], None]) -> None:
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_PART)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[PendingReply] = deque()
        self._unread = 0  # bytes since an answer was whole
        self.why = ""  # it ended, where that is known

    def send(self, words: Sequence[bytes], pending: PendingReply) -> PendingReply:
        """Send a command, whose answer ``pending`` gets."""
        assert self._transport is not None
        self._waiting.append(pending)
        pieces = [b"*%d\r\n" % len(words)]
        pieces += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self._transport.write(b"".join(pieces))
        return pending

    def is_late(self, patience: int) -> bool:
        """Look once more: whether an answer has not come within ``patience`` looks."""
        for pending in self._waiting:
            pending.ticks += 1
        return bool(self._waiting) and self._waiting[0].ticks > patience

    def abort(self, why: str = "") -> None:
        """End it; who waits gets no answer."""
        self.why = self.why or why
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for pending in waiting:
            pending.complete(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._lost(self)
        self.abort()

    def data_received(self, data: bytes) -> None:
        """Answers."""
        self._unread += len(data)
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _PART:
                self._unread = 0
                if not self._waiting:
                    # Of what comes now nobody could say whom it answers: one client would get what is another's.
                    self.abort("an answer that nobody waits for")
                    return
                self._waiting.popleft().complete(answer)
                if isinstance(answer, hiredis.ReplyError) and not _is_command_error(str(answer)):
                    self.abort(str(answer))
                    return
        except hiredis.ProtocolError as error:
            self.abort(str(error))
        if self._unread > _MOST:
            self.abort("an answer without an end")


class RedisClient:
    """``at_least`` is how many gateways are reckoned with before others were seen (the workers of the file);
    ``is_essential``: it carries what is nowhere else, so that its answers are worth a little waiting."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop, at_least: int, *, is_essential: bool) -> None:
        self.url = url
        parts = urlsplit(url)
        # For the log: without the password.
        self._where = f"{parts.hostname}:{parts.port or 6379}"
        self.is_essential = is_essential
        self.gateways = at_least
        self.up = False  # whether Redis is used at the moment
        self._at_least = at_least
        self._loop = loop
        self._name = os.urandom(8).hex().encode("ascii")
        # What came before the first connection stood or could not be made: that alone is worth waiting for.
        self._queued: list[tuple[tuple[bytes, ...], PendingReply]] | None = []
        self._connection: _Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._lost = asyncio.Event()
        self._why = _LOST  # the last connection ended
        self._reported_down = False

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._task = self._loop.create_task(self._reconnect_forever(), name="redis link")
        self._tick()

    def stop(self) -> None:
        """Disconnect for good."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._drop()
        self._end_queued()

    @property
    def usable(self) -> bool:
        """Whether Redis is there, or may be in a moment."""
        return self.up or self._queued is not None

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> PendingReply | None:
        """Run one of :data:`SCRIPTS`; None when Redis is gone, or not there yet."""
        if not self.up or self._connection is None:
            return None
        return self._connection.send(_words(script, keys, arguments), PendingReply())

    def run_or_queue(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> PendingReply | None:
        """The same for what cannot do without an answer: while the first connection is being made, it waits for that
        (2 s at most)."""
        if self._queued is None:
            return self.run(script, keys, arguments)
        pending = PendingReply()
        self._queued.append((_words(script, keys, arguments), pending))
        return pending

    # ---- in the background

    async def _reconnect_forever(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._lost.clear()
            try:
                async with asyncio.timeout(CONNECT):
                    await self._connect()
            except (OSError, TimeoutError) as error:
                self._drop()
                self._end_queued()
                self._report_down((error.strerror if isinstance(error, OSError) else None) or str(error) or "no answer")
            else:
                if await self._until_lost():
                    pause = FIRST_PAUSE
                    continue
                # It can be connected to and is of no use.
                self._report_down(self._why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _until_lost(self) -> bool:
        """Wait until the connection is lost; whether it was of use until then."""
        try:
            async with asyncio.timeout(USE):
                await self._lost.wait()
        except TimeoutError:
            if self._reported_down:
                self._reported_down = False
                _log.warning("redis: it is back")
            await self._lost.wait()
            return True
        return False

    def _report_down(self, why: str) -> None:
        if not self._reported_down:
            self._reported_down = True
            _log.warning("redis at %s: %s; %s", self._where, why, _GONE)

    async def _connect(self) -> None:
        parts = urlsplit(self.url)
        secure = ssl.create_default_context() if parts.scheme == "rediss" else None
        # Known before it stands: it may be lost before this task hears that it did.
        connection = self._connection = _Connection(self._on_lost)
        await self._loop.create_connection(lambda: connection, parts.hostname or "", parts.port or 6379, ssl=secure)
        if parts.password:
            user = [unquote(parts.username).encode()] if parts.username else []
            await self._call(b"AUTH", *user, unquote(parts.password).encode())
        if number := parts.path.removeprefix("/"):
            await self._call(b"SELECT", number.encode())
        for script in SCRIPTS:
            await self._call(b"SCRIPT", b"LOAD", (NOW + script).encode())
        self._on_presence(await self._call(*self._presence_command()))
        if self._connection is not connection:
            raise OSError(self._why)
        self.up = True
        queued, self._queued = self._queued, None
        for words, pending in queued or ():
            connection.send(words, pending)

    async def _call(self, *words: bytes) -> object:
        """One answer; OSError when it is an error or never comes."""
        connection = self._connection
        if connection is None:
            raise OSError(self._why)
        future: asyncio.Future[None] = self._loop.create_future()
        pending = connection.send(words, PendingReply())
        pending.add_done_callback(lambda: None if future.done() else future.set_result(None))
        await future
        answer = pending.result
        if answer is None or isinstance(answer, Exception):
            raise OSError(str(answer or connection.why or _LOST))
        return answer

    def _presence_command(self) -> tuple[bytes, ...]:
        return _words(HELLO, [PREFIX + b"gateways"], [self._name, b"%d" % _PRESENCE_TTL])

    def _on_presence(self, answer: object) -> None:
        if isinstance(answer, int):
            self.gateways = max(answer, self._at_least)

    def _on_lost(self, connection: _Connection) -> None:
        if connection is self._connection:
            self._drop(connection.why)

    def _drop(self, why: str = "") -> None:
        """Redis is gone, or as good as gone."""
        self.up = False
        self._why = why or _LOST
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._lost.set()

    def _end_queued(self) -> None:
        queued, self._queued = self._queued, None
        for _, pending in queued or ():
            pending.complete(None)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self._ticks += 1
        connection = self._connection
        if connection is None or not self.up:
            return
        if connection.is_late(TICKS_ESSENTIAL if self.is_essential else TICKS_OPTIONAL):
            self._report_down(_LATE)
            self._drop(_LATE)
        elif self._ticks % _PRESENCE_TICKS == 0:
            pending = connection.send(self._presence_command(), PendingReply())
            pending.add_done_callback(lambda: self._on_presence(pending.result))
