from __future__ import annotations

import asyncio
import gc
import http.client
import socket
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from passerelle.observability.events import EventLog
from passerelle.observability.metrics import Metrics, Snapshot
from passerelle.supervisor.admin import Admin, limited_client
from passerelle.supervisor.admin_access import is_loopback
from passerelle.system import ports
from tests.supervisor.helpers import run


class Subject:
    def __init__(self) -> None:
        self.is_ready = False
        self.fails = False
        self.events = EventLog()

    async def metrics(self) -> Snapshot:
        if self.fails:
            raise ValueError("snapshots of different forms")
        registry = Metrics()
        registry.route("/x").observe(200, 0.1)
        return registry.snapshot()

    async def status(self) -> dict[str, Any]:
        return {"state": "running"}


Answer = tuple[int, http.client.HTTPMessage, bytes]


def ask(method: str, path: str, *, host: str | None = None, subject: Subject | None = None) -> Answer:
    """Send one request to a new admin port."""

    async def check() -> Answer:
        (sock,) = ports.reserve("127.0.0.1", 0)
        admin = Admin(sock, subject or Subject())
        await admin.start()

        def request() -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", sock.getsockname()[1], timeout=5)
            connection.request(method, path, headers={} if host is None else {"Host": host})
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response.status, response.headers, body

        try:
            return await asyncio.to_thread(request)
        finally:
            await admin.stop()

    return run(check())


def test_pages() -> None:
    assert ask("GET", "/healthz")[::2] == (200, b"ok\n")
    assert ask("GET", "/readyz")[::2] == (503, b"not ready\n")
    ready = Subject()
    ready.is_ready = True
    assert ask("GET", "/readyz?verbose", subject=ready)[::2] == (200, b"ready\n")
    status, fields, body = ask("GET", "/status")
    assert (status, body) == (200, b'{"state":"running"}\n')
    assert fields["Content-Type"] == "application/json"
    assert fields["Cache-Control"] == "no-store"
    status, fields, body = ask("GET", "/metrics")
    assert status == 200
    assert fields["Content-Type"].startswith("text/plain")
    assert b'passerelle_requests_total{code="200",method="GET",route="/x"} 1.0' in body
    status, fields, body = ask("HEAD", "/status")
    assert (status, body) == (200, b"")
    assert fields["Content-Length"] == "20"


def test_other_pages_and_methods() -> None:
    status, _, body = ask("GET", "/nowhere")
    pages = (
        b"/, /healthz, /readyz, /metrics, /status, /events, /live, /history, /diagnose, /failures, /explain, /shadow"
        b", /split, /rollout, /maintenance, /certs"
    )
    assert (status, body) == (404, b"the pages are %b\n" % pages)
    status, fields, _ = ask("POST", "/status")
    assert status == 405
    assert fields["Allow"] == "GET, HEAD"


def test_a_page_that_fails_is_a_500_and_the_port_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    failing = Subject()
    failing.fails = True
    assert ask("GET", "/metrics", subject=failing)[::2] == (500, b"the admin page failed\n")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9900", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil"]
)
def test_a_name_that_was_bound_to_this_machine_is_refused(host: str) -> None:
    status, _, body = ask("GET", "/status", host=host)
    assert status == 421
    assert b"running" not in body


def test_the_connections_of_other_machines_are_limited_by_address() -> None:
    assert limited_client(b"10.0.0.9") == b"10.0.0.9"
    assert limited_client(b"127.0.0.1") is None and limited_client(b"::1") is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST:9900", True),
        ("localhost.", True),
        ("app.localhost:1", True),
        ("127.0.0.1:9900", True),
        ("127.8.9.1", True),
        ("[::1]:9900", True),
        ("[::1]", True),
        ("", False),
        ("192.168.1.1", False),
        ("[::2]:80", False),
        ("notlocalhost", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback_hosts(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3,
        b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n",
        b"POST /reload HTTP/1.1\r\nHost: localhost\r\nPasserelle-Admin: 1\r\nContent-Length: 9\r\n\r\nbody",
    ],
)
def test_a_client_that_resets_while_its_response_is_due_leaves_no_traceback(
    request_head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    class Waiting(Subject):
        def __init__(self, due: asyncio.Event) -> None:
            super().__init__()
            self.due = due
            self.asked = asyncio.Event()

        async def status(self) -> dict[str, Any]:
            self.asked.set()
            await self.due.wait()
            return {"large": "x" * 1_000_000}

        async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
            return await self.status()

    async def check() -> None:
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        (sock,) = ports.reserve("127.0.0.1", 0)
        for before in (True, False):  # reset before or after the response is written
            subject = Waiting(asyncio.Event())
            admin = Admin(sock.dup(), subject)
            await admin.start()
            _, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1])
            writer.write(request_head)
            await asyncio.wait_for(subject.asked.wait(), 5)
            if before:
                reset(writer)
            subject.due.set()
            if not before:
                await asyncio.sleep(0)
                reset(writer)
            async with asyncio.timeout(5):
                while admin._listener.connections:
                    await asyncio.sleep(0.01)
            await admin.stop()
        sock.close()
        assert not problems

    run(check())
    gc.collect()
    assert not caplog.records


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
