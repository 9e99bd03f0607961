"""The connection to Redis for shared rate limits, sessions and keys: one for all requests, with pipelining.

The time that a request waits is bounded. A reply that is missing after a few ticks means that Redis is unavailable:
every waiting command then ends without a reply, later commands fail at once, and the client reconnects in the
background.
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

import hiredis

from passerelle.access.redis_sentinel import find_master
from passerelle.caching.redis.location import locate
from passerelle.caching.redis.reconnect import CONNECT, FIRST_PAUSE, LAST_PAUSE, USE
from passerelle.observability.events import STORE
from passerelle.security.credentials import redis_api_keys, redis_login_throttle, redis_sessions
from passerelle.security.ratelimit.redis import DECIDE, HELLO, NOW, PREFIX

# All scripts, without the lines that set ``now`` (us), with which each of them begins.
SCRIPTS: Final = (
    DECIDE,
    HELLO,
    redis_api_keys.FIND,
    redis_login_throttle.GIVE_BACK,
    redis_sessions.HOLD,
    redis_sessions.OPEN,
    redis_sessions.END,
    redis_sessions.LINK,
    redis_sessions.END_LINKED,
    redis_sessions.GRANT,
    redis_sessions.CLAIM,
)
# The name of each script in Redis: Redis itself uses its SHA-1, which protects no secret.
_NAMES: Final = {
    script: sha1((NOW + script).encode(), usedforsecurity=False).hexdigest().encode() for script in SCRIPTS
}

# The time between two ticks (seconds), and how many ticks a reply may take: few for rate limits, which work without it,
# more for credentials, without which the response is 503. Ticks and not a time: a process that was not scheduled for a
# second counts one tick, and reads the replies that have arrived before the next.
TICK: Final = 0.05
TICKS_OPTIONAL: Final = 3
TICKS_ESSENTIAL: Final = 20
# The errors of a single command, such as one for a key of another type. Any other error concerns Redis itself, and a
# new connection shows whether it persists. Redis 6 reports both as ERR where a script is aborted.
_OF_COMMAND: Final = ("ERR ", "WRONGTYPE ")
_OF_REDIS: Final = ("-OOM ", "-READONLY ", "-MISCONF ", "-NOREPLICAS ", "-MASTERDOWN ")
_LOST: Final = "the connection was lost"
_LATE: Final = "no reply"
# More than any reply has (bytes).
_MOST: Final = 1 << 20
# How often this gateway announces its presence (ticks), and how long an announcement is valid (microseconds).
_PRESENCE_TICKS: Final = 20
_PRESENCE_TTL: Final = 10_000_000

_GONE: Final = "each gateway admits its share of every limit, and sessions and keys stored there are not verified"

# The result of the reader while a reply is incomplete; False is a reply.
_INCOMPLETE: Final = object()

_log = logging.getLogger(__name__)


def _words(script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> tuple[bytes, ...]:
    return (b"EVALSHA", _NAMES[script], b"%d" % len(keys), *keys, *arguments)


def _is_command_error(error: str) -> bool:
    return error.startswith(_OF_COMMAND) and not any(word in error for word in _OF_REDIS)


class PendingReply:
    """The reply to a command in flight. ``result`` remains None when there will be no reply."""

    __slots__ = ("_callback", "result", "ticks")

    def __init__(self) -> None:
        self.ticks = 0
        self.result: object = None
        self._callback: Callable[[], None] | None = None

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the reply has arrived or cannot arrive any more."""
        self._callback = callback

    def complete(self, result: object) -> None:
        """Set the reply, or None when Redis is unavailable, and call the callback."""
        self.result = result
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class _Connection(asyncio.Protocol):
    """One connection to Redis: replies arrive in the order of the commands."""

    def __init__(self, lost: Callable[[_Connection], None]) -> None:
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[PendingReply] = deque()
        self._unread = 0  # bytes since the last complete reply
        self.why = ""  # the reason why the connection ended, if known

    def send(self, words: Sequence[bytes], pending: PendingReply) -> PendingReply:
        """Send a command; ``pending`` receives its reply."""
        assert self._transport is not None
        self._waiting.append(pending)
        pieces = [b"*%d\r\n" % len(words)]
        pieces += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self._transport.write(b"".join(pieces))
        return pending

    def is_late(self, limit: int) -> bool:
        """Count a tick; return whether a reply is missing after more than ``limit`` of them."""
        for pending in self._waiting:
            pending.ticks += 1
        return bool(self._waiting) and self._waiting[0].ticks > limit

    def abort(self, why: str = "") -> None:
        """Close the connection; commands in flight end without a reply."""
        self.why = self.why or why
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for pending in waiting:
            pending.complete(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.BaseProtocol`."""
        self._lost(self)
        self.abort()

    def data_received(self, data: bytes) -> None:
        """Read replies."""
        self._unread += len(data)
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self._unread = 0
                if not self._waiting:
                    # Later replies would be assigned to the wrong commands, and reach the wrong clients.
                    self.abort("an unexpected reply")
                    return
                self._waiting.popleft().complete(reply)
                if isinstance(reply, hiredis.ReplyError) and not _is_command_error(str(reply)):
                    self.abort(str(reply))
                    return
        except hiredis.ProtocolError as error:
            self.abort(str(error))
        if self._unread > _MOST:
            self.abort("an endless reply")


class RedisClient:
    """A client of Redis that reconnects by itself.

    ``at_least`` is the least number of gateways to assume (the workers of the configuration). An ``is_essential``
    client carries data that is nowhere else, so its replies may take longer.
    """

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop, at_least: int, *, is_essential: bool) -> None:
        self.url = url
        self._location = locate(url)
        self.is_essential = is_essential
        self.gateways = at_least
        self.up = False  # whether Redis is in use now
        self._at_least = at_least
        self._loop = loop
        self._name = os.urandom(8).hex().encode("ascii")
        # Commands issued before the first connection is established or has failed: they alone wait for a connection.
        self._queued: list[tuple[tuple[bytes, ...], PendingReply]] | None = []
        self._connection: _Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._lost = asyncio.Event()
        self._why = _LOST  # the reason why the last connection ended
        self._reported_down = False

    def start(self) -> None:
        """Start to connect; returns at once."""
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
        """Whether Redis is available, or the first connection is being established."""
        return self.up or self._queued is not None

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> PendingReply | None:
        """Run one of :data:`SCRIPTS`; return None when Redis is not available."""
        if not self.up or self._connection is None:
            return None
        return self._connection.send(_words(script, keys, arguments), PendingReply())

    def run_or_queue(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> PendingReply | None:
        """Run a script whose reply is required: it is queued until the first connection is made (at most 2 s)."""
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
                self._report_down((error.strerror if isinstance(error, OSError) else None) or str(error) or _LATE)
            else:
                if await self._until_lost():
                    pause = FIRST_PAUSE
                    continue
                # Connecting succeeds, but the connection is useless.
                self._report_down(self._why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _until_lost(self) -> bool:
        """Wait until the connection is lost; return whether it was useful until then."""
        try:
            async with asyncio.timeout(USE):
                await self._lost.wait()
        except TimeoutError:
            if self._reported_down:
                self._reported_down = False
                _log.warning("redis: it is available again", extra=STORE)
            await self._lost.wait()
            return True
        return False

    def _report_down(self, why: str) -> None:
        if not self._reported_down:
            self._reported_down = True
            _log.warning("redis at %s: %s; %s", self._location.label, why, _GONE, extra=STORE)

    async def _connect(self) -> None:
        location = self._location
        secure = ssl.create_default_context() if location.secure else None
        host, port = await find_master(location, secure) if location.master else location.nodes[0]
        # Set before it is established: it may be lost before this task runs again.
        connection = self._connection = _Connection(self._on_lost)
        await self._loop.create_connection(lambda: connection, host, port, ssl=secure)
        if location.password:
            user = [location.username.encode()] if location.username else []
            await self._call(b"AUTH", *user, location.password.encode())
        if location.master and await self._role() != b"master":
            raise OSError(f"{host}:{port} is not the master yet")
        if location.database:
            await self._call(b"SELECT", b"%d" % location.database)
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
        """Send a command and return its reply.

        :raises OSError: if the reply is an error, or does not arrive.
        """
        connection = self._connection
        if connection is None:
            raise OSError(self._why)
        future: asyncio.Future[None] = self._loop.create_future()
        pending = connection.send(words, PendingReply())
        pending.add_done_callback(lambda: None if future.done() else future.set_result(None))
        await future
        reply = pending.result
        if reply is None or isinstance(reply, Exception):
            raise OSError(str(reply or connection.why or _LOST))
        return reply

    async def _role(self) -> object:
        reply = await self._call(b"ROLE")
        return reply[0] if isinstance(reply, list) and reply else None

    def _presence_command(self) -> tuple[bytes, ...]:
        return _words(HELLO, [PREFIX + b"gateways"], [self._name, b"%d" % _PRESENCE_TTL])

    def _on_presence(self, reply: object) -> None:
        if isinstance(reply, int):
            self.gateways = max(reply, self._at_least)

    def _on_lost(self, connection: _Connection) -> None:
        if connection is self._connection:
            self._drop(connection.why)

    def _drop(self, why: str = "") -> None:
        """Drop the connection, and treat Redis as unavailable."""
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
