"""Automatic scaling of a supervisor in this process: real instances, samples and time from the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from passerelle.config.loader import load_text
from passerelle.supervisor.autoscaling import Autoscaling
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.fleet import Setup
from passerelle.supervisor.output import Output
from passerelle.supervisor.report import ConsoleReport
from passerelle.supervisor.supervisor import SERVICE_GRACE, START_LIMIT, Supervisor
from tests.supervisor.helpers import alive, run, until, until_now

pytestmark = pytest.mark.slow

APPLICATION = """
import time
def app(environ, start_response):
    if environ["PATH_INFO"] != "/health":
        time.sleep(0.05)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
TEXT = """
listen: 127.0.0.1:0
admin: 'off'
access_log: 'off'
services:
  s: {app: application:app, instances: {min: 1, max: 4, target_in_flight: 2}, health: {path: /health}}
  fixed: {app: application:app, instances: 1, health: {path: /health}}
  elsewhere: {targets: ['http://127.0.0.1:9']}
routes: [{path: "/{rest*}", service: s}]
"""


class Running:
    """A supervisor, with samples that the test makes: ``second`` at a time."""

    def __init__(self, supervisor: Supervisor, file: Path, output: Path, out: Output, passed: list[float]) -> None:
        self.supervisor = supervisor
        self.fleet = supervisor.fleet
        self.reconciler = supervisor._reconciler
        self.scaling = Autoscaling(self.fleet, self.reconciler.follow_load)
        self.file = file
        self._output = output
        self._out = out
        self._passed = passed

    @property
    def text(self) -> str:
        until_now(lambda: self._out._size == 0)  # a thread writes
        return self._output.read_text()

    @property
    def count(self) -> int:
        return sum(instance.service.name == "s" for instance in self.fleet.instances)

    def seconds(self, number: int, in_flight: float, *, silent: bool = False) -> None:
        """Let ``number`` seconds pass, with one sample in each."""
        for _ in range(number):
            self._passed[0] += 1.0
            workers = {w.name: {"state": "up"} | ({} if silent else {"memory": 1}) for w in self.fleet.workers}
            services = {"s": {"requests": 20.0 * in_flight, "errors": 0.0, "in_flight": in_flight}}
            self.scaling.on_sample({"workers": workers, "services": services, "machine": {"cpus": 2, "cpu": 0.0}})

    async def settled(self) -> None:
        """Wait until no change is being made."""
        await until(lambda: not self.fleet.scaling["s"].changing, 30, what=lambda: self.text)


@contextlib.asynccontextmanager
async def supervised(
    folder: Path, text: str = TEXT, application: str = APPLICATION, speed: float = 1.0
) -> AsyncIterator[Running]:
    """Run a supervisor whose clock is ``speed`` times as fast."""
    (folder / "application.py").write_text(application)
    file, output = folder / "gateway.yaml", folder / "output"
    file.write_text(text)
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    out = Output(fd)
    report = ConsoleReport(out, terminal=False, colour=False, clock=time.monotonic)
    setup = Setup(load_text(text, "gateway.yaml", folder=folder), text, "gateway.yaml", folder, file)
    passed = [0.0]
    supervisor = Supervisor(
        setup,
        report,
        clock=lambda: speed * time.monotonic() + passed[0],
        start_limit=speed * START_LIMIT,
        grace=speed * SERVICE_GRACE,
    )
    task = asyncio.create_task(supervisor.run())
    running = Running(supervisor, file, output, out, passed)
    try:
        await until(lambda: supervisor.fleet.state == "running" or task.done(), 30, what=lambda: running.text)
        if supervisor._sampling is not None:
            supervisor._sampling.cancel()  # the test makes the samples
        yield running
    finally:
        supervisor.stop()
        await task
        out.close()
        os.close(fd)


@pytest.fixture
def scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    mark = f"PASSERELLE_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))

    def check(work: Callable[[Running], Any], text: str = TEXT) -> None:
        async def inner() -> None:
            async with supervised(tmp_path, text) as running:
                await work(running)
            assert alive(mark) == {}

        run(inner(), 90)

    return check


def test_the_load_raises_and_lowers_the_number_and_the_reasons_are_reported(scaled: Callable[..., Any]) -> None:
    async def check(running: Running) -> None:
        assert running.count == 1
        running.seconds(10, 8)
        await running.settled()
        assert running.count == 2
        assert "s: scaled from 1 to 2 instances: 8 requests in flight at 1 instance, 2 each wanted" in running.text
        status = (await running.supervisor.status())["services"]["s"]["scaling"]
        assert status["reason"] == "burst" and status["wanted"] == 2 and status["max"] == 4
        running.seconds(130, 1)
        await running.settled()
        assert running.count == 1
        event = running.fleet.events.since(0, {"scale"})[-1]
        assert event.detail == {"before": 2, "instances": 1, "reason": "idle"}
        metrics = (await running.supervisor.metrics())["scaling"]["s"]
        assert metrics == {"wanted": 1, "changes": {"burst": 1, "idle": 1}}

    scaled(check)


