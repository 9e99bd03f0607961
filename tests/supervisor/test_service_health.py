"""The health of a service in the supervisor: what the results of its probes change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

from passerelle.balancing.health import HealthChange, HealthState
from passerelle.config.models.config import Service
from passerelle.supervisor.service_health import ServiceHealthMonitor
from passerelle.upstream.members import InstanceSpec
from tests.supervisor.helpers import run, until
from tests.support.streams import stream_server


class Instance:
    """A server whose next responses have ``status``. ``served`` are the statuses of its responses so far."""

    def __init__(self) -> None:
        self.status = 200
        self.served: list[int] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.served.append(self.status)
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % self.status)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with stream_server(self._serve) as self.port:
            yield


class Events:
    def __init__(self) -> None:
        self.late_problems: dict[str, str] = {}

    def health(self, label: str, change: HealthChange, problem: str) -> None: ...

    def late(self, name: str, problem: str) -> None:
        self.late_problems[name] = problem


@contextmanager
def monitor(
    health: dict[str, object], target: str, events: Events | None = None, clock: Callable[[], float] | None = None
) -> Iterator[ServiceHealthMonitor]:
    config = Service.model_validate({"targets": [target], "health": {"path": "/", **health}})
    clock = clock or asyncio.get_running_loop().time
    made = ServiceHealthMonitor("s", config, lambda _: None, clock, lambda: 0.0, events or Events())
    try:
        yield made
    finally:
        made.close()


def test_thresholds_both_ways_and_the_interval_of_the_probes() -> None:
    async def check() -> None:
        instance = Instance()
        changes: list[tuple[HealthState, int]] = []  # with the number of responses so far

        def on_change(name: str, change: HealthChange) -> None:
            changes.append((change.after, len(instance.served)))
            instance.status = 503 if change.after is HealthState.UP else 200

        async with instance.listening():
            spec = InstanceSpec("s-1", "127.0.0.1", instance.port)
            health: dict[str, object] = {"interval": "10ms", "rise": 3, "fall": 2, "timeout": "5s"}
            with monitor(health, f"http://127.0.0.1:{instance.port}") as service:
                service.add(spec)
                service.on_change = on_change
                failures: list[int] = []
                task = asyncio.create_task(service.watch(spec, lambda: None, lambda: failures.append(1)))
                await until(lambda: len(changes) >= 3)
                task.cancel()
                await asyncio.wait([task])
        assert changes[:3] == [(HealthState.UP, 3), (HealthState.DOWN, 5), (HealthState.UP, 8)]
        assert failures == []

    run(check())


def test_a_reload_changes_the_probes_and_keeps_the_state() -> None:
    async def check() -> None:
        instance = Instance()
        async with instance.listening():
            spec = InstanceSpec("s-1", "127.0.0.1", 1)  # only the port of the probe is served
            health: dict[str, object] = {"port": instance.port, "interval": "10ms"}
            with monitor(health, "http://127.0.0.1:1") as service:
                service.add(spec)
                task = asyncio.create_task(service.watch(spec, lambda: None))
                await until(lambda: service.is_up("s-1"))
                with monitor(health | {"fall": 1}, "http://127.0.0.1:1") as other:
                    service.configure(other.config)
                assert service.is_up("s-1")
                instance.status = 500
                await until(lambda: not service.is_up("s-1"))
                task.cancel()
                await asyncio.wait([task])

    run(check())


def test_an_instance_that_does_not_listen_yet_is_not_reported_as_late(tmp_path: Path) -> None:
    async def check() -> None:
        instance, events = Instance(), Events()
        instance.status = 404
        async with instance.listening():
            specs = [
                InstanceSpec("socket", str(tmp_path / "missing.sock"), 0),
                InstanceSpec("port", "127.0.0.1", 1),
                InstanceSpec("wrong path", "127.0.0.1", instance.port),
            ]
            seconds = count(step=60)
            with monitor({"interval": "10ms"}, "http://127.0.0.1:1", events, lambda: float(next(seconds))) as service:
                tasks = []
                for spec in specs:
                    service.add(spec)
                    tasks.append(asyncio.create_task(service.watch(spec, lambda: None)))
                await until(lambda: len(service.problems) == len(specs) and "wrong path" in events.late_problems)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        assert events.late_problems == {"wrong path": "status 404 for GET /"}

    run(check())
