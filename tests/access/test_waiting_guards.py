"""Requests whose guard waits: nothing is sent or received out of order, and disconnected clients are counted."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from tests.support.gateways import Rig, Running, in_flight, settle
from tests.support.upstream import Connection, Upstream, ok

LONG = 20.0


class Waiting:
    """A gateway whose guard waits until ``gate`` is open, and then refuses the request where ``refused`` is set."""

    def __init__(self, rig: Rig, refused: bool = False) -> None:
        self.gate = threading.Event()
        self.refused = refused
        self.judge = rig.upstream(self._judge)
        self.upstream: Upstream = rig.upstream(self._serve)
        auth = {"service": "auth", "path": "/check", "timeout": "30s"}
        self.services = {name: {"targets": [u.url]} for name, u in (("u", self.upstream), ("auth", self.judge))}
        self.routes = [{"path": "/{rest*}", "service": "u", "forward_auth": auth}]
        self.gateway: Running = rig.gateway(self.services, self.routes)

    def _judge(self, conn: Connection) -> None:
        while True:
            conn.read_request()
            assert self.gate.wait(60.0)
            conn.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n" if self.refused else ok())

    @staticmethod
    def _serve(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.send(ok(request.target + request.body))


@pytest.mark.parametrize("refused", [True, False])
def test_no_100_continue_before_the_guard_has_admitted_the_request(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr("passerelle.gateway.exchange.CONTINUE_SECONDS", 0.0)
    waiting = Waiting(rig, refused)
    client = rig.connect(waiting.gateway)
    client.send(b"POST /a HTTP/1.1\r\nHost: gw\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    waiting.judge.wait_heads(1, LONG)
    for _ in range(3):
        rig.loop.call(lambda: None)  # after one iteration of the loop a timer of zero seconds has fired
    waiting.gate.set()
    first = client.read_response(within=LONG, stop_at_100=True)
    assert first.status == (401 if refused else 100)


def test_pipelined_requests_keep_their_order(rig: Rig) -> None:
    waiting = Waiting(rig)
    client = rig.connect(waiting.gateway)
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: gw\r\n\r\n" % number for number in range(3)))
    waiting.judge.wait_heads(1, LONG)
    assert in_flight(waiting.gateway) == 1 and not waiting.upstream.heads
    waiting.gate.set()
    assert [client.read_response(within=LONG).body for _ in range(3)] == [b"/0", b"/1", b"/2"]


def test_a_client_that_leaves_is_counted_out_and_not_forwarded(rig: Rig) -> None:
    waiting = Waiting(rig)
    client = rig.connect(waiting.gateway)
    client.send(b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n")
    waiting.judge.wait_heads(1, LONG)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    settle(waiting.gateway, LONG)
    waiting.gate.set()
    assert rig.connect(waiting.gateway).request("GET", "/b", within=LONG).body == b"/b"
    assert [request.target for request in waiting.upstream.heads] == [b"/b"]


def test_a_reload_keeps_waiting_requests(rig: Rig) -> None:
    waiting = Waiting(rig)
    client = rig.connect(waiting.gateway)
    client.send(b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\nbody")
    waiting.judge.wait_heads(1, LONG)
    waiting.gateway.reload({"u": waiting.services["u"]}, [{"path": "/{rest*}", "service": "u"}])
    waiting.gate.set()
    assert client.read_response(within=LONG).body == b"/abody"
    settle(waiting.gateway, LONG)


def test_every_kind_of_request_is_guarded(rig: Rig) -> None:
    waiting = Waiting(rig, refused=True)
    waiting.gate.set()
    for method, *fields in (
        ("HEAD",),
        ("OPTIONS", ("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET")),
        ("GET", ("Range", "bytes=0-0")),
        ("GET", ("Connection", "Upgrade"), ("Upgrade", "websocket")),
        ("GET", ("X-HTTP-Method-Override", "OPTIONS")),
    ):
        assert rig.connect(waiting.gateway).request(method, "/a", *fields, within=LONG).status == 401, method
    old = rig.connect(waiting.gateway)
    old.send(b"GET /a HTTP/1.0\r\n\r\n")
    assert old.read_response(within=LONG).status == 401
    assert not waiting.upstream.heads