@pytest.mark.long
def test_an_instance_that_leaves_finishes_its_requests(scaled: Callable[..., Any]) -> None:
    async def check(running: Running) -> None:
        statuses: list[bytes] = []
        host, port = running.fleet.listen.rsplit(":", 1)

        async def client() -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            while not stopped.is_set():
                writer.write(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
                statuses.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
                await reader.readexactly(2)
            writer.close()

        def more_than(number: int) -> bool:
            return len(statuses) > number

        stopped = asyncio.Event()
        assert await running.reconciler.follow_load("s", 1, 4, "load", "for the test")
        clients = [asyncio.create_task(client()) for _ in range(8)]
        await until(partial(more_than, 40))
        for wanted in (2, 1):
            running.seconds(61, 0)
            await running.settled()
            assert running.count == wanted
            await until(partial(more_than, len(statuses) + 20))
        stopped.set()
        await asyncio.gather(*clients)
        assert set(statuses) == {b"200"}

    scaled(check)


def test_a_number_set_manually_stays_until_the_service_follows_the_load_again(scaled: Callable[..., Any]) -> None:
    async def check(running: Running) -> None:
        change = running.supervisor.change
        response = await change("scale", {"service": "s", "instances": "2"})
        assert response["message"].endswith("it follows the load again after `passerelle scale s=auto`")
        running.seconds(200, 0)
        await running.settled()
        assert running.count == 2
        status = (await running.supervisor.status())["services"]["s"]["scaling"]
        assert (status["manual"], status["wanted"], status["reason"]) == (True, 2, "manual")
        await running.reconciler.reload()
        assert running.fleet.scaling["s"].manual, "the file has the same range as before"
        await change("scale", {"service": "s", "instances": "auto"})
        running.seconds(70, 0)
        await running.settled()
        assert running.count == 1

    scaled(check)


def test_services_without_a_range_do_not_follow_the_load(scaled: Callable[..., Any]) -> None:
    async def check(running: Running) -> None:
        for service, problem in {
            "fixed": "the instances of fixed are a fixed number: give them min and max in the file",
            "elsewhere": "elsewhere has targets: passerelle does not start its instances",
            "missing": "there is no service 'missing'",
        }.items():
            with pytest.raises(ChangeRefused, match=problem):
                await running.supervisor.change("scale", {"service": service, "instances": "auto"})
        with pytest.raises(ChangeRefused, match="found 'many' instances"):
            await running.supervisor.change("scale", {"service": "s", "instances": "many"})

    scaled(check)


def test_a_worker_that_does_not_reply_holds_the_number(scaled: Callable[..., Any]) -> None:
    async def check(running: Running) -> None:
        await running.reconciler.follow_load("s", 1, 4, "load", "for the test")
        running.seconds(300, 0, silent=True)
        await running.settled()
        assert running.count == 4
        assert (await running.supervisor.status())["services"]["s"]["scaling"]["reason"] == "missing"

    scaled(check)


def test_a_decision_that_is_out_of_date_changes_nothing(scaled: Callable[..., Any]) -> None:
    async def check(running: Running) -> None:
        follow = running.reconciler.follow_load
        assert not await follow("s", 3, 4, "load", "the number is 1")
        assert not await follow("s", 1, 9, "load", "beyond the range")
        assert not await follow("fixed", 1, 2, "load", "no range")
        assert not await follow("missing", 1, 2, "load", "no service")
        assert running.count == 1

    scaled(check)


@pytest.mark.long
def test_a_reload_applies_another_range_and_begins_and_ends_automatic_scaling(scaled: Callable[..., Any]) -> None:
    async def check(running: Running) -> None:
        assert running.supervisor._sampling is None, "nothing is sampled without the admin port and without a range"
        fixed, ranged = running.file.read_text(), TEXT
        running.file.write_text(ranged.replace("min: 1", "min: 2"))
        await running.reconciler.reload()
        assert running.count == 3, "the current number is within the range"
        assert running.supervisor._sampling is not None
        running.supervisor._sampling.cancel()
        running.file.write_text(ranged.replace("max: 4", "max: 2"))
        await running.reconciler.reload()
        assert running.count == 2
        running.file.write_text(fixed)
        await running.reconciler.reload()
        assert running.count == 3 and running.fleet.scaling == {}

    scaled(check, TEXT.replace("{min: 1, max: 4, target_in_flight: 2}", "3"))


@pytest.mark.long
def test_instances_that_do_not_come_up_are_not_multiplied(scaled: Callable[..., Any], tmp_path: Path) -> None:
    async def check(running: Running) -> None:
        (tmp_path / "application.py").write_text("raise SystemExit('broken')\n")
        running.seconds(10, 20)
        await running.settled()
        running.seconds(60, 20)
        await running.settled()
        assert running.count == 2
        assert "s: stays at 2 instances: 20 requests in flight" in running.text
        assert running.text.count("stays at") == 1, "each reason is reported once"

    scaled(check)
