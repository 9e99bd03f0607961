"""The supervisor in this process, with shortened intervals; services and workers are real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from passerelle.config.loader import load_text
from passerelle.supervisor import service_health as service_module
from passerelle.supervisor import worker_process as worker_module
from passerelle.supervisor.fleet import Setup
from passerelle.supervisor.output import Output
from passerelle.supervisor.report import ConsoleReport
from passerelle.supervisor.service_health import ServiceHealthMonitor
from passerelle.supervisor.supervisor import Supervisor
from passerelle.upstream.members import InstanceSpec
from tests.supervisor.helpers import FILE_SERVER, alive, run, until, until_now
from tests.support.streams import stream_server

HEAD = "listen: 127.0.0.1:0\nadmin: 'off'\naccess_log: 'off'\n"
FILES = f"""
services:
  s:
    run: [python, -S, "{FILE_SERVER}", "{{port}}"]
    instances: 2
    health: {{path: /, timeout: 200ms}}
routes: [{{path: /, service: s}}]
"""


class Running:
    def __init__(self, supervisor: Supervisor, task: asyncio.Task[int], path: Path, output: Output, mark: str) -> None:
        self.supervisor = supervisor
        self.task = task
        self.mark = mark
        self._path = path
        self._output = output

    @property
    def text(self) -> str:
        until_now(lambda: self._output._size == 0)  # a thread writes
        return self._path.read_text()

    async def started(self) -> None:
        await until(lambda: self.supervisor.is_ready or self.task.done(), 20, what=lambda: self.text)
        assert self.supervisor.is_ready, self.text

    async def seen(self) -> list[str]:
        """Return the names of the instances that the worker may pick."""
        status = await self.supervisor.fleet.workers[0].status()
        return [i["name"] for i in (status or {}).get("services", {}).get("s", []) if i["up"]]


@pytest.fixture
def supervised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    mark = f"PASSERELLE_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    monkeypatch.setattr(service_module, "INTERVAL", 0.1)

    @contextlib.asynccontextmanager
    async def start(config: str, **options: Any) -> AsyncIterator[Running]:
        path = tmp_path / "output"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        output = Output(fd)
        report = ConsoleReport(output, terminal=False, colour=False, clock=time.monotonic)
        text = HEAD + config
        setup = Setup(load_text(text, "gateway.yaml", folder=tmp_path), text, "gateway.yaml", tmp_path)
        supervisor = Supervisor(setup, report, **options)
        task = asyncio.create_task(supervisor.run())
        try:
            yield Running(supervisor, task, path, output, mark)
        finally:
            supervisor.stop()
            await task
            output.close()
            os.close(fd)
            assert alive(mark) == {}

    return start


def test_an_instance_that_freezes_is_not_picked_until_it_answers_again(supervised: Callable[..., Any]) -> None:
    async def check() -> None:
        async with supervised(FILES) as running:
            await running.started()
            assert await running.seen() == ["s-1", "s-2"]
            process = running.supervisor.fleet.instances[0].process
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: running.supervisor.fleet.instances[0].state.value == "down")
            assert await running.seen() == ["s-2"]
            status = await running.supervisor.status()
            assert status["services"]["s"]["up"] == 1
            assert status["services"]["s"]["instances"][0]["problem"] == "no response within 0.2 s"
            os.kill(process.pid, signal.SIGCONT)
            await until(lambda: running.supervisor.fleet.instances[0].state.value == "up")
            assert await running.seen() == ["s-1", "s-2"]
            assert running.supervisor.fleet.instances[0].restarts == 0

    run(check(), 60)


def test_an_instance_that_goes_down_and_comes_back_is_reported(supervised: Callable[..., Any]) -> None:
    async def check() -> None:
        async with supervised(FILES) as running:
            await running.started()
            process = running.supervisor.fleet.instances[0].process
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: "s-1 is down: no response within 0.2 s\n" in running.text)
            os.kill(process.pid, signal.SIGCONT)
            await until(lambda: "s-1 is up again\n" in running.text)
            assert running.text.count("s-1 is ") == 2 and "s-2 is " not in running.text

    run(check(), 60)


def test_a_target_that_goes_down_and_comes_back_is_reported(supervised: Callable[..., Any]) -> None:
    async def check() -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with AsyncExitStack() as before, AsyncExitStack() as stack:
            port = await before.enter_async_context(stream_server(greet))
            config = f"services:\n  s: {{targets: ['http://127.0.0.1:{port}']}}\nroutes: [{{path: /, service: s}}]\n"
            running = await stack.enter_async_context(supervised(config))
            await running.started()
            await before.aclose()
            await until(lambda: f"s-1 (127.0.0.1:{port}) is down: connection refused\n" in running.text)
            async with stream_server(greet, port=port):
                await until(lambda: f"s-1 (127.0.0.1:{port}) is up again\n" in running.text)

    run(check(), 60)


def test_a_wrong_health_path_is_reported_while_the_start_waits(supervised: Callable[..., Any]) -> None:
    async def check() -> None:
        config = FILES.replace("path: /, timeout", "path: /helth, timeout")
        async with supervised(config) as running:
            await until(lambda: "is not up yet: status 404 for GET /helth\n" in running.text, 20)
            assert not running.supervisor.is_ready
            await until(lambda: "waiting for s-1, s-2" in running.text, 20)
            assert running.text.count("is not up yet") == 1  # once for all instances of the service

    run(check(), 60)


def test_a_restart_keeps_the_places_of_the_instances(supervised: Callable[..., Any]) -> None:
    async def check() -> None:
        async with supervised(FILES) as running:
            await running.started()
            fleet = running.supervisor.fleet
            before = {(one["name"], one["port"]): one["place"] for one in fleet.services["s"].listing()}
            assert sorted(before.values()) == ["s/1", "s/2"]
            await running.supervisor._reconciler.restart("s")
            after = {(one["name"], one["port"]): one["place"] for one in fleet.services["s"].listing()}
            assert sorted(after.values()) == ["s/1", "s/2"] and not after.keys() & before.keys()

    run(check(), 60)


def test_an_instance_that_dies_is_out_before_anything_else_happens(supervised: Callable[..., Any]) -> None:
    async def check() -> None:
        async with supervised(FILES) as running:
            await running.started()
            running.supervisor.fleet.instances[1]._backoff.base = 20.0  # so that its restart does not hide its end
            running.supervisor.fleet.instances[1]._backoff._rng = lambda: 0.9
            os.kill(running.supervisor.fleet.instances[1].process.pid, signal.SIGKILL)
            await until(lambda: running.supervisor.fleet.instances[1].waiting)
            assert await running.seen() == ["s-1"]

    run(check(), 60)


def test_what_starts_later_than_the_limit_is_reported_and_joins(supervised: Callable[..., Any], tmp_path: Path) -> None:
    config = f"""
