"""What the supervisor runs: services, their instances and targets, and gateway workers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.discovery.catalog import Catalog
from passerelle.gateway.assembly.services import configured_instances
from passerelle.observability.events import KINDS, EventLog
from passerelle.observability.metrics import Snapshot, merge, with_instances_of
from passerelle.supervisor.active_config import ActiveConfig
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.identity import Identity
from passerelle.supervisor.instance_admin import DRAIN_LIMIT
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.listeners import Listeners
from passerelle.supervisor.packed_config import pack
from passerelle.supervisor.recorded_events import RecordedProcesses, health_recorder
from passerelle.supervisor.report import ConsoleReport
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.service_health import ProbedTarget, ServiceHealthMonitor
from passerelle.supervisor.service_scaling import ServiceScaling
from passerelle.supervisor.splits import Settings, Splits
from passerelle.supervisor.state_lock import StateLock
from passerelle.supervisor.worker_process import WorkerProcess
from passerelle.system.socket_folder import SocketFolder
from passerelle.system.systemd import Notifier, PassedSockets

_SAME_REPORT = 10.0  # seconds in which the same report of several workers is one event
_DRAIN_POLL = 0.05  # seconds between two counts of the requests in flight

Member = InstanceProcess | ProbedTarget
"""An instance of a service: a process that the supervisor runs, or a target that runs elsewhere."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What to run: ``config``, with the changes of the command line, and the ``text`` and ``file`` it was read from.

    Commands start in ``folder``.
    """

    config: Config
    text: str
    file: str
    folder: Path
    path: Path | None = None  # where the file is reloaded from; None if there is no file
    overrides: frozenset[str] = frozenset()  # keys of the file that the command line replaced
    follow: bool = False  # reload the file whenever it changes
    reload_code: bool = False  # restart the instances of applications whenever their files change
    passed: PassedSockets = field(default_factory=PassedSockets)  # by systemd
    notifier: Notifier = field(default_factory=Notifier)
    identity: Identity | None = None  # what to drop to once the ports are bound


class Fleet:
    """Everything that one supervisor runs, and the operations on it that the start, changes and the stop share.

    ``on_found`` is called with the name of a service whose discovered targets have changed. ``on_fault`` is called with
    the exception that ended the supervision of a member, which is a defect. ``clock`` is in seconds; a new member has
    ``start_limit`` seconds to come up, a stopped process has ``grace`` seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        setup: Setup,
        report: ConsoleReport,
        *,
        on_found: Callable[[str], None],
        on_fault: Callable[[BaseException], None],
        rng: random.Random,
        clock: Callable[[], float],
        start_limit: float,
        grace: float,
    ) -> None:
        self.active = ActiveConfig(setup.config, setup.text, setup.file, setup.path, setup.overrides)
        self.report = report
        self.events = EventLog()
        self._process_events = RecordedProcesses(report, self.events)
        self._record_health = health_recorder(self.events, self._has_processes)
        self.clock = clock
        self.created = clock()
        self.state = "starting"
        self.listeners = Listeners(setup.config.workers, setup.passed)
        self.notifier = setup.notifier
        self.lock = asyncio.Lock()
        self.splits = Splits(setup.config, self.events, report.log, self._send_splits, self.metrics)
        self.catalog = Catalog(on_found, report.log)
        self.services: dict[str, ServiceHealthMonitor] = {}
        self.scaling: dict[str, ServiceScaling] = {}  # of the services whose number of instances is a range
        self.instances: list[InstanceProcess] = []
        self.targets: list[ProbedTarget] = []
        self.workers: list[WorkerProcess] = []
        self.folder = setup.folder
        self.state_lock = StateLock(setup.folder)
        self.on_worn: Callable[[InstanceProcess], None] = lambda instance: None  # see InstanceProcess
        self._on_fault = on_fault
        self._rng = rng
        self._start_limit = start_limit
        self._grace = grace
        self._ports_in_use: set[int] = set()
        self.sockets = SocketFolder()
        self._reported: dict[tuple[str, str], float] = {}
        self._runs: dict[Member | WorkerProcess, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        for name, config in setup.config.services.items():
            service = self.make_service(name, config)
            self.configure_scaling(name, config)
            for _ in range(config.instances.min if config.is_local else 0):
                self.make_instance(service)
            self.targets += [ProbedTarget(spec, service) for spec in configured_instances(name, config)]

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.active.config

    @property
    def listen(self) -> str:
        """The address of the first listener, with its port; empty before it is bound."""
        return next(iter(self.listeners.addresses), "")

    @property
    def members(self) -> list[Member]:
        """All instances of all services."""
        return [*self.instances, *self.targets]

    # Creation

    def make_service(self, name: str, config: ServiceConfig) -> ServiceHealthMonitor:
        """Create a service without instances."""
        service = ServiceHealthMonitor(name, config, self._send_instances, self.clock, self._rng.random, self.report)
        service.on_change = self._record_health
        self.services[name] = service
        return service

    def configure_scaling(self, name: str, config: ServiceConfig | None) -> None:
        """Scale the service automatically if its instances are a range. The state is kept if the range is the same."""
        found = self.scaling.get(name)
        if config is None or not config.is_local or not config.instances.scales:
            self.scaling.pop(name, None)
        elif found is None or found.instances != config.instances:
            self.scaling[name] = ServiceScaling(config.instances)

    def make_instance(self, service: ServiceHealthMonitor, place: int | None = None) -> InstanceProcess:
        """Create an instance of ``service`` under the lowest free number, without starting it.

        ``place`` is the place of the instance that it replaces. With None, the instance takes the lowest free place.
        """
        if place is None:
            taken = {instance.place for instance in self.instances if instance.service is service}
            place = next(n for n in count(1) if n not in taken)
        names = {instance.name for instance in self.instances}
        name = next(name for n in count(1) if (name := f"{service.name}-{n}") not in names)
        instance = InstanceProcess(
            name,
            service,
            self.folder,
            self._ports_in_use,
            self.sockets,
            self.report.line,
            Backoff(self._rng.random),
            self._process_events,
            self.clock,
            place,
        )
        instance.on_worn = lambda worn: self.on_worn(worn)
        self.instances.append(instance)
        return instance

    def make_workers(self, may_listen: asyncio.Event) -> None:
        """Create the gateway workers; they listen once ``may_listen`` is set."""
        config = pack(self.active.config)
        for number in range(self.config.workers):
            name = "gateway" if self.config.workers == 1 else f"gateway-{number + 1}"
            worker = WorkerProcess(
                name,
                self.active.file,
                config,
                self.listeners.for_worker(number),
                self.services.values(),
                may_listen,
                self.report.line,
                functools.partial(self.report.access_log, name),
                Backoff(self._rng.random),
                self._process_events,
                self.clock,
            )
            worker.siblings = self.workers
            worker.logs_to_stderr = self.active.config.access_log == "stderr"
            worker.splits = self.splits.settings
            worker.on_report = self._record_report
            self.workers.append(worker)

    def _has_processes(self, service: str) -> bool:
        return service in self.services and self.services[service].config.is_local

    def _record_report(self, worker: str, kind: str, service: str | None, text: str) -> None:
        """Record what a worker has reported. Of a file or a store, all workers report the same, which is one event."""
        if kind not in KINDS:
            return
        now = self.clock()
        self._reported = {known: at for known, at in self._reported.items() if now - at < _SAME_REPORT}
        if kind != "breaker":
            if (kind, text) in self._reported:
                return
            self._reported[kind, text] = now
        self.events.record(kind, text, service=service, worker=worker)

    def _send_instances(self, service: ServiceHealthMonitor) -> None:
        for worker in self.workers:
            worker.send_instances(service)

    async def _send_splits(self, settings: Settings) -> None:
        await asyncio.gather(*(worker.set_splits(settings) for worker in self.workers))

    async def metrics(self) -> Snapshot:
        """Return the counters of all workers, merged, with those of workers that have ended."""
        parts = await asyncio.gather(*(worker.read_snapshot() for worker in self.workers))
        snapshots = [snapshot for part in parts for snapshot in part]
        return with_instances_of(merge(snapshots), [each for each in snapshots if each["workers"]])

    # Start and end of members

    def supervise(self, member: Member | WorkerProcess) -> None:
        """Start ``member`` and keep it running until it is removed or cancelled."""
        task = asyncio.create_task(member.run(), name=member.name)
        task.add_done_callback(self._on_done)
        self._runs[member] = task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._on_fault(fault)

    async def start(self, members: Iterable[Member]) -> None:
        """Start ``members`` and wait until each has come up or failed once, for at most the start limit."""
        members = list(members)
        self.set_report_names()
        for member in members:
            self.supervise(member)
        settled = [asyncio.create_task(member.settled.wait()) for member in members]
        if settled:
            await asyncio.wait(settled, timeout=self._start_limit)
        for task in settled:
            task.cancel()

    def set_report_names(self) -> None:
        """Pass the names of all processes to the console report."""
        self.report.set_names([process.name for process in (*self.instances, *self.workers)])

    async def cancel(self, members: Iterable[Member | WorkerProcess]) -> None:
        """End the supervision of ``members``; their processes keep running."""
        tasks = [self._runs.pop(member) for member in members if member in self._runs]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def remove(self, member: Member) -> None:
        """Stop ``member`` and remove it from its service."""
        await self.cancel([member])
        if isinstance(member, InstanceProcess):
            await member.stop(self._grace)
            self.instances.remove(member)
            text = f"{member.name} was stopped"
            self.events.record("end", text, service=member.service.name, instance=member.name, reason="stopped")
        else:
            member.service.remove(member.name)
            self.targets.remove(member)

    async def drain_and_remove(self, members: Iterable[Member]) -> None:
        """Drain all of ``members`` at the same time, then stop and remove them."""

        async def end(member: Member) -> None:
            await self.wait_until_drained(member)
            await self.remove(member)

        await asyncio.gather(*map(end, members))

    async def wait_until_drained(self, member: Member) -> None:
        """Send ``member`` no new requests, and wait for those in flight, for at most :data:`DRAIN_LIMIT` seconds.

        A longer ``grace`` of an instance takes the place of the limit.
        """
        member.service.drain(member.name)
        grace = member.grace if isinstance(member, InstanceProcess) else None
        deadline = self.clock() + max(DRAIN_LIMIT, grace or 0.0)
        while True:
            if not await self.in_flight(member) or self.clock() >= deadline:
                return
            await asyncio.sleep(_DRAIN_POLL)

    async def in_flight(self, member: Member) -> int:
        """Count the requests and tunnels that all workers together have open on ``member``."""
        statuses = await asyncio.gather(*(worker.status() for worker in self.workers))
        listed = (i for status in statuses for i in (status or {}).get("services", {}).get(member.service.name, ()))
        return sum(instance["in_flight"] for instance in listed if instance["name"] == member.name)

    # Changes

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock of changes: one change at a time.

        :raises ChangeRefused: while the supervisor starts or stops.
        """
        async with self.lock:
            if self.state != "running":
                refused = ChangeRefused(f"the gateway is {self.state} and accepts no changes")
                self.report_refused(refused)
                raise refused
            yield

    def report_refused(self, refused: ChangeRefused) -> None:
        """Report why a change was refused."""
        for problem in refused.problems:
            self.report.log(problem)
        self.report.log("nothing was changed")

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` in the background, until it is done or :meth:`cancel_background` is called."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def cancel_background(self) -> None:
        """Cancel what :meth:`spawn` has started."""
        for task in self._background:
            task.cancel()
