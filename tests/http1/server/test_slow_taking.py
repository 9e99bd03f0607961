"""Clients that read slowly or not at all: the memory held for them, and their timeouts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from passerelle.errors import Failure
from passerelle.http1.clock import Clock
from passerelle.http1.head import RequestHead
from passerelle.http1.server.body_writer import SLICE
from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.listener import Listener, ListenerLimits
from passerelle.http1.server.tls import TlsClientConnection
from tests.support.transport import LOW, Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n"
GET = b"GET /%b HTTP/1.1\r\nHost: shop.example\r\n\r\n"


class Handler:
    """A handler that responds as the test demands."""

    def __init__(self, answer: Callable[[ClientConnection, bytes], None]) -> None:
        self.asked: list[bytes] = []
        self._answer = answer

    def on_request(self, connection: ClientConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        self.asked.append(target)
        self._answer(connection, target)

    def on_refused(self, connection: ClientConnection, failure: Failure) -> bytes:
        return b"an-id"


class Client:
    """A connection handled by ``answer(connection, target)``, whose peer reads ``room`` bytes."""

    def __init__(
        self,
        answer: Callable[[ClientConnection, bytes], None],
        room: int = 0,
        *,
        secure: bool = False,
        **limits: Any,
    ) -> None:
        self.handler = Handler(answer)
        self.listener = Listener(self.handler, ListenerLimits(**limits), Clock())
        self.wire = Wire(room)
        self.connection = ClientConnection(self.listener)
        if secure:
            self.connection = TlsClientConnection(self.listener, cast(asyncio.Transport, Wire(0)))
        self.wire.connection = self.connection
        self.connection.connection_made(cast(asyncio.BaseTransport, self.wire))
        self.start = self.listener.clock.now

    def look(self, seconds: float) -> None:
        """Set the time to ``seconds`` after the start, and check the timeouts of all connections."""
        self.listener.clock.now = self.start + seconds
        self.connection.check_time(self.start + seconds)


BODY = bytes(range(256)) * 8192  # 2 MiB


def ready(connection: ClientConnection, target: bytes) -> None:
    """Respond as the fast path for a cache hit does."""
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


# stored bodies


def stored(connection: ClientConnection, target: bytes) -> None:
    """Respond as the cache does."""
    connection.send_stored(HEAD % len(BODY), BODY)


def short(connection: ClientConnection, target: bytes) -> None:
    """Respond with the target."""
    connection.send_stored(HEAD % len(target), target)


WHOLE = HEAD % len(BODY) + b"\r\n" + BODY


def take_all(client: Client) -> bytes:
    """Read everything, and return what the peer has received."""
    while client.wire.unsent:
        client.wire.take(100_000)
    return client.wire.taken


def test_of_a_stored_body_little_is_written_ahead_and_nothing_copied() -> None:
    client = Client(stored, 1000)
    client.connection.data_received(GET % b"a")
    while client.wire.unsent:
        assert client.wire.get_write_buffer_size() <= SLICE + LOW
        assert all(piece.obj is BODY for piece in client.wire.unsent if len(piece) > 1000)
        client.wire.take(10_000)
    assert client.wire.taken == WHOLE
    assert client.connection.sent == len(BODY)


def test_the_next_requests_wait_for_the_end_of_a_long_answer() -> None:
    client = Client(lambda connection, target: (stored if target == b"/long" else short)(connection, target))
    client.connection.data_received(GET % b"long" + GET % b"b")
    client.connection.data_received(GET % b"c")
    assert client.handler.asked == [b"/long"]
    assert take_all(client) == WHOLE + b"".join(HEAD % 2 + b"\r\n" + target for target in (b"/b", b"/c"))
    client.connection.data_received(GET % b"d")
    assert client.handler.asked == [b"/long", b"/b", b"/c", b"/d"]


def test_a_client_that_keeps_up_gets_it_at_once() -> None:
    client = Client(stored, 10 * len(BODY))
    client.connection.data_received(GET % b"a" + GET % b"b")
    client.connection.data_received(GET % b"c")
    assert client.wire.taken == 3 * WHOLE


def test_head_has_no_body() -> None:
    client = Client(stored)
    client.connection.data_received(b"HEAD /a HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    assert take_all(client) == HEAD % len(BODY) + b"\r\n"


@pytest.mark.parametrize("keep_alive", [False, True])
def test_http_1_0_gets_it_whole(keep_alive: bool) -> None:
    client = Client(stored)
    line = b"Connection: keep-alive\r\n" if keep_alive else b""
    client.connection.data_received(b"GET /a HTTP/1.0\r\n%b\r\n" % line)
    said = b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n"
    assert take_all(client) == HEAD % len(BODY) + said + BODY
    client.connection.data_received(GET % b"b")
    assert len(client.handler.asked) == 1 + keep_alive


@pytest.mark.parametrize("when", ["half-close", "drain"])
def test_the_last_answer_is_whole_before_the_connection_ends(when: str) -> None:
    client = Client(stored)
    client.connection.data_received(GET % b"a")
    client.wire.take(1000)
    if when == "drain":
        client.listener.draining = True
        client.connection.drain()
    else:
        assert client.connection.eof_received()
    assert not client.wire.closing
    assert take_all(client) == WHOLE
    assert client.wire.closing or client.wire.ended


def test_nothing_is_written_to_a_client_that_is_gone() -> None:
    client = Client(stored)
    client.connection.data_received(GET % b"a")
    client.wire.take(300_000)
    client.wire.unsent.clear()
    client.wire.closing = True  # any later write fails the test
    client.connection.connection_lost(None)
    client.connection.resume_writing()
    assert client.handler.asked == [b"/a"]


def test_nothing_more_is_written_once_a_write_has_failed() -> None:
    client = Client(stored)
    client.connection.data_received(GET % b"a")
    client.wire.unsent.clear()
    client.wire.closing = True  # any later write fails the test
    client.connection.resume_writing()
    client.connection.connection_lost(ConnectionResetError())
    assert (client.wire.taken, client.wire.unsent) == (b"", [])


def test_a_client_that_takes_none_of_a_stored_body_is_cut_off_and_a_slow_one_is_not() -> None:
    client = Client(stored, write_timeout=3.0, idle_timeout=3.0)
    client.connection.data_received(GET % b"a")
    for seconds in range(1, 60):
        client.wire.take(10_000)
        client.look(float(seconds))
        assert not client.wire.closing
    client.look(62.0)
    assert not client.wire.closing
    client.look(63.0)
    assert client.wire.aborted


def test_after_close_notify_all_of_it_is_written_at_once() -> None:
    """TLS then closes after the data that was written before."""
    client = Client(stored, secure=True)
    client.connection.data_received(GET % b"a")
    client.wire.take(1000)
    assert not client.connection.eof_received()
    assert len(client.wire.taken) + client.wire.get_write_buffer_size() == len(WHOLE)
    assert take_all(client) == WHOLE
