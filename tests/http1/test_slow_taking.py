"""Clients that take their answers slowly, or not at all: what is held for them, and how long they are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from passerelle.errors import Failure
from passerelle.http1.clock import Clock
from passerelle.http1.connection import ClientConnection
from passerelle.http1.head import RequestHead
from passerelle.http1.listener import Limits, Listener

HIGH, LOW = 65_536, 16_384
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"
GET = b"GET /%b HTTP/1.1\r\nHost: shop.example\r\n\r\n"


class Wire:
    """A transport whose peer takes what the test says: at first ``room`` bytes, then those of :meth:`take`."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.unsent: list[memoryview] = []
        self.taken = b""
        self.connection: ClientConnection | None = None
        self.paused = self.closing = self.aborted = False

    def write(self, data: bytes | memoryview) -> None:
        assert not self.closing
        self.unsent.append(memoryview(data))
        self._flush()
        if self.get_write_buffer_size() > HIGH and not self.paused:
            self.paused = True
            assert self.connection is not None
            self.connection.pause_writing()

    def take(self, count: int) -> None:
        """The peer takes ``count`` more bytes."""
        self.room += count
        self._flush()
        if self.paused and self.get_write_buffer_size() <= LOW:
            self.paused = False
            assert self.connection is not None
            self.connection.resume_writing()

    def _flush(self) -> None:
        while self.unsent and self.room:
            piece = self.unsent.pop(0)
            count = min(self.room, len(piece))
            self.taken += piece[:count]
            self.room -= count
            if count < len(piece):
                self.unsent.insert(0, piece[count:])

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.unsent))

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50_000) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Handler:
    """Answers as the test says."""

    def __init__(self, answer: Callable[[ClientConnection, bytes], None]) -> None:
        self.asked: list[bytes] = []
        self._answer = answer

    def on_request(self, connection: ClientConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        self.asked.append(target)
        self._answer(connection, target)

    def on_refused(self, connection: ClientConnection, failure: Failure) -> bytes:
        return b"an-id"


class Client:
    """A connection that is answered by ``answer(connection, target)``, and whose peer takes ``room`` bytes."""

    def __init__(self, answer: Callable[[ClientConnection, bytes], None], room: int = 0, **limits: Any) -> None:
        self.handler = Handler(answer)
        self.listener = Listener(self.handler, Limits(**limits), Clock())
        self.connection = ClientConnection(self.listener)
        self.wire = Wire(room)
        self.wire.connection = self.connection
        self.connection.connection_made(cast(asyncio.BaseTransport, self.wire))
        self.start = self.listener.clock.now

    def look(self, seconds: float) -> None:
        """The time is ``seconds`` after the start, and connections are looked at."""
        self.listener.clock.now = self.start + seconds
        self.connection.check_time(self.start + seconds)


BODY = bytes(range(256)) * 8192  # 2 MiB


def ready(connection: ClientConnection, target: bytes) -> None:
    """Answers as the short way of a hit does."""
    head = HEAD % len(BODY) + b"\r\n"
    assert connection.send_ready(head + BODY, len(BODY))


def test_a_client_that_takes_a_little_of_a_long_answer_now_and_then_gets_all_of_it() -> None:
    client = Client(ready, write_timeout=3.0)
    client.connection.data_received(GET % b"a")
    seconds = 0.0
    while client.wire.unsent:
        assert seconds < 1000.0
        seconds += 1.0
        client.wire.take(16_384)
        client.look(seconds)
        assert not client.wire.closing
    assert client.wire.taken.endswith(BODY)
    assert seconds > 10 * client.listener.limits.write_timeout


def test_a_client_that_takes_nothing_more_of_a_long_answer_is_cut_off() -> None:
    client = Client(ready, write_timeout=3.0)
    client.connection.data_received(GET % b"a")
    client.wire.take(16_384)
    for seconds in (1.0, 2.0, 3.0, 4.0):
        client.look(seconds)
        assert not client.wire.aborted
    client.look(6.0)
    assert client.wire.aborted
