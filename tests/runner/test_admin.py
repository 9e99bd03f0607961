from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any

import pytest

from passerelle.observability.metrics import Metrics, Snapshot
from passerelle.runner import ports
from passerelle.runner.admin import Admin, _is_loopback
from tests.runner.helpers import run


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

    async def purge(self, what: str, value: str) -> dict[str, Any]:
        return {"purged": 3, "workers": 1, "silent": ["gateway-2"] if self.fails else [], "asked": [what, value]}


Answer = tuple[int, http.client.HTTPMessage, bytes]


def ask(
    method: str, path: str, *, host: str | None = None, subject: Subject | None = None, origin: str | None = None
) -> Answer:
    """One request to an admin port of its own."""

    async def check() -> Answer:
        (sock,) = ports.reserve("127.0.0.1", 0)
        admin = Admin(sock, subject or Subject())
        await admin.start()

        def request() -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", sock.getsockname()[1], timeout=5)
            connection.request(
                method, path, headers={k: v for k, v in (("Host", host), ("Origin", origin)) if v is not None}
            )
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
    assert (status, body) == (404, b"there are /healthz, /readyz, /metrics, /status, /cache/purge\n")
    status, fields, _ = ask("POST", "/status")
    assert status == 405
    assert fields["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("query", "asked"),
    [("tag=user:42", ["tag", "user:42"]), ("path=/a%20b/*", ["path", "/a b/*"]), ("all", ["all", ""])],
)
def test_purging(query: str, asked: list[str]) -> None:
    status, _, body = ask("POST", f"/cache/purge?{query}")
    assert (status, json.loads(body)["asked"]) == (200, asked)


@pytest.mark.parametrize("query", ["", "tag=", "path=", "all=1", "tag=a&path=/b", "everything"])
def test_a_purge_says_of_exactly_one_thing(query: str) -> None:
    assert ask("POST", f"/cache/purge?{query}")[::2] == (400, b"one of ?tag=T, ?path=P, ?all\n")


def test_a_purge_is_a_post_and_not_a_browser_s() -> None:
    assert ask("GET", "/cache/purge?all")[0] == 405
    assert ask("POST", "/cache/purge?all", origin="https://evil.example")[0] == 403


def test_a_purge_that_a_worker_did_not_hear_of_is_no_success() -> None:
    failing = Subject()
    failing.fails = True
    status, _, body = ask("POST", "/cache/purge?all", subject=failing)
    assert (status, json.loads(body)["silent"]) == (502, ["gateway-2"])


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
