"""Stored responses with long bodies: the memory held for a client that stops reading, and complete delivery."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, head
from tests.support.gateways import Rig, settle
from tests.support.secure import Authority, SecureClient
from tests.support.upstream import answering, ok
from tests.support.wire import wait_until

LONG = 30.0
BODY = bytes(range(256)) * 32768  # 8 MiB
STORED = ok(BODY, b"Cache-Control: max-age=600", b'ETag: "1"')
# For TLS: what is encrypted before the connection reports backpressure, and what is buffered meanwhile.
MOST = 1 << 20


class Long:
    """A gateway that has stored the response to /x, with or without TLS."""

    def __init__(self, rig: Rig, folder: Path | None, **top: Any) -> None:
        self.rig = rig
        self.authority = Authority(folder) if folder is not None else None
        if self.authority is not None:
            certificate, key = self.authority.issue("gateway", "localhost")
            top["tls"] = {"certificate": str(certificate), "key": str(key)}
        self.upstream = rig.upstream(answering(STORED))
        self.gateway = rig.forward(
            self.upstream, route={"cache": {"max_body": "32MiB"}}, cache={"memory": "1GiB"}, **top
        )
        assert self.connect().request("GET", "/x", within=LONG).body == BODY

    def connect(self, receive_buffer: int | None = None) -> Client:
        """Connect a client that is closed after the test."""
        if self.authority is None:
            return self.rig.connect(self.gateway, receive_buffer=receive_buffer)
        context = self.authority.client_context()
        client = SecureClient(self.gateway.port, context, receive_buffer=receive_buffer)
        client.sock.settimeout(LONG)
        self.rig.clients.append(client)
        return client

    def unsent(self) -> int:
        """The bytes in the write buffers of all client connections."""
        connections = self.gateway.gateway._listener.connections
        return self.rig.loop.call(lambda: sum(connection._pending for connection in connections))


@pytest.fixture(params=["plain", "tls"])
def long(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path) -> Long:
    return Long(rig, tmp_path if request.param == "tls" else None)


def open_clients(long: Long) -> int:
    return int(long.gateway.snapshot()["connections"]["open"])


def stalled(long: Long, *requests: bytes) -> Client:
    """Return a client that has read the beginning of a response of which the gateway has more."""
    client = long.connect(4096)
    client.send(b"".join(requests) or head("GET", "/x"))
    client.until(b"\r\n\r\n", LONG)
    client.buffer[:0] = bytes(client.received)[: len(client.received) - len(client.buffer)]
    wait_until(long.unsent, "more is to be read", LONG)
    return client


def test_little_is_written_ahead_for_clients_that_do_not_read(long: Long) -> None:
    clients = [stalled(long) for _ in range(10)]
    assert long.unsent() < MOST * len(clients)
    for client in clients:
        assert client.read_response(within=LONG).body == BODY
    assert len(long.upstream.requests) == 1
    settle(long.gateway)


def test_pipelined_requests_are_answered_in_order(long: Long) -> None:
    etag = head("GET", "/x", ("If-None-Match", '"1"'))
    part = head("GET", "/x", ("Range", "bytes=1-7340032"))
    client = stalled(long, head("GET", "/x"), etag, head("HEAD", "/x"), part, head("GET", "/x"))
    assert client.read_response(within=LONG).body == BODY
    assert client.read_response(within=LONG).status == 304
    assert client.read_response("HEAD", LONG).get("content-length") == b"%d" % len(BODY)
    ranged = client.read_response(within=LONG)
    assert (ranged.status, ranged.body) == (206, BODY[1:7340033])
    assert client.read_response(within=LONG).body == BODY
    assert client.request("GET", "/x", within=LONG).body == BODY


def test_of_a_long_range_little_is_written_ahead(long: Long) -> None:
    client = stalled(long, head("GET", "/x", ("Range", "bytes=1-")))
    assert long.unsent() < MOST
    assert client.read_response(within=LONG).body == BODY[1:]


@pytest.mark.parametrize(
    "request_", [b"GET /x HTTP/1.0\r\nHost: gw\r\n\r\n", head("GET", "/x", ("Connection", "close"))]
)
def test_the_connection_ends_after_the_whole_answer(long: Long, request_: bytes) -> None:
    client = stalled(long, request_)
    assert client.read_response(within=LONG).body == BODY
    client.assert_closed(LONG)


def test_a_client_that_has_ended_its_side_gets_the_whole_answer(rig: Rig) -> None:
    client = stalled(Long(rig, None))
    client.finish()
    assert client.read_response(within=LONG).body == BODY
    client.assert_closed(LONG)


def test_a_gateway_that_stops_finishes_responses_in_flight_first(long: Long) -> None:
    client = stalled(long)
    stopping = threading.Thread(target=long.gateway.stop, args=(LONG,))
    stopping.start()
    assert client.read_response(within=LONG).body == BODY
    client.assert_closed(LONG)
    stopping.join(LONG)
    assert not stopping.is_alive()


def test_a_client_that_is_gone_leaves_nothing_behind(long: Long) -> None:
    clients = [stalled(long) for _ in range(3)]
    assert open_clients(long) == 4
    for client in clients:
        client.reset()
    wait_until(lambda: open_clients(long) == 1, "they are gone", LONG)
    assert long.unsent() == 0
    assert long.connect().request("GET", "/x", within=LONG).body == BODY


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_client_that_takes_nothing_is_cut_off(rig: Rig, tmp_path: Path, kind: str) -> None:
    long = Long(rig, tmp_path if kind == "tls" else None, limits={"write_timeout": "500ms"})
    for client in rig.clients:
        client.close()
    client = long.connect(4096)
    client.send(head("GET", "/x"))
    wait_until(long.unsent, "more is to be read", LONG)
    wait_until(lambda: open_clients(long) == 0, "it is cut off", LONG)


def test_what_was_purged_meanwhile_is_still_sent_whole(long: Long) -> None:
    client = stalled(long)
    long.rig.loop.call(lambda: long.gateway.gateway.purge("all", ""))
    assert client.read_response(within=LONG).body == BODY
