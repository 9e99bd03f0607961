"""The number of instances follows the load: real processes, and clients that expect every request to succeed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import until
from tests.supervisor.test_autoscaling import Running, supervised
from tests.supervisor.up import Up, command

pytestmark = pytest.mark.slow

WAITING = """
import time
def app(environ, start_response):
    time.sleep(0.1)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
# A database with one writer: all instances together serve 25 requests per second.
DATABASE = """
import fcntl, time
def app(environ, start_response):
    if environ["PATH_INFO"] != "/health":
        with open("database", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(0.04)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
CONFIG = """
listen: 127.0.0.1:0
admin: 127.0.0.1:0
access_log: 'off'
services:
  s:
    app: application:app
    instances: {min: 2, max: 16, target_in_flight: 3}
    health: {path: /health}
    max_waiting: 1000
routes: [{path: "/{rest*}", service: s}]
"""


SPEED = 5  # of the clock where the seconds themselves are not under test


class Clients:
    """Clients with one connection each, which send one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._running: list[asyncio.Task[None]] = []
        self.requests = 0
        self.errors: list[str] = []

    def set(self, number: int) -> None:
        """Have ``number`` clients run."""
        while len(self._running) < number:
            self._running.append(asyncio.create_task(self._run()))
        for task in self._running[number:]:
            task.cancel()
        del self._running[number:]

    async def _run(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                with contextlib.closing(writer):
                    while True:
                        writer.write(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
                        head = await reader.readuntil(b"\r\n\r\n")
                        if head.split()[1] != b"200":
                            raise ValueError(head.split(b"\r\n")[0])
                        await reader.readexactly(2)
                        self.requests += 1
            except (OSError, EOFError, ValueError) as error:
                self.errors.append(repr(error))
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def loaded(folder: Path, application: str) -> AsyncIterator[tuple[Up, Clients]]:
    (folder / "application.py").write_text(application)
    (folder / "gateway.yaml").write_text(CONFIG)
    with command(folder, "up") as running:
        await asyncio.to_thread(running.listening)
        clients = Clients(running.port)
        try:
            yield running, clients
        finally:
            clients.set(0)
        assert clients.errors == []


@pytest.mark.long
def test_four_times_the_load_has_the_right_number_of_instances_within_twenty_seconds(tmp_path: Path) -> None:
    async def check() -> None:
        async with loaded(tmp_path, WAITING) as (running, clients):
            clients.set(6)
            await until(lambda: clients.requests > 100)
            assert len(running.instances("s")) == 2
            clients.set(24)
            begun = time.monotonic()

            def right() -> bool:
                return 7 <= sum(i["state"] == "up" for i in running.instances("s")) <= 9

            await until(right, 20, what=lambda: running.text)
            seconds = time.monotonic() - begun
            done = clients.requests
            await until(lambda: clients.requests > done + 240, what=lambda: running.text)
            assert seconds < 20 and right()
            assert "requests in flight at 4 instances, 3 each wanted" in running.text
            status, metrics = running.get("/metrics", running.admin)
            assert status == 200
            assert b'passerelle_service_scalings_total{reason="burst",service="s"} 2.0' in metrics

    asyncio.run(check())


def test_a_slow_database_ends_the_growth_and_is_reported(tmp_path: Path) -> None:
    """The clock of the supervisor runs five times as fast, and so do the samples of the load, which is real."""

    async def sample(running: Running) -> None:
        while True:
            await asyncio.gather(running.supervisor.live.take(), asyncio.sleep(1 / SPEED))

    async def check() -> None:
        async with supervised(tmp_path, CONFIG, DATABASE, speed=SPEED) as running:
            sampling = asyncio.create_task(sample(running))
            clients = Clients(int(running.fleet.listen.rpartition(":")[2]))
            clients.set(40)
            service = running.fleet.scaling["s"]
            await until(lambda: service.status()["reason"] == "no_gain", 30, what=lambda: running.text)
            assert running.count == 4
            assert "s: stays at 4 instances: more instances have no effect: with 4 instances" in running.text
            assert "the bottleneck is behind them or before them, such as a database" in running.text
            clients.set(0)
            sampling.cancel()
        assert clients.errors == []

    asyncio.run(check())
