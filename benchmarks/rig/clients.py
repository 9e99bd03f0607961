"""Clients that record the time and status of every response, which wrk does not: closed loops, and a fixed rate.

A failed request has the status 0: the connection was refused or lost, or the response timed out. A connection that is
closed between two responses is not a failure (RFC 9112 §9.6): it is replaced by a new one.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self, cast

import uvloop

from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.sockets import request_head

LIMIT = 20.0  # seconds until a response times out
_JOIN_SECONDS = LIMIT + 10.0


class Answer(NamedTuple):
    """One response: when the request was sent (``time.monotonic``), the status, and the seconds until the response."""

    at: float
    seconds: float
    status: int
    retry_after: bool

    @property
    def end(self) -> float:
        return self.at + self.seconds


def p99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile, or NaN for an empty sequence."""
    return sorted(seconds)[len(seconds) * 99 // 100] if seconds else float("nan")


class _Connection(asyncio.Protocol):
    """Connection with one request at a time; ``done`` gets each response."""

    def __init__(self, done: Callable[[_Connection, Answer], None]) -> None:
        self.open = False
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of asyncio.Transport
        self.open = True

    def ask(self, request: bytes) -> None:
        assert self._transport is not None
        self._at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(LIMIT, self.abort)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or not self._timer:
            return
        fields = dict(line.partition(b":")[::2] for line in head.lower().split(b"\r\n")[1:])
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        self._buffer = b""
        if fields.get(b"connection", b"").strip() == b"close":
            self.open = False
        self._finish(int(head[9:12]), b"retry-after" in fields)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._timer is not None:
            self._finish(0, False)

    def _finish(self, status: int, retry_after: bool) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None
        self._done(self, Answer(self._at, time.monotonic() - self._at, status, retry_after))

    def abort(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.abort()


class Steady:
    """``connections`` clients of one port while the block runs, each with always one request in flight.

    The paths are requested in turn. ``answers`` grows meanwhile.
    """

    def __init__(self, port: int, paths: Sequence[str], connections: int) -> None:
        self.answers: list[Answer] = []
        self._port = port
        self._requests = itertools.cycle([request_head("GET", path, {}) for path in paths])
        self._connections = connections
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(_JOIN_SECONDS)

    def between(self, begin: float, end: float) -> list[Answer]:
        """Return the responses that arrived within a period."""
        return [answer for answer in list(self.answers) if begin <= answer.end < end]

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._connections)))

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def done(_: _Connection, answer: Answer) -> None:
            self.answers.append(answer)
            arrived.set()

        connection = _Connection(done)
        while not self._stopping.is_set():
            if not connection.open:
                connection.abort()
                try:
                    _, connection = await loop.create_connection(lambda: _Connection(done), LOOPBACK, self._port)
                except OSError:
                    self.answers.append(Answer(time.monotonic(), 0.0, 0, False))
                    await asyncio.sleep(0.01)
                    continue
            arrived.clear()
            connection.ask(next(self._requests))
            await arrived.wait()
        connection.abort()


def offer(port: int, path: str, rate: float, seconds: float) -> list[Answer]:
    """Send ``rate`` requests per second at even intervals, regardless of responses; return all responses."""
    return uvloop.run(_offer(port, request_head("GET", path, {}), rate, seconds))


async def _offer(port: int, request: bytes, rate: float, seconds: float) -> list[Answer]:
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    answers: list[Answer] = []
    connecting: set[asyncio.Task[None]] = set()
    count = int(rate * seconds)
    all_there = asyncio.Event()

    def done(connection: _Connection, answer: Answer) -> None:
        answers.append(answer)
        if connection.open:
            idle.append(connection)
        if len(answers) == count:
            all_there.set()

    async def send_again() -> None:
        try:
            _, connection = await loop.create_connection(lambda: _Connection(done), LOOPBACK, port)
        except OSError:
            done(_Connection(done), Answer(time.monotonic(), 0.0, 0, False))
        else:
            connection.ask(request)

    begun = time.monotonic()
    for due in _times(begun, rate, count):
        # Sleep for whole milliseconds: requests that become due meanwhile are sent together.
        if (wait := due - time.monotonic()) > 0.001:
            await asyncio.sleep(wait)
        while idle and not idle[-1].open:
            idle.pop()
        if idle:
            idle.pop().ask(request)
        else:
            task = loop.create_task(send_again())
            connecting.add(task)
            task.add_done_callback(connecting.discard)
    await asyncio.wait_for(all_there.wait(), _JOIN_SECONDS)
    for connection in idle:
        connection.abort()
    return answers


def _times(begun: float, rate: float, count: int) -> Iterator[float]:
    return (begun + number / rate for number in range(count))
