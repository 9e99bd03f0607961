"""The supervisor: it starts the services' instances and the gateway workers, watches them, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from passerelle import __version__
from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.discovery.catalog import Catalog
from passerelle.gateway.assembly.services import configured_instances
from passerelle.observability.metrics import Snapshot, merge
from passerelle.supervisor import purging
from passerelle.supervisor import status as overview
from passerelle.supervisor.admin import Admin
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.reconciler import Reconciler
from passerelle.supervisor.report import ConsoleReport
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.service_health import ProbedTarget, ServiceHealthMonitor
from passerelle.supervisor.supervised import ProcessState, SupervisedProcess
from passerelle.supervisor.worker_process import WorkerProcess
from passerelle.system import linux, ports

START_LIMIT = 30.0  # seconds until the start report no longer waits for an instance
WORKER_GRACE = 10.0  # seconds for the requests in flight
SERVICE_GRACE = 10.0  # seconds between SIGTERM and SIGKILL for an instance

_Member = TypeVar("_Member", bound=SupervisedProcess | ProbedTarget)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to run: ``config`` with the command line's changes, and the ``text`` and ``file`` that it was read from.

    Commands start in ``folder``.
    """

    config: Config
    text: str
    file: str
    folder: Path
    path: Path | None = None  # the file itself, to be read again; None where there is none
    overrides: frozenset[str] = frozenset()  # keys of the file that the command line replaced
    follow: bool = False  # the file is read anew whenever it changes


