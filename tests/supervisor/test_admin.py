from __future__ import annotations

import asyncio
import http.client
from typing import Any

import pytest

from passerelle.observability.metrics import Metrics, Snapshot
from passerelle.supervisor.admin import Admin, _is_loopback
from passerelle.system import ports
from tests.supervisor.helpers import run


class Subject:
    def __init__(self) -> None:
        self.is_ready = False
        self.fails = False

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
    status, _, body = ask("GET", "/")
    assert (status, body) == (404, b"the pages are /healthz, /readyz, /metrics, /status\n")
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


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        (b"localhost", True),
        (b"LOCALHOST:9900", True),
        (b"localhost.", True),
        (b"app.localhost:1", True),
        (b"127.0.0.1:9900", True),
        (b"127.8.9.1", True),
        (b"[::1]:9900", True),
        (b"[::1]", True),
        (b"", False),
        (b"192.168.1.1", False),
        (b"[::2]:80", False),
        (b"notlocalhost", False),
        (b"0.0.0.0", False),
    ],
)
def test_loopback_hosts(host: bytes, is_loopback: bool) -> None:
    assert _is_loopback(host) is is_loopback
