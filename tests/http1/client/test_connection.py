"""Upstream connections, against a server of plain sockets."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvloop

from passerelle.errors import Failure
from passerelle.http1.client import connection as client
from passerelle.http1.client.connection import UpstreamConnection
from passerelle.http1.client.pool import ConnectionPool
from passerelle.http1.head import ResponseHead

SECONDS = 20.0
HEAD = b"POST /up HTTP/1.1\r\nHost: u\r\nContent-Length: 1000000\r\n\r\n"


class RecordingReceiver:
    """A receiver that records its events."""

    method = b"POST"

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.events: list[str] = []

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        self.status = head.status
        self.body += data
        self.events.append("whole" if complete else "head")

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self) -> None:
        self.events.append("end")

    def on_failure(self, failure: Failure) -> None:
        self.events.append(failure.kind.name)

    def on_upstream_paused(self) -> None: ...

    def on_upstream_resumed(self) -> None: ...

    def on_request_sent(self) -> None: ...

    def client_key(self) -> bytes | None:
        return None


class Owner:
    """An owner that records the release and the loss of a connection."""

    def __init__(self) -> None:
        self.released = 0
        self.gone = asyncio.Event()

    def release(self, connection: UpstreamConnection) -> None:
        self.released += 1

    def take_back(self, connection: UpstreamConnection) -> None: ...

    def on_tunnel(self, connection: UpstreamConnection) -> None: ...

    def lost(self, connection: UpstreamConnection) -> None:
        self.gone.set()


def wait_for_reset(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # errors and hang-ups are always reported
    assert poll.poll(SECONDS * 1000), "no reset came"


async def answer_then_reset(answer: bytes) -> tuple[RecordingReceiver, Owner]:
    """Continue an upload after the response and the reset have arrived, but before either was noticed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver, owner = RecordingReceiver(), Owner()
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: UpstreamConnection(cast(ConnectionPool, owner)), *server.getsockname()
        )
        instance, _ = server.accept()
        connection.send(cast(Any, receiver), HEAD, False)
        instance.settimeout(SECONDS)
        assert instance.recv(len(HEAD), socket.MSG_WAITALL) == HEAD
        instance.sendall(answer)
        instance.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        instance.close()
        transport = cast(asyncio.Transport, connection._transport)
        wait_for_reset(transport.get_extra_info("socket").fileno())
        connection.poll = lambda _: []  # as if they had arrived after this poll
        connection.send_body(b"x" * 1000)
        await asyncio.wait_for(owner.gone.wait(), SECONDS)
        return receiver, owner


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize(
    ("answer", "events"),
    [
        (b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nsmall", ["whole"]),
        (b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nsmall", ["whole"]),
        (b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 6\r\n\r\nsmall", ["head", "TRUNCATED"]),
        (b"HTTP/1.1 413 Content", ["UPSTREAM_RESET"]),
        (b"", ["UPSTREAM_RESET"]),
        (b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 500\r\n\r\n" + b"small" * 100, ["head", "end"]),
    ],
)
def test_an_answer_before_a_reset_is_read_though_a_write_failed_first(
    answer: bytes, events: list[str], new_loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "REMAINING_BYTES", 128)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        receiver, owner = runner.run(answer_then_reset(answer))
    assert receiver.events == events
    assert owner.released == 0
    if events[-1] in ("whole", "end"):
        assert (receiver.status, receiver.body) == (413, answer.partition(b"\r\n\r\n")[2])
