from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from passerelle.supervisor.health_probe import ProbeRules, probe
from passerelle.system import ports
from tests.supervisor.helpers import run
from tests.support.streams import stream_server


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nfine", ""),
        (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", "status 302 for GET /up?x=1"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503 for GET /up?x=1"),
        (b"", "connection closed without a response to GET /up?x=1"),
        (b"HTTP/1.1 2", "connection closed without a response to GET /up?x=1"),
        (b"hello\r\n", "response to GET /up?x=1 has no status line"),
        (b"HTTP/2 200\r\n", "response to GET /up?x=1 has no status line"),
        (b"x" * 200_000, "response to GET /up?x=1 has no status line"),
    ],
)
def test_answers(answer: bytes, problem: str) -> None:
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            await writer.drain()

    async def check() -> None:
        async with stream_server(handler) as port:
            assert await probe("127.0.0.1", port, "/up?x=1", 2.0) == problem
            assert requests[0].startswith(b"GET /up?x=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)

    run(check())


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
    ],
)
def test_a_probe_ends_with_its_response_although_the_connection_stays_open(response: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            writer.write(response)
            await reader.read()  # until the probe closes

    async def check() -> None:
        async with stream_server(handler) as port:
            assert await probe("127.0.0.1", port, "/", 5.0) == ""

    run(check())


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 70, "only interim responses to GET /"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "response to GET / is malformed: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", ""),  # the status decides
    ],
)
def test_a_response_that_is_not_well_formed(response: bytes, problem: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)

    async def check() -> None:
        async with stream_server(handler) as port:
            found = await probe("127.0.0.1", port, "/", 5.0)
            assert found.startswith(problem) and bool(found) == bool(problem)

    run(check())


@pytest.mark.parametrize(
    ("rules", "response", "problem"),
    [
        (ProbeRules(body=b"ready"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot ready", ""),
        (
            ProbeRules(body=b"ready"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3\r\nady\r\n0\r\n\r\n",
            "",
        ),
        (
            ProbeRules(body=b"ready"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstarting",
            "response to GET / does not contain the text of health.body",
        ),
        (ProbeRules(body=b"ready"), b"HTTP/1.1 503 Not\r\nContent-Length: 5\r\n\r\nready", "status 503 for GET /"),
        # Beyond what a probe reads.
        (
            ProbeRules(body=b"ready"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 70005\r\n\r\n" + b"x" * 70_000 + b"ready",
            "response to GET / does not contain the text of health.body",
        ),
        # The length is that of the response to a GET: no body follows.
        (ProbeRules(method="HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ""),
        (ProbeRules(method="OPTIONS"), b"HTTP/1.1 405 Not\r\nContent-Length: 0\r\n\r\n", "status 405 for OPTIONS /"),
    ],
)
def test_the_method_of_a_probe_and_the_body_that_it_requires(rules: ProbeRules, response: bytes, problem: str) -> None:
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        await reader.read()  # until the probe closes

    async def check() -> None:
        async with stream_server(handler) as port:
            assert await probe("127.0.0.1", port, "/", 5.0, rules=rules) == problem

    run(check())
    assert requests[0].startswith(rules.method.encode() + b" / HTTP/1.1\r\n")


def test_a_probe_of_a_port_of_its_own() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % (200 if b"Host: 127.0.0.1:1\r\n" in request else 400)
        )

    async def check() -> None:
        async with stream_server(handler) as port:
            assert await probe("127.0.0.1", 1, "/", 5.0, rules=ProbeRules(port=port)) == ""

    run(check())


def test_host_fields_and_statuses_of_a_probe_can_be_set() -> None:
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 301 Moved Permanently\r\nContent-Length: 0\r\n\r\n")

    async def check() -> None:
        rules = ProbeRules("shop.example", (("X-Forwarded-Proto", "https"), ("User-Agent", "own")), frozenset({301}))
        async with stream_server(handler) as port:
            assert await probe("127.0.0.1", port, "/", 5.0, rules=rules) == ""
            rules = rules._replace(statuses=frozenset({200, 204}))
            assert await probe("127.0.0.1", port, "/", 5.0, rules=rules) == "status 301 for GET /"

    run(check())
    assert requests[0] == (
        b"GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: https\r\nUser-Agent: own\r\n"
        b"Connection: close\r\n\r\n"
    )


def test_silence_is_a_timeout() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def check() -> None:
        async with stream_server(handler) as port:
            assert await probe("127.0.0.1", port, "/", 0.1) == "no response within 0.1 s"

    run(check())


def test_without_a_path_a_connection_is_enough_and_nothing_is_sent() -> None:
    async def check() -> None:
        read: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            read.set_result(await reader.read())

        async with stream_server(handler) as port:
            assert await probe("127.0.0.1", port, None, 2.0) == ""
            assert await read == b""

    run(check())


def test_no_listener_at_the_address() -> None:
    async def check() -> None:
        assert await probe("127.0.0.1", ports.free(), None, 2.0) == "connection refused"
        assert await probe("no-such-host.invalid", 80, None, 2.0) != ""

    run(check())


def test_a_probe_of_a_unix_socket(tmp_path: Path) -> None:
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def check() -> None:
        path = tmp_path / "app.sock"
        assert await probe(str(path), 0, "/", 5.0) == f"there is no socket {path}"
        async with stream_server(handler, path=path):
            assert await probe(str(path), 0, "/", 5.0) == ""

    run(check())
    assert requests[0].startswith(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
