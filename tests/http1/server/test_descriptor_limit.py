"""A worker that is short of file descriptors refuses clients with a response, counts them, and logs one line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from typing import Any

from passerelle.http1.server.descriptor_limit import REPORT_INTERVAL, SPARE, DescriptorLimit
from tests.support.client import Client, head
from tests.support.upstream import Upstream, answering, ok
from tests.support.wire import wait_until

DESCRIPTORS = 64


class Transport(asyncio.BaseTransport):
    def __init__(self, descriptor: int) -> None:
        super().__init__({"socket": self})
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


def test_each_refusal_is_counted_and_one_line_in_ten_seconds_is_logged() -> None:
    lines: list[str] = []
    now = [0.0]
    limit = DescriptorLimit(100, lines.append, lambda: now[0])
    assert not limit.refuses(Transport(99 - SPARE))
    assert all(limit.refuses(Transport(100 - SPARE + number)) for number in range(5))
    assert (limit.refused, len(lines)) == (5, 1)
    limit.check()
    assert len(lines) == 1
    now[0] += REPORT_INTERVAL
    limit.check()
    limit.check()
    assert len(lines) == 2
    assert ": 1 client connections refused" in lines[0] and ": 4 client connections refused" in lines[1]


def test_without_descriptors_clients_are_refused_until_some_are_free() -> None:
    upstream = Upstream(answering(ok()))
    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "admin": "off",
        "access_log": "off",
        "services": {"u": {"targets": [upstream.url]}},
        "routes": [{"path": "/{rest*}", "service": "u"}],
    }
    command = ["bash", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "-", sys.executable, "-m", "tests.support.serve"]
    with (
        contextlib.closing(upstream),
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        contextlib.ExitStack() as clients,
    ):
        assert process.stdin is not None and process.stdout is not None

        def write(line: str) -> str:
            assert process.stdin is not None and process.stdout is not None
            print(line, file=process.stdin, flush=True)
            return process.stdout.readline()

        port = int(write(json.dumps(settings)))
        served = [clients.enter_context(Client(port)) for _ in range(10)]
        assert all(client.request().status == 200 for client in served)
        more = [clients.enter_context(Client(port)) for _ in range(DESCRIPTORS)]

        def connections() -> dict[str, int]:
            return dict(json.loads(write("metrics"))["connections"])

        wait_until(lambda: connections()["accepted"] == len(served) + len(more), "all connections are known")
        wait_until(lambda: sum(not client.is_open() for client in more) == connections()["refused"], "responses")
        refused = [client.read_response() for client in more if not client.is_open()]
        assert refused and {response.status for response in refused} == {503}
        assert served[0].request().status == 200
        assert connections()["without_descriptor"] == len(refused)
        clients.close()

        def is_served() -> bool:
            with Client(port) as client:
                client.send(head())
                return client.rest_or_response() == 200

        wait_until(is_served, "a client is served again")
        _, errors = process.communicate()
        lines = [line for line in errors.splitlines() if line]
        assert process.returncode == 0
        assert len(lines) == 1 and "out of file descriptors" in lines[0], errors
