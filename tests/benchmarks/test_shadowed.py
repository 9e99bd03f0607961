"""The broken services of the scenario ``shadowed``, and the clients beside them."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from types import SimpleNamespace

import pytest

from benchmarks.peers.programs import broken
from benchmarks.scenarios import shadowed
from tests.support.upstream import Connection, Upstream, ok


@pytest.mark.parametrize(
    ("fault", "found"), [("reset", ConnectionResetError), ("hang", TimeoutError), ("huge", broken.HUGE)]
)
def test_each_service_has_its_fault_and_a_page_for_the_rig(fault: str, found: int | type[Exception]) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"GET /ready HTTP/1.1\r\n\r\n")
        broken.respond(theirs, fault)
        assert ours.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    listener = socket.create_server(("127.0.0.1", 0))
    client = http.client.HTTPConnection(*listener.getsockname(), timeout=0.5)
    with listener:
        client.request("GET", "/user/42")
        worker = threading.Thread(target=broken.respond, args=(listener.accept()[0], fault))
        worker.start()
        if isinstance(found, int):
            assert client.getresponse().length == found
        else:
            with pytest.raises((OSError, http.client.HTTPException)) as raised:
                client.getresponse()
            assert isinstance(raised.value, found)
        client.close()
        worker.join(10)
        assert not worker.is_alive()


def test_clients_keep_their_rate_and_count_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowed, "RATE", 100)

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(b"{}"))

    upstream = Upstream(script)
    found = asyncio.run(shadowed._send(upstream.port, 0.5))
    upstream.close()
    assert len(found) == 50 and None not in found
    assert shadowed._percentile([0.1] * 97 + [None] * 3) > 1.0


def test_what_is_not_sampled_is_timed_without_making_requests() -> None:
    figure = shadowed._call(SimpleNamespace(pairs=1))
    assert figure.unit == shadowed.CALL_NS and figure.ours > 0