class Supervisor:
    """Runs a :class:`Setup` until told to stop. Made on the event loop that :meth:`run` is awaited on."""

    def __init__(
        self,
        setup: Setup,
        report: ConsoleReport,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        start_limit: float = START_LIMIT,
        grace: float = SERVICE_GRACE,
    ) -> None:
        self.setup = setup
        self.report = report
        self._rng = rng or random.Random()
        self.clock = clock
        self._start_limit = start_limit
        self._grace = grace
        self.begun = clock()
        self._may_listen = asyncio.Event()
        self._stop = asyncio.Event()
        self._signals = 0
        self._fault: BaseException | None = None
        self._tasks: dict[SupervisedProcess | ProbedTarget, asyncio.Task[None]] = {}
        self._listeners: list[socket.socket] = []
        self._ports_in_use: set[int] = set()
        self._had_terminal = linux.has_terminal()
        self._changes: set[asyncio.Task[None]] = set()
        self.services: dict[str, ServiceHealthMonitor] = {}
        self.instances: list[InstanceProcess] = []
        self.targets: list[ProbedTarget] = []
        self.workers: list[WorkerProcess] = []
        self.state = "starting"
        self.listen = ""
        self.admin: Admin | None = None
        self.changes = Reconciler(self, clock, start_limit)
        self.catalog = Catalog(self._on_found, report.say)
        self._make()

    def _make(self) -> None:
        for name, config in self.setup.config.services.items():
            service = self.make_service(name, config)
            for _ in range(config.instances if config.is_local else 0):
                self.make_instance(service)
            self.targets += [ProbedTarget(spec, service) for spec in configured_instances(name, config)]

    def make_service(self, name: str, config: ServiceConfig) -> ServiceHealthMonitor:
        """A service without instances."""
        service = self.services[name] = ServiceHealthMonitor(name, config, self._changed, self.clock, self._rng.random)
        return service

    def make_instance(self, service: ServiceHealthMonitor) -> InstanceProcess:
        """One more instance of ``service``, with the least number that is free; not started yet."""
        names = {instance.name for instance in self.instances}
        name = next(name for n in count(1) if (name := f"{service.name}-{n}") not in names)
        instance = InstanceProcess(
            name,
            service,
            self.setup.folder,
            self._ports_in_use,
            self.report.line,
            Backoff(self._rng.random),
            self.report,
            self.clock,
        )
        self.instances.append(instance)
        return instance

    async def remove(self, member: InstanceProcess | ProbedTarget) -> None:
        """End ``member`` and forget it."""
        if isinstance(member, InstanceProcess):
            await self._cancel([member])
            await member.stop(self._grace)
            self.instances.remove(member)
        else:
            await self._cancel([member])
            member.service.remove(member.name)
            self.targets.remove(member)

    def _make_workers(self) -> None:
        for number, listener in enumerate(self._listeners, 1):
            worker = WorkerProcess(
                "gateway" if len(self._listeners) == 1 else f"gateway-{number}",
                self.setup.file,
                self.setup.text,
                listener,
                self.services.values(),
                self._may_listen,
                self.report.line,
                self.report.raw,
                Backoff(self._rng.random),
                self.report,
                self.clock,
            )
            worker.siblings = self.workers
            self.workers.append(worker)

    # Life

    async def run(self) -> int:
        """Start everything, wait for the end, stop everything.

        Gives the code to exit with: 0 after an orderly stop, 1 when it could not start or had to kill.
        """
        self._take_signals()
        try:
            self._bind()
        except ports.PortTaken as error:
            self.report.say(str(error))
            return 1
        await self.catalog.prepare(self.setup.config)
        self.catalog.adopt(self.setup.config)
        for service in self.services.values():
            self.targets += self.changes.targets.joining(service, self.setup.config, [])
        self._make_workers()
        self.report.names([member.name for member in (*self.instances, *self.workers)])
        try:
            if self.admin is not None:
                await self.admin.start()
            for member in self._members():
                self.keep(member)
            started = await self._unless_stopped(self._start())
            if started:
                self.state = "running"
                if self.setup.follow:
                    self.spawn(self.changes.follow())
                for service in self.services.values():
                    self._on_found(service.name)  # meanwhile
                await self._stop.wait()
        finally:
            self.state = "stopping"
            survivors = await self._end()
        if self._fault is not None:
            self.report.say("".join(traceback.format_exception(self._fault)).rstrip())
        return 1 if self._fault is not None or started is False or survivors or self._signals > 1 else 0

    def _bind(self) -> None:
        config = self.setup.config
        self._listeners = ports.for_clients(config.listen.host, config.listen.port, config.workers)
        host, port = self._listeners[0].getsockname()[:2]
        self.listen = ports.join(host, port)
        if config.admin is not None:
            self.admin = Admin(ports.for_admin(config.admin.host, config.admin.port), self)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        if not linux.hangup_is_ignored():
            loop.add_signal_handler(signal.SIGHUP, self.hang_up)
        loop.add_signal_handler(signal.SIGQUIT, self.kill)
        loop.add_signal_handler(signal.SIGUSR1, self.reopen_logs)

    def reopen_logs(self) -> None:
        """Let the workers open the access log anew: logrotate has moved it away."""
        for worker in self.workers:
            worker.reopen_log()

    def hang_up(self) -> None:
        """SIGHUP came: stop when the terminal that we were started on is gone, else read the file anew."""
        if self._had_terminal and not linux.has_terminal():
            self.stop()
            return
        self.spawn(self._reload())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have it done beside the rest; it is given up at the end."""
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return task

    def _on_found(self, service: str) -> None:
        if self.state == "running" and self.catalog.is_discovered(self.services[service].config):
            self.spawn(self.changes.targets.found(service))

    async def _reload(self) -> None:
        with contextlib.suppress(ChangeRefused):  # it is said already
            await self.changes.reload()

    async def change(self, what: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """What the admin port is asked to change. :raises Refused: when it cannot be."""
        if what == "cache/purge":
            what, value = purging.parse_purge(arguments)
            asked = [worker for worker in self.workers if worker.state is ProcessState.UP]
            counts = await asyncio.gather(*(worker.purge(what, value) for worker in asked))
            silent = [worker.name for worker, count in zip(asked, counts, strict=True) if count is None]
            return purging.purge_result(sum(count or 0 for count in counts), silent)
        return await self.changes.carry_out(what, arguments)

    def stop(self) -> None:
        """Begin to stop; the second time, kill everything at once."""
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to everything that was started."""
        self._signals += 2
        self._stop.set()
        for member in (*self.workers, *self.instances):
            member.kill()

    def _members(self) -> list[SupervisedProcess | ProbedTarget]:
        return [*self.instances, *self.targets, *self.workers]

    def keep(self, member: SupervisedProcess | ProbedTarget) -> None:
        """Start it, and keep it running."""
        task = asyncio.create_task(member.run(), name=member.name)
        task.add_done_callback(self._on_done)
        self._tasks[member] = task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
            self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, bool]) -> bool | None:
        """The result of ``work``, or None when told to stop before it was done."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return None if self._stop.is_set() else task.result()
        finally:
            task.cancel()
            stop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.report.progress("")

    async def _start(self) -> bool:
        """Wait until everything has answered or failed; false when there is no gateway to speak of."""
        members: list[InstanceProcess | ProbedTarget] = [*self.instances, *self.targets]
        deadline = self.clock() + self._start_limit
        while (left := _open(members)) and self.clock() < deadline and not self._worker_failed():
            names = _some([member.name for member in left])
            self.report.progress(f"starting: {len(members) - len(left)} of {len(members)}, waiting for {names}")
            await _any(member.settled for member in left)
        self._may_listen.set()
        while (waiting := _open(self.workers)) and not self._worker_failed():
            self.report.progress(f"starting {_some([worker.name for worker in waiting])}")
            await _any(worker.settled for worker in waiting)
        if self._worker_failed():
            self.report.say("the gateway cannot be started")
            return False
        admin = self.admin.address if self.admin is not None else None
        scheme = self.setup.config.scheme
        self.report.start(__version__, self.setup.file, overview.rows(self), f"{scheme}://{self.listen}", admin)
        return True

    def _worker_failed(self) -> bool:
        return any(worker.settled.is_set() and worker.up_since is None for worker in self.workers)

    async def _end(self) -> bool:
        """Stop everything: first the gateway, so that what it still carries out has its services; gives survivors."""
        self.report.say("stopping")
        self.catalog.stop()
        for task in self._changes:
            task.cancel()
        for listener in self._listeners:
            listener.close()
        await self._stop_all(self.workers, WORKER_GRACE + 1.0, "the requests in flight")
        await self._stop_all(self.instances, self._grace, "")
        await self._cancel(self.targets)
        for service in self.services.values():
            service.close()
        if self.admin is not None:
            await self.admin.stop()
        left = [p for k in (*self.workers, *self.instances) if k.process for p in sorted(k.process.unkillable)]
        for pid in left:
            self.report.say(f"could not end the process {pid}: it is stuck in the kernel")
        self.report.say("stopped" if self._signals < 2 else "killed")
        return bool(left)

    async def _stop_all(self, group: list[Any], grace: float, what: str) -> None:
        await self._cancel(group)
        hurry = self._signals > 1
        pending = {asyncio.create_task(k.stop(0.0 if hurry else grace), name=k.name) for k in group}
        while pending:
            self.report.progress(f"stopping: waiting for {what or _some(sorted(t.get_name() for t in pending))}")
            _, pending = await asyncio.wait(pending, timeout=0.25)
        self.report.progress("")

    async def _cancel(self, group: list[Any]) -> None:
        tasks = [self._tasks.pop(member) for member in group if member in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, service: ServiceHealthMonitor) -> None:
        for worker in self.workers:
            worker.send_instances(service)

    # What is

    async def in_flight(self, member: InstanceProcess | ProbedTarget) -> int:
        """Requests and tunnels that all workers together have open on ``member``."""
        answers = await asyncio.gather(*(worker.status() for worker in self.workers))
        listed = (i for a in answers for i in (a or {}).get("services", {}).get(member.service.name, ()))
        return sum(instance["in_flight"] for instance in listed if instance["name"] == member.name)

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""
        return self.state == "running" and any(worker.state is ProcessState.UP for worker in self.workers)

    async def metrics(self) -> Snapshot:
        """The counters of all workers, together."""
        parts = await asyncio.gather(*(worker.read_snapshot() for worker in self.workers))
        return merge(snapshot for part in parts for snapshot in part)

    async def status(self) -> dict[str, Any]:
        """Everything that runs, as JSON-able values; times in seconds."""
        return await overview.status(self)


def _open(members: Iterable[_Member]) -> list[_Member]:
    """Those whose first start has not come to anything yet."""
    return [member for member in members if not member.settled.is_set()]


async def _any(events: Any) -> None:
    """Wait for any of ``events``, for at most a quarter of a second."""
    tasks = {asyncio.create_task(event.wait()) for event in events}
    await asyncio.wait(tasks, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