services:
  s:
    run: [sh, -c, "while ! test -e ready; do sleep 0.05; done; exec python -S '{FILE_SERVER}' {{port}}"]
routes: [{{path: /, service: s}}]
"""

    async def check() -> None:
        async with supervised(config, start_limit=0.3) as running:
            await running.started()
            assert "connection refused; it receives requests as soon as it is up" in running.text
            assert "s: no instance is up; requests to it get 503 until one is" in running.text
            assert running.supervisor.fleet.instances[0].state.value == "starting"
            (tmp_path / "ready").touch()
            await until(lambda: running.supervisor.fleet.instances[0].state.value == "up")
            assert await running.seen() == ["s-1"]
            assert running.supervisor.fleet.instances[0].restarts == 0

    run(check(), 60)


def test_a_worker_that_hangs_is_replaced(supervised: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_SNAPSHOT_INTERVAL", 0.1)
    monkeypatch.setattr(worker_module, "_REPLY_LIMIT", 0.2)
    monkeypatch.setattr(worker_module, "_SILENCE_LIMIT", 0.5)

    async def check() -> None:
        async with supervised(FILES) as running:
            await running.started()
            worker = running.supervisor.fleet.workers[0]
            hanging = worker.process.pid
            os.kill(hanging, signal.SIGSTOP)
            await until(lambda: worker.restarts == 1 and worker.up_since is not None, 20, what=lambda: running.text)
            assert "gateway did not reply for 0.5 s and was killed" in running.text
            assert hanging not in alive(running.mark)
            assert await running.seen() == ["s-1", "s-2"]

    run(check(), 60)


def test_an_internal_error_is_reported_and_leaves_no_process(
    supervised: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: ServiceHealthMonitor, spec: InstanceSpec, *callbacks: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(ServiceHealthMonitor, "watch", broken)

    async def check() -> None:
        async with supervised(FILES) as running:
            assert await running.task == 1
            assert alive(running.mark) == {}
        assert "RuntimeError: planted" in running.text

    run(check(), 60)


@pytest.mark.long
def test_many_instances_are_summed_up_in_the_report(supervised: Callable[..., Any]) -> None:
    async def check() -> None:
        async with supervised(FILES.replace("instances: 2", "instances: 12")) as running:
            await running.started()
            # Another program may have taken the port of one, which is then started again and stated apart.
            await until(lambda: re.search(r"s-1 … 12  up +\d+ instances", running.text), what=lambda: running.text)
            report = running.text.partition("passerelle 0.1.0")[2]
            (up,) = re.findall(r"s-1 … 12  up +(\d+) instances", report)
            assert int(up) >= 10 and int(up) + len(re.findall(r"^  s-\d+ +starting", report, re.MULTILINE)) == 12
            while len(await running.seen()) < 12:
                await asyncio.sleep(0.05)

    run(check(), 60)


class Highest(random.Random):
    """A generator that always returns almost 1."""

    def random(self) -> float:
        return 0.9999


def test_b28_a_child_that_exits_at_once_for_ever_is_backed_off(supervised: Callable[..., Any]) -> None:
    config = """
services: {s: {run: [sh, -c, "exit 7 # {port}"]}}
routes: [{path: /, service: s}]
"""

    async def check() -> None:
        async with supervised(config, rng=Highest()) as running:
            await until(lambda: running.text.count("s-1 exited with code 7") == 3)
        said = re.findall(r"s-1 exited with code 7 after 0\.\d\d s; next start in (\d+\.\d) s", running.text)
        assert said == ["0.5", "1.0", "2.0"]

    run(check(), 60)


def test_b28_a_child_that_ignores_sigterm_is_killed_after_its_grace(supervised: Callable[..., Any]) -> None:
    config = """
services: {s: {run: [sh, -c, "trap '' TERM; echo deaf; while :; do sleep 0.05; done # {port}"]}}
routes: [{path: /, service: s}]
"""

    async def check() -> None:
        async with supervised(config, grace=1.2) as running:
            await until(lambda: "deaf" in running.text)
            begun = time.monotonic()
            running.supervisor.stop()
            assert await running.task == 0
            assert 1.2 <= time.monotonic() - begun < 5
        assert "stopping: waiting for s-1 (1 s)" in running.text

    run(check(), 60)
