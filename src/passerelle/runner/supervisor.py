"""The supervisor: it starts the services' instances and the gateway workers, watches them, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from passerelle import __version__
from passerelle.config.models import Config
from passerelle.gateway.app import configured_instances
from passerelle.observability.metrics import Snapshot, merge
from passerelle.runner import linux, ports
from passerelle.runner.admin import Admin
from passerelle.runner.backoff import Backoff
from passerelle.runner.gateway import Worker
from passerelle.runner.instance import Instance
from passerelle.runner.kept import Kept, State
from passerelle.runner.report import Report, Row
from passerelle.runner.service import Service, Target

START_LIMIT = 30.0  # seconds until the start report no longer waits for an instance
WORKER_GRACE = 10.0  # seconds for the requests in flight
SERVICE_GRACE = 10.0  # seconds between SIGTERM and SIGKILL for an instance

_Member = TypeVar("_Member", bound=Kept | Target)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to run: ``config`` with the command line's changes, and the ``text`` and ``file`` that it was read from.

    Commands start in ``folder``.
    """

    config: Config
    text: str
    file: str
    folder: Path


class Supervisor:
    """Runs a :class:`Setup` until told to stop. Made on the event loop that :meth:`run` is awaited on."""

    def __init__(
        self,
        setup: Setup,
        report: Report,
        *,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        start_limit: float = START_LIMIT,
        grace: float = SERVICE_GRACE,
    ) -> None:
        self._setup = setup
        self._report = report
        self._rng = rng or random.Random()
        self._clock = clock
        self._start_limit = start_limit
        self._grace = grace
        self._begun = clock()
        self._go = asyncio.Event()
        self._stop = asyncio.Event()
        self._signals = 0
        self._fault: BaseException | None = None
        self._tasks: dict[Kept | Target, asyncio.Task[None]] = {}
        self._listeners: list[socket.socket] = []
        self.services: dict[str, Service] = {}
        self.instances: list[Instance] = []
        self.targets: list[Target] = []
        self.workers: list[Worker] = []
        self.state = "starting"
        self.listen = ""
        self.admin: Admin | None = None
        self._make()

    def _make(self) -> None:
        config = self._setup.config
        taken: set[int] = set()
        for name, service_config in config.services.items():
            service = Service(name, service_config, self._changed, self._clock, self._rng.random)
            self.services[name] = service
            for number in range(1, service_config.instances + 1 if service_config.is_local else 1):
                instance = Instance(
                    f"{name}-{number}",
                    service,
                    self._setup.folder,
                    taken,
                    self._report.line,
                    Backoff(self._rng.random),
                    self._report,
                    self._clock,
                )
                self.instances.append(instance)
            self.targets += [Target(spec, service) for spec in configured_instances(name, service_config)]

    def _make_workers(self) -> None:
        for number, listener in enumerate(self._listeners, 1):
            worker = Worker(
                "gateway" if len(self._listeners) == 1 else f"gateway-{number}",
                self._setup.file,
                self._setup.text,
                listener,
                self.services.values(),
                self._go,
                self._report.line,
                self._report.raw,
                Backoff(self._rng.random),
                self._report,
                self._clock,
            )
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
            self._report.say(str(error))
            return 1
        self._make_workers()
        self._report.names([kept.name for kept in (*self.instances, *self.workers)])
        try:
            if self.admin is not None:
                await self.admin.start()
            for kept in self._members():
                self._keep(kept)
            started = await self._unless_stopped(self._start())
            if started:
                self.state = "running"
                await self._stop.wait()
        finally:
            self.state = "stopping"
            survivors = await self._end()
        if self._fault is not None:
            self._report.say("".join(traceback.format_exception(self._fault)).rstrip())
        return 1 if self._fault is not None or started is False or survivors or self._signals > 1 else 0

    def _bind(self) -> None:
        config = self._setup.config
        try:
            self._listeners = ports.reserve(config.listen.host, config.listen.port, config.workers)
        except ports.PortTaken as error:
            raise ports.PortTaken(f"{error}; choose another with --listen") from error
        host, port = self._listeners[0].getsockname()[:2]
        self.listen = ports.join(host, port)
        if config.admin is not None:
            try:
                (sock,) = ports.reserve(config.admin.host, config.admin.port)
            except ports.PortTaken as error:
                raise ports.PortTaken(f"{error} (the admin address); choose another with --admin, or off") from error
            self.admin = Admin(sock, self)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        if not linux.hangup_is_ignored():
            loop.add_signal_handler(signal.SIGHUP, self.stop)
        loop.add_signal_handler(signal.SIGQUIT, self.kill)
        loop.add_signal_handler(signal.SIGUSR1, self.reopen_logs)

    def reopen_logs(self) -> None:
        """Let the workers open the access log anew: logrotate has moved it away."""
        for worker in self.workers:
            worker.reopen_log()

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
        for kept in (*self.workers, *self.instances):
            kept.kill()

    def _members(self) -> list[Kept | Target]:
        return [*self.instances, *self.targets, *self.workers]

    def _keep(self, kept: Kept | Target) -> None:
        task = asyncio.create_task(kept.run(), name=kept.name)
        task.add_done_callback(self._on_done)
        self._tasks[kept] = task

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
            self._report.progress("")

    async def _start(self) -> bool:
        """Wait until everything has answered or failed; false when there is no gateway to speak of."""
        members: list[Instance | Target] = [*self.instances, *self.targets]
        deadline = self._clock() + self._start_limit
        while (left := _open(members)) and self._clock() < deadline and not self._worker_failed():
            names = _some([member.name for member in left])
            self._report.progress(f"starting: {len(members) - len(left)} of {len(members)}, waiting for {names}")
            await _any(member.settled for member in left)
        self._go.set()
        while (waiting := _open(self.workers)) and not self._worker_failed():
            self._report.progress(f"starting {_some([worker.name for worker in waiting])}")
            await _any(worker.settled for worker in waiting)
        if self._worker_failed():
            self._report.say("the gateway cannot be started")
            return False
        admin = self.admin.address if self.admin is not None else None
        self._report.start(__version__, self._setup.file, self._rows(), self.listen, admin)
        return True

    def _worker_failed(self) -> bool:
        return any(worker.settled.is_set() and worker.up_since is None for worker in self.workers)

    async def _end(self) -> bool:
        """Stop everything: first the gateway, so that what it still carries out has its services; gives survivors."""
        self._report.say("stopping")
        for listener in self._listeners:
            listener.close()
        await self._stop_all(self.workers, WORKER_GRACE + 1.0, "the requests in flight")
        await self._stop_all(self.instances, self._grace, "")
        await self._cancel(self.targets)
        if self.admin is not None:
            await self.admin.stop()
        left = [p for k in (*self.workers, *self.instances) if k.process for p in sorted(k.process.unkillable)]
        for pid in left:
            self._report.say(f"could not end the process {pid}: it is stuck in the kernel")
        self._report.say("stopped" if self._signals < 2 else "killed")
        return bool(left)

    async def _stop_all(self, group: list[Any], grace: float, what: str) -> None:
        await self._cancel(group)
        hurry = self._signals > 1
        pending = {asyncio.create_task(k.stop(0.0 if hurry else grace), name=k.name) for k in group}
        while pending:
            self._report.progress(f"stopping: waiting for {what or _some(sorted(t.get_name() for t in pending))}")
            _, pending = await asyncio.wait(pending, timeout=0.25)
        self._report.progress("")

    async def _cancel(self, group: list[Any]) -> None:
        tasks = [self._tasks.pop(kept) for kept in group if kept in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, service: Service) -> None:
        for worker in self.workers:
            worker.tell(service)

    # What is

    def _rows(self) -> list[Row]:
        rows = []
        for instance in self.instances:
            process = instance.process
            taken = instance.up_since - process.started if instance.up_since is not None and process else None
            state = instance.state
            problem = instance.last_end if state is State.WAITING else ""
            if state is State.STARTING:
                problem = f"{self.services[instance.service.name].problems.get(instance.name, 'not yet asked')}"
                problem += "; it joins as soon as it answers"
            pid = process.pid if process is not None and process.returncode is None else None
            name = "failed" if state is State.WAITING else state.value
            rows.append(Row(instance.name, instance.service.name, name, instance.address, pid, taken, problem))
        for target in self.targets:
            problem = target.service.problems.get(target.name, "")
            rows.append(Row(target.name, target.service.name, target.state, target.address, None, None, problem))
        order = list(self.services)
        rows.sort(key=lambda row: order.index(row.service))
        for worker in self.workers:
            assert worker.process is not None
            rows.append(Row(worker.name, "", worker.state.value, self.listen, worker.process.pid, None))
        return rows

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""
        return self.state == "running" and any(worker.state is State.UP for worker in self.workers)

    async def metrics(self) -> Snapshot:
        """The counters of all workers, together."""
        parts = await asyncio.gather(*(worker.read_snapshot() for worker in self.workers))
        return merge(snapshot for part in parts for snapshot in part)

    async def purge(self, what: str, value: str) -> dict[str, Any]:
        """Let every worker's cache go of what has a tag or a path, or of everything (``what``: tag, path, all).

        A worker that does not run has nothing stored; ``silent`` names those that run and do not answer.
        """
        asked = [worker for worker in self.workers if worker.state is State.UP]
        counts = await asyncio.gather(*(worker.purge(what, value) for worker in asked))
        silent = [worker.name for worker, count in zip(asked, counts, strict=True) if count is None]
        return {"purged": sum(count or 0 for count in counts), "workers": len(asked), "silent": silent}

    async def status(self) -> dict[str, Any]:
        """Everything that runs, as JSON-able values; times in seconds."""
        answers = await asyncio.gather(*(worker.status() for worker in self.workers))
        in_flight: dict[str, int] = {}
        for answer in answers:
            for listed in (answer or {}).get("services", {}).values():
                for seen in listed:
                    in_flight[seen["name"]] = in_flight.get(seen["name"], 0) + seen["in_flight"]
        services = {}
        for name, service in self.services.items():
            members = [self._describe(i, in_flight) for i in self.instances if i.service is service]
            members += [
                {
                    "name": t.name,
                    "address": t.address,
                    "state": t.state,
                    "problem": service.problems.get(t.name),
                    "in_flight": in_flight.get(t.name, 0),
                }
                for t in self.targets
                if t.service is service
            ]
            services[name] = {
                "source": service.config.source,
                "up": sum(member["state"] == "up" for member in members),
                "instances": members,
            }
        return {
            "version": __version__,
            "state": self.state,
            "config": self._setup.file,
            "listen": self.listen,
            "pid": os.getpid(),
            "uptime": round(self._clock() - self._begun, 3),
            "workers": [
                {**self._describe(w, {}), "answers": answer is not None}
                for w, answer in zip(self.workers, answers, strict=True)
            ],
            "services": services,
        }

    def _describe(self, kept: Instance | Worker, in_flight: dict[str, int]) -> dict[str, Any]:
        process = kept.process
        alive = process is not None and process.returncode is None
        described: dict[str, Any] = {
            "name": kept.name,
            "state": kept.state.value,
            "pid": process.pid if process is not None and alive else None,
            "restarts": kept.restarts,
            "uptime": round(self._clock() - process.started, 3) if process is not None and alive else None,
            "last_end": kept.last_end or None,
        }
        if isinstance(kept, Instance):
            described["address"] = kept.address
            described["problem"] = kept.service.problems.get(kept.name)
            described["in_flight"] = in_flight.get(kept.name, 0)
        return described


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
