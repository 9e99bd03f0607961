"""A repeated header section is handled like one that arrives for the first time."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import example, given
from hypothesis import strategies as st

from passerelle.errors import Failure, Kind
from passerelle.http.messages import Response
from passerelle.http1.clock import Clock
from passerelle.http1.head import RequestHead
from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.listener import Listener, ListenerLimits
from passerelle.http1.server.timeouts import FORGET_SECONDS
from tests.support.transport import Wire

SECTION = b"Host: shop.example\r\nAccept: */*\r\nUser-Agent: a client with a name of some length"
FIRST = b"GET /first HTTP/1.1"
NOW, EPOCH = 1_000.0, 1_750_000_000.0


class Handler:
    """A handler that records requests and responds at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes, bytes | None, bool]] = []
        self.heads: list[RequestHead] = []

    def on_request(self, connection: ClientConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        self.asked.append((method, target, head.host, connection.version11))
        self.heads.append(head)
        if target == b"/refused":
            raise Failure(Kind.BAD_REQUEST, "not this one")
        connection.send(Response(200, [], target))

    def on_refused(self, connection: ClientConnection, failure: Failure) -> bytes:
        return b"an-id"


class Client:
    def __init__(self, limits: ListenerLimits | None = None) -> None:
        self.handler = Handler()
        self.clock = Clock()
        self.clock.tick(NOW, EPOCH)  # the same in all clients of a test: a response has its date
        self.listener = Listener(self.handler, limits or ListenerLimits(), self.clock)
        self.connection = ClientConnection(self.listener)
        self.wire = Wire(1 << 30)  # its peer reads everything
        self.wire.connection = self.connection
        self.connection.connection_made(cast(asyncio.BaseTransport, self.wire))

    def send(self, *pieces: bytes) -> bytes:
        """Return the response to these bytes."""
        before = len(self.wire.taken)
        for piece in pieces:
            self.connection.data_received(piece)
        return self.wire.taken[before:]


def both(data: bytes, limits: ListenerLimits | None = None) -> tuple[Client, Client]:
    """Send ``data`` on a connection after a request with ``SECTION``, and on a new connection."""
    known, fresh = Client(limits), Client(limits)
    known.send(FIRST + b"\r\n" + SECTION + b"\r\n\r\n")
    known.wire.taken = b""
    known.handler.asked.clear()
    known.handler.heads.clear()
    # The second connection receives the same bytes in two pieces, so it cannot compare them as a whole.
    fresh.send(data[:1], data[1:])
    known.send(data)
    return known, fresh


LINES = st.one_of(
    st.sampled_from(
        [
            b"GET / HTTP/1.1",
            b"GET /a/b?c=d&e HTTP/1.1",
            b"GET /refused HTTP/1.1",
            b"HEAD / HTTP/1.1",
            b"POST / HTTP/1.1",
            b"GET / HTTP/1.0",
            b"GET / HTTP/1.2",
            b"GET / HTTP/2.0",
            b"GET * HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"GET http://other.example/x HTTP/1.1",
            b"GET  / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET /a b HTTP/1.1",
            b"GET /\x00x HTTP/1.1",
            b"GET /\xe9 HTTP/1.1",
            b"GET /#f HTTP/1.1",
            b"GET /\\ HTTP/1.1",
            b"get / HTTP/1.1",
            b"CONNECT / HTTP/1.1",
            b"TRACE / HTTP/1.1",
            b"\r\nGET / HTTP/1.1",
            b"\r\n\r\nGET / HTTP/1.1",
            b"GET / HTTP/1.1\n",
            b"",
            b"\r\n",
        ]
    ),
    st.binary(max_size=40),
    st.builds(lambda target: b"GET /" + target + b" HTTP/1.1", st.binary(max_size=20)),
)


@given(LINES)
@example(b"GET /a HTTP/1.1\r\nContent-Length: 3")
@example(b"GET /a HTTP/1.1\r\nTransfer-Encoding: chunked")
@example(b"GET /a HTTP/1.1\r\nConnection: close")
@example(b"GET /a HTTP/1.1\r\nHost: other.example")
@example(b"GET /a HTTP/1.1\r\nX: y\r\n\r\nGET /b HTTP/1.1")
@example(b"POST /a HTTP/1.1\r\nContent-Length: 15\r\n\r\nGET /b HTTP/1.1")
def test_any_request_line_before_the_same_section_is_handled_as_on_a_new_connection(line: bytes) -> None:
    known, fresh = both(line + b"\r\n" + SECTION + b"\r\n\r\n")
    assert known.handler.asked == fresh.handler.asked
    assert known.wire.taken == fresh.wire.taken
    assert known.wire.closing == fresh.wire.closing
    # Both connections are in the same state: further bytes have the same effect.
    if not known.wire.closing:
        after = b"GET /after HTTP/1.1\r\nHost: b.example\r\n\r\n"
        assert known.send(after) == fresh.send(after)


def test_the_head_is_not_read_again() -> None:
    client = Client()
    for path in (b"/first", b"/second", b"/third"):
        client.send(b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (path, SECTION))
    first, second, third = client.handler.heads
    assert first is second is third
    assert [asked[1] for asked in client.handler.asked] == [b"/first", b"/second", b"/third"]


def test_a_head_that_asks_for_more_than_an_answer_is_taken_apart_each_time() -> None:
    client = Client()
    request = b"GET /a HTTP/1.1\r\n%b\r\nExpect: 100-continue\r\n\r\n" % SECTION
    assert client.send(request) == client.send(request) != b""
    assert not client.handler.heads[1].plain


def test_a_last_request_is_the_last_one() -> None:
    client = Client()
    request = b"GET /a HTTP/1.1\r\n%b\r\nConnection: close\r\n\r\n" % SECTION
    assert b"\r\nConnection: close\r\n" in client.send(request)
    assert client.send(request) == b""
    assert len(client.handler.asked) == 1


def test_pipelined_requests_with_one_head_are_answered_in_order() -> None:
    client = Client()
    requests = [b"GET /%d HTTP/1.1\r\n%b\r\n\r\n" % (number, SECTION) for number in range(5)]
    client.send(requests[0])
    client.send(b"".join(requests[1:]))
    assert [asked[1] for asked in client.handler.asked] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_a_head_over_the_limit_is_refused_also_when_all_but_its_line_is_known() -> None:
    limits = ListenerLimits(head=len(SECTION) + 40)
    known, fresh = both(b"GET /%b HTTP/1.1\r\n%b\r\n\r\n" % (b"a" * 100, SECTION), limits)
    assert known.wire.taken == fresh.wire.taken
    assert known.wire.taken.startswith(b"HTTP/1.1 431 ")
    assert known.handler.asked == []


def test_draining_announces_and_closes_the_connection() -> None:
    client = Client()
    client.send(FIRST + b"\r\n" + SECTION + b"\r\n\r\n")
    client.listener.draining = True
    answer = client.send(b"GET /last HTTP/1.1\r\n" + SECTION + b"\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert client.handler.asked[-1][1] == b"/last"


def test_none_is_started_while_the_client_does_not_take_its_answers() -> None:
    client = Client()
    client.send(FIRST + b"\r\n" + SECTION + b"\r\n\r\n")
    client.connection.pause_writing()
    assert client.send(b"GET /waits HTTP/1.1\r\n" + SECTION + b"\r\n\r\n") == b""
    client.connection.resume_writing()
    assert client.handler.asked[-1][1] == b"/waits"


def test_an_idle_connection_forgets_its_head_and_reads_the_next_one() -> None:
    client = Client()
    request = b"GET /a HTTP/1.1\r\n" + SECTION + b"\r\n\r\n"
    client.send(request)
    client.connection.check_time(client.clock.now + FORGET_SECONDS + 1)
    client.send(request)
    first, second = client.handler.heads
    assert first is not second
    assert first.fields == second.fields
