"""The supervisor: start the instances of services and the gateway workers, watch them, and stop them in order.

The file is longer than 400 lines because it is the life of one object: its start, its changes and its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from passerelle import __version__
from passerelle.acme.challenge import Pending
from passerelle.config.models.config import Config
from passerelle.errors import CannotStart
from passerelle.observability.events import Event
from passerelle.observability.metrics import Snapshot
from passerelle.supervisor import status
from passerelle.supervisor.admin import Admin, PurgeResult
from passerelle.supervisor.alerting import Alerting
from passerelle.supervisor.autoscaling import Autoscaling
from passerelle.supervisor.certificate_expiry import CertificateExpiry
from passerelle.supervisor.certificate_orders import CertificateOrders
from passerelle.supervisor.code_watch import CodeWatch
from passerelle.supervisor.fleet import Fleet, Member, Setup
from passerelle.supervisor.fleet_live import FleetLive
from passerelle.supervisor.identity import drop_all
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.live_sampler import LiveSampler
from passerelle.supervisor.maintenance import Maintenance
from passerelle.supervisor.reconciler import Reconciler
from passerelle.supervisor.report import ConsoleReport
from passerelle.supervisor.rollouts import Rollouts
from passerelle.supervisor.splits import Splits
from passerelle.supervisor.store_choice import store_for
from passerelle.supervisor.supervised import ProcessState
from passerelle.supervisor.target_set import TargetSet
from passerelle.supervisor.webhook import WebhookSender
from passerelle.supervisor.worker_process import WorkerProcess
from passerelle.system import linux, ports

START_LIMIT = 30.0  # seconds until the start report no longer waits for an instance
WORKER_GRACE = 10.0  # seconds for the requests in flight of a worker
SERVICE_GRACE = 10.0  # seconds between SIGTERM and SIGKILL for an instance
_POLL = 0.25  # seconds between two updates of the progress line

_Settling = TypeVar("_Settling", bound=Member | WorkerProcess)


class Supervisor:
    """Runs a :class:`Setup` until it is stopped. To be created on the event loop on which :meth:`run` is awaited.

    ``fleet`` has what runs. The supervisor starts and stops the fleet, handles signals, and is the subject of the admin
    port.
    """

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
        self._report = report
        self._follow = setup.follow
        self._identity = setup.identity
        self._clock = clock
        self._start_limit = start_limit
        self._grace = grace
        self._may_listen = asyncio.Event()
        self._stop = asyncio.Event()
        self._stop_requests = 0
        self._fault: BaseException | None = None
        self._had_terminal = linux.has_terminal()
        self._admin: Admin | None = None
        self.fleet = Fleet(
            setup,
            report,
            on_found=self._on_found,
            on_fault=self._on_fault,
            rng=rng or random.Random(),
            clock=clock,
            start_limit=start_limit,
            grace=grace,
        )
        self.events = self.fleet.events
        self.maintenance = Maintenance()
        self.events.listen(self._log_event)
        self.rollouts = Rollouts(
            lambda: self.fleet.config,
            self.fleet.splits,
            partial(self.shadows, reset=False),
            lambda: store_for(self.fleet.config, setup.folder, report.log),
            self.events,
            report.log,
        )
        self.live = LiveSampler(FleetLive(self.fleet))
        self.certificates = CertificateOrders(lambda: self.fleet.config, self.events, report.log, self._send_challenges)
        self._expiry = CertificateExpiry(lambda: self.fleet.config, self.events)
        self._webhook = WebhookSender(random.random)
        self._alerting = Alerting(lambda: self.fleet.config, lambda: self._expiry.ends, self.events, self._webhook)
        self.live.watch(self._alerting.watch)
        self._targets = TargetSet(self.fleet)
        self._reconciler = Reconciler(self.fleet, self._targets)
        self._reconciler.on_applied = self._sample_load
        self._reconciler.ended_versions = self.rollouts.ended_versions
        self.rollouts.on_done = lambda: self.fleet.spawn(self._reconciler.end_versions())
        self.live.watch(Autoscaling(self.fleet, self._reconciler.follow_load).on_sample)
        self._sampling: asyncio.Task[None] | None = None
        self._code_watch = CodeWatch(self.fleet, self._reconciler) if setup.reload_code else None

    # Life

    async def run(self) -> int:
        """Start everything, wait for the request to stop, and stop everything.

        Returns the exit code: 0 after an orderly stop, 1 if the start failed or processes had to be killed.
        """
        self._handle_signals()
        fleet = self.fleet
        try:
            fleet.state_lock.take(fleet.config)
            self._bind()
            self._drop()
        except (ports.PortTaken, CannotStart) as error:
            fleet.listeners.close()
            fleet.state_lock.release()
            self._report.log(str(error))
            return 1
        await fleet.catalog.prepare(fleet.config)
        fleet.catalog.adopt(fleet.config)
        for service in fleet.services.values():
            fleet.targets += self._targets.reconcile(service, fleet.config, [])
        await self.rollouts.load()
        ended = self.rollouts.ended_versions(fleet.config)
        fleet.instances = [instance for instance in fleet.instances if instance.service.name not in ended]
        fleet.make_workers(self._may_listen)
        fleet.set_report_names()
        try:
            if self._code_watch is not None:
                await self._code_watch.check()  # before the applications read their files
            if self._admin is not None:
                await self._admin.start()
            self._sample_load()
            if self._sampling is not None:
                fleet.spawn(self._webhook.run())
            for member in (*fleet.members, *fleet.workers):
                fleet.supervise(member)
            started = await self._unless_stopped(self._start())
            if started:
                fleet.state = "running"
                fleet.notifier.ready(f"listening on {fleet.listeners.describe(fleet.config)}")
                fleet.spawn(fleet.notifier.feed_watchdog())
                fleet.spawn(self._expiry.run())
                fleet.spawn(self.rollouts.run())
                fleet.spawn(self.certificates.run())
                if self._follow:
                    fleet.spawn(self._reconciler.follow())
                if self._code_watch is not None:
                    fleet.spawn(self._code_watch.follow())
                for service in fleet.services.values():
                    self._on_found(service.name)  # targets may have been discovered during the start
                await self._stop.wait()
        finally:
            fleet.state = "stopping"
            fleet.notifier.stopping()
            survivors = await self._end()
        if self._fault is not None:
            self._report.log("".join(traceback.format_exception(self._fault)).rstrip())
        failed = self._fault is not None or started is False or survivors or self._stop_requests > 1
        return 1 if failed else 0

    def _bind(self) -> None:
        config = self.fleet.config
        listeners = self.fleet.listeners
        with listeners.bind(config) as opened:
            opened.adopt()
        for name in listeners.unused:
            self._report.log(f"systemd has passed the socket {name}, which no listener uses")
        self.fleet.catalog.exclude(listeners.addresses)
        if config.admin is not None:
            address = config.admin.listen
            self._admin = Admin(ports.for_admin(address.host, address.port), self, config.admin)

    def _drop(self) -> None:
        """Drop to the user of the file, if it names one."""
        identity, active = self._identity, self.fleet.active
        if identity is not None:
            active.config = drop_all(identity, active.config, self.fleet.folder)
            for name, service in active.config.services.items():
                self.fleet.services[name].configure(service)
            self._report.log(f"running as the user {identity.name}")

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        if not linux.hangup_is_ignored():
            loop.add_signal_handler(signal.SIGHUP, self.on_hangup)
        loop.add_signal_handler(signal.SIGQUIT, self.kill)
        loop.add_signal_handler(signal.SIGUSR1, self.reopen_logs)

    def _sample_load(self) -> None:
        """Take samples of the load, if the admin port, automatic scaling or alerts need them."""
        watched = self._admin is not None or self.fleet.scaling or self.fleet.config.alerts is not None
        if self._sampling is None and watched:
            self._sampling = self.fleet.spawn(self.live.run())

    def reopen_logs(self) -> None:
        """Have the workers reopen the access log, after log rotation has moved it."""
        for worker in self.fleet.workers:
            worker.reopen_log()

    def on_hangup(self) -> None:
        """Handle SIGHUP: stop if the terminal of the start is gone, otherwise reload the file."""
        if self._had_terminal and not linux.has_terminal():
            self.stop()
            return
        self.fleet.spawn(self._reconciler.reload_and_report())

    def stop(self) -> None:
        """Begin to stop; a second call kills everything at once."""
        self._stop_requests += 1
        self._stop.set()
        if self._stop_requests > 1:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to everything that was started."""
        self._stop_requests += 2
        self._stop.set()
        for process in (*self.fleet.workers, *self.fleet.instances):
            process.kill()

    def _on_found(self, service: str) -> None:
        fleet = self.fleet
        if fleet.state == "running" and fleet.catalog.is_discovered(fleet.services[service].config):
            fleet.spawn(self._targets.on_found(service))

    def _log_event(self, event: Event) -> None:
        if event.kind in ("alert", "audit"):
            self._report.log(f"{event.kind}: {event.text}")

    def _on_fault(self, fault: BaseException) -> None:
        self._fault = fault
        self._stop.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, bool]) -> bool | None:
        """Return the result of ``work``, or None if a stop is requested first."""
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
        """Wait until every member has come up or failed once. Returns False if a gateway worker cannot start."""
        fleet = self.fleet
        members = fleet.members
        deadline = self._clock() + self._start_limit
        while (left := _unsettled(members)) and self._clock() < deadline and not self._worker_failed():
            names = _shortened([member.name for member in left])
            self._report.progress(f"starting: {len(members) - len(left)} of {len(members)}, waiting for {names}")
            await _any_settled(left)
        self._may_listen.set()
        while (waiting := _unsettled(fleet.workers)) and not self._worker_failed():
            self._report.progress(f"starting {_shortened([worker.name for worker in waiting])}")
            await _any_settled(waiting)
        if self._worker_failed():
            self._report.log("the gateway cannot be started")
            return False
        listen = fleet.listeners.describe(fleet.config)
        admin = self._admin.address if self._admin is not None else None
        self._report.start(__version__, fleet.active.file, status.report_rows(fleet), listen, admin)
        return True

    def _worker_failed(self) -> bool:
        return any(worker.settled.is_set() and worker.up_since is None for worker in self.fleet.workers)

    async def _end(self) -> bool:
        """Stop everything, and return whether processes survive.

        The gateway stops first, so that requests in flight still reach their services.
        """
        fleet = self.fleet
        self._report.log("stopping")
        fleet.catalog.stop()
        fleet.cancel_background()
        await self.rollouts.close()
        await self.certificates.close()
        fleet.listeners.close()
        await self._stop_all(fleet.workers, WORKER_GRACE + 1.0, "the requests in flight")
        await self._stop_all(fleet.instances, self._grace, "")
        fleet.sockets.remove()
        await fleet.cancel(fleet.targets)
        for service in fleet.services.values():
            service.close()
        if self._admin is not None:
            await self._admin.stop()
        processes = (member.process for member in (*fleet.workers, *fleet.instances))
        survivors = [pid for process in processes if process is not None for pid in sorted(process.unkillable)]
        for pid in survivors:
            self._report.log(f"could not end the process {pid}: it is stuck in the kernel")
        fleet.state_lock.release()
        self._report.log("stopped" if self._stop_requests < 2 else "killed")
        return bool(survivors)

    async def _stop_all(
        self, processes: Sequence[InstanceProcess] | Sequence[WorkerProcess], grace: float, waiting_for: str
    ) -> None:
        await self.fleet.cancel(processes)
        grace = 0.0 if self._stop_requests > 1 else grace
        pending = {asyncio.create_task(process.stop(grace), name=process.name) for process in processes}
        while pending:
            names = waiting_for or _shortened(sorted(task.get_name() for task in pending))
            self._report.progress(f"stopping: waiting for {names}")
            _, pending = await asyncio.wait(pending, timeout=_POLL)
        self._report.progress("")

    # The subject of the admin port

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.fleet.config

    @property
    def splits(self) -> Splits:
        """The splits of routes."""
        return self.fleet.splits

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""
        return self.fleet.state == "running" and any(w.state is ProcessState.UP for w in self.fleet.workers)

    async def metrics(self) -> Snapshot:
        """Return the counters of all workers, merged."""
        merged = await self.fleet.metrics()
        return merged | {
            "split_weights": self.fleet.splits.all_weights(),
            "events": {kind: count for kind, count in self.events.counts.items() if count},
            "rollouts": self.rollouts.metrics(),
            "scaling": {name: scaling.metrics() for name, scaling in self.fleet.scaling.items()},
            "alerts": self._alerting.counts(),
        }

    async def status(self) -> dict[str, Any]:
        """Return the status of everything that runs, as JSON-able values; times in seconds."""
        return await status.fleet_status(self.fleet)

    async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Make a change. :raises ChangeRefused: if it cannot be made."""
        return await self._reconciler.change(name, arguments)

    async def purge(self, kind: str, value: str) -> PurgeResult:
        """Purge the caches of all workers that are up."""
        workers = [worker for worker in self.fleet.workers if worker.state is ProcessState.UP]
        counts = await asyncio.gather(*(worker.purge(kind, value) for worker in workers))
        silent = [worker.name for worker, count in zip(workers, counts, strict=True) if count is None]
        return PurgeResult(sum(count or 0 for count in counts), silent)

    async def apply_maintenance(self) -> list[str]:
        """Send the routes in maintenance to all workers; return the names of those that did not reply."""
        workers = self.fleet.workers
        for worker in workers:
            worker.maintenance = self.maintenance.routes
        replied = await asyncio.gather(*(worker.send_maintenance() for worker in workers))
        return [worker.name for worker, has in zip(workers, replied, strict=True) if not has]

    async def _send_challenges(self, pending: Sequence[Pending]) -> list[str]:
        """Have all workers respond to challenges; return the names of those that did not reply."""
        workers = self.fleet.workers
        for worker in workers:
            worker.challenges = pending
        replied = await asyncio.gather(*(worker.send_challenges() for worker in workers))
        return [worker.name for worker, has in zip(workers, replied, strict=True) if not has]

    async def shadows(self, *, reset: bool) -> list[dict[str, Any]]:
        """Return what the shadow requests of each worker found; with ``reset``, they begin to count again."""
        found = await asyncio.gather(*(worker.shadows(reset=reset) for worker in self.fleet.workers))
        return [each for each in found if each is not None]


def _unsettled(members: Iterable[_Settling]) -> list[_Settling]:
    """The members that have neither come up nor failed since their first start."""
    return [member for member in members if not member.settled.is_set()]


async def _any_settled(members: Iterable[Member | WorkerProcess]) -> None:
    """Wait until any of ``members`` is settled, for at most :data:`_POLL` seconds."""
    tasks = {asyncio.create_task(member.settled.wait()) for member in members}
    await asyncio.wait(tasks, timeout=_POLL, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
