"""What is changed while everything runs: the file is read anew, a service gets more or fewer instances, or new ones.

One change at a time. A client never notices: what is new is up before anything is taken away, and what is taken away
first finishes what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passerelle.config.loader import inspect_bytes
from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.supervisor.control_channel import ControlError
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.file_watch import watch
from passerelle.supervisor.instance_admin import DRAIN_LIMIT, InstanceAdmin
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.service_health import ProbedTarget, ServiceHealthMonitor
from passerelle.supervisor.target_set import TargetSet
from passerelle.supervisor.worker_process import WorkerProcess

if TYPE_CHECKING:
    from passerelle.supervisor.supervisor import Supervisor

MOST_INSTANCES = 1000
_LOOK = 0.05

# What only a new start can change: it belongs to processes and sockets, not to a plan.
FIXED = ("listen", "admin", "workers", "access_log")
# What an instance's process is made of.
_PROCESS = ("app", "run", "interface", "env", "cwd")


class Reconciler:
    """Changes ``supervisor``; ``clock`` in seconds; a new instance has ``start_limit`` seconds to answer."""

    def __init__(self, supervisor: Supervisor, clock: Callable[[], float], start_limit: float) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._start_limit = start_limit
        self.lock = asyncio.Lock()
        self.problems: tuple[str, ...] = ()  # why the file as it is now is not in force
        self.targets = TargetSet(supervisor, self)
        self._managed = InstanceAdmin(self.targets, supervisor.report.say, clock)

    async def carry_out(self, what: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """A change by its name. :raises Refused: when it cannot be made."""
        if what == "reload":
            return await self.reload()
        if what.startswith("instances/"):
            return await self._managed.carry_out(what.removeprefix("instances/"), arguments)
        service = arguments.get("service", "")
        if what == "restart":
            return await self.restart(service)
        number = arguments.get("instances", "")
        if not number.isdecimal() or not 1 <= int(number[:6]) <= MOST_INSTANCES:
            raise ChangeRefused(f"found {number!r} instances; allowed is a number from 1 to {MOST_INSTANCES}")
        return await self.scale(service, int(number))

    # The file

    async def reload(self) -> dict[str, Any]:
        """Read the file anew and go by it. :raises Refused: with every problem of the file; nothing has changed."""
        async with self.exclusive():
            before = self._supervisor.setup
            try:
                answer = await self._reload(*self._read())
            except ChangeRefused as refused:
                self.problems = refused.problems if self._supervisor.setup is before and before.path is not None else ()
                raise
            self.problems = ()
            return answer

    async def follow(self) -> None:
        """Read the file anew whenever it changes, for ever."""
        path = self._supervisor.setup.path
        if path is not None:
            await watch(path, self._on_change)

    async def _on_change(self) -> None:
        setup = self._supervisor.setup
        assert setup.path is not None
        with contextlib.suppress(OSError):
            if not self.problems and setup.path.read_bytes().decode("utf-8-sig", "replace") == setup.text:
                return
        with contextlib.suppress(ChangeRefused):  # it is said already
            await self.reload()

    async def _reload(self, config: Config, text: str, later: list[str]) -> dict[str, Any]:
        supervisor = self._supervisor
        old = supervisor.setup.config
        gone = [name for name in old.services if name not in config.services]
        leaving: list[InstanceProcess | ProbedTarget] = []
        await supervisor.catalog.prepare(config)
        added = await self._prepare(old, config, leaving)
        told: list[WorkerProcess] = []
        try:
            for worker in list(supervisor.workers):
                await worker.reload(text)
                told.append(worker)
        except ControlError as error:
            await self._roll_back(old, config, added, told)
            raise self._refused(f"a gateway worker cannot use the file: {error}") from error
        supervisor.setup = replace(supervisor.setup, config=config, text=text)
        supervisor.catalog.adopt(config)
        members: list[InstanceProcess | ProbedTarget] = [*supervisor.instances, *supervisor.targets]
        leaving += [member for member in members if member.service.name in gone]
        await self._remove_all(leaving)
        for name in gone:
            supervisor.services.pop(name).close()
        for name, service in supervisor.services.items():
            if name in old.services and _processes(old.services[name]) != _processes(service.config):
                await self._replace_all(service)
        message = f"{supervisor.setup.file} is read anew"
        if later:
            message += f"; {', '.join(later)} changed too, which a new start alone can carry out"
        supervisor.report.say(message)
        return {"message": message, "after_restart": later}

    def _read(self) -> tuple[Config, str, list[str]]:
        setup = self._supervisor.setup
        if setup.path is None:
            raise self._refused("there is no file to read anew: it was started from the command line alone")
        try:
            data = setup.path.read_bytes()
        except OSError as error:
            raise self._refused(f"cannot read {setup.file}: {error.strerror}") from error
        report = inspect_bytes(data, setup.file, folder=Path(setup.file).parent)
        if report.config is None:
            raise self._refused(*map(str, report.errors))
        found = report.config
        later = [k for k in FIXED if k not in setup.overrides and getattr(found, k) != getattr(setup.config, k)]
        kept = {key: getattr(setup.config, key) for key in FIXED}
        return found.model_copy(update=kept), data.decode("utf-8-sig"), later

    def _refused(self, *problems: str) -> ChangeRefused:
        for problem in problems:
            self._supervisor.report.say(problem)
        self._supervisor.report.say("nothing was changed")
        return ChangeRefused(*problems)

    async def _roll_back(
        self, old: Config, new: Config, added: list[InstanceProcess | ProbedTarget], workers: Iterable[WorkerProcess]
    ) -> None:
        """Undo :meth:`_prepare`, and let ``workers`` go by the old configuration again."""
        supervisor = self._supervisor
        supervisor.catalog.adopt(old)
        for name in old.services.keys() & new.services.keys():
            supervisor.services[name].configure(old.services[name])
            self.targets.joining(supervisor.services[name], old, [])  # for their weights: none of them has left
        for worker in workers:
            with contextlib.suppress(ControlError):
                await worker.reload(supervisor.setup.text)
        await self._remove_all(added)
        for name in new.services.keys() - old.services.keys():
            supervisor.services.pop(name).close()

    async def _prepare(
        self, old: Config, new: Config, leaving: list[InstanceProcess | ProbedTarget]
    ) -> list[InstanceProcess | ProbedTarget]:
        """Start what is new, wait for it, and give it; ``leaving`` gets what stays only until the workers know."""
        supervisor = self._supervisor
        added: list[InstanceProcess | ProbedTarget] = []
        for name, config in new.services.items():
            before = old.services.get(name)
            if before is None:
                service = supervisor.make_service(name, config)
            else:
                service = supervisor.services[name]
                service.configure(config)
            instances = self._instances(service)
            wanted = config.instances if config.is_local else 0
            if before is not None and before.is_local and config.is_local and before.instances == config.instances:
                wanted = len(instances)  # as it was scaled since
            added += [supervisor.make_instance(service) for _ in range(wanted - len(instances))]
            leaving += instances[wanted:]
            joining = self.targets.joining(service, new, leaving)
            supervisor.targets += joining
            added += joining
        await self.start(added)
        return added

    # Instances

    async def scale(self, name: str, number: int) -> dict[str, Any]:
        """Let the service called ``name`` have ``number`` instances. :raises Refused: when it has no processes."""
        async with self.exclusive():
            service = self._local(name)
            instances = self._instances(service)
            before = len(instances)
            added: list[InstanceProcess | ProbedTarget] = [
                self._supervisor.make_instance(service) for _ in range(number - before)
            ]
            await self.start(added)
            late = [member.name for member in added if not service.is_up(member.name)]
            await self._remove_all(instances[number:])
            message = f"{name}: from {before} to {number} instances"
            if late:
                message += f"; not up yet: {', '.join(late)}"
            self._supervisor.report.say(message)
            return {"message": message, "before": before, "instances": number}

    async def restart(self, name: str) -> dict[str, Any]:
        """Replace the instances of a service, one at a time. :raises Refused: when a new one does not come up."""
        async with self.exclusive():
            service = self._local(name)
            number = await self._replace_all(service)
            message = f"{name}: {number} instances replaced"
            self._supervisor.report.say(message)
            return {"message": message, "instances": number}

    async def _replace_all(self, service: ServiceHealthMonitor) -> int:
        old = self._instances(service)
        for number, instance in enumerate(old):
            new = self._supervisor.make_instance(service)
            await self.start([new])
            if not service.is_up(new.name):
                problem = service.problems.get(new.name) or new.last_end or "it did not answer"
                await self._supervisor.remove(new)
                raise self._replacement_failed(service, new.name, problem, number, len(old))
            await self._remove_all([instance])
        return len(old)

    def _replacement_failed(
        self, service: ServiceHealthMonitor, name: str, problem: str, number: int, of: int
    ) -> ChangeRefused:
        text = f"{service.name}: {number} of {of} replaced; the new {name} is not up ({problem}), so the rest goes on"
        self._supervisor.report.say(text)
        return ChangeRefused(text)

    async def start(self, members: Iterable[InstanceProcess | ProbedTarget]) -> None:
        """Keep them running, and wait until each has come to something, for a while."""
        members = list(members)
        supervisor = self._supervisor
        supervisor.report.names([kept.name for kept in (*supervisor.instances, *supervisor.workers)])
        for member in members:
            supervisor.keep(member)
        waiting = [asyncio.create_task(member.settled.wait()) for member in members]
        if waiting:
            await asyncio.wait(waiting, timeout=self._start_limit)
        for task in waiting:
            task.cancel()

    async def _remove_all(self, members: Iterable[InstanceProcess | ProbedTarget]) -> None:
        await asyncio.gather(*map(self._drain, members))

    async def _drain(self, member: InstanceProcess | ProbedTarget) -> None:
        """Give ``member`` nothing new, wait for what it has in flight for a while, then end it."""
        await self.wait_until_drained(member)
        await self._supervisor.remove(member)

    async def wait_until_drained(self, member: InstanceProcess | ProbedTarget) -> None:
        """Give ``member`` nothing new, and wait for what it has in flight for a while."""
        member.service.drain(member.name)
        until = self._clock() + DRAIN_LIMIT
        while True:
            if not await self._supervisor.in_flight(member) or self._clock() >= until:
                break
            await asyncio.sleep(_LOOK)

    def _instances(self, service: ServiceHealthMonitor) -> list[InstanceProcess]:
        return [instance for instance in self._supervisor.instances if instance.service is service]

    def _local(self, name: str) -> ServiceHealthMonitor:
        services = self._supervisor.services
        service = services.get(name)
        if service is None:
            raise ChangeRefused(f"there is no service {name!r}; there are: {', '.join(services)}")
        if not service.config.is_local:
            source = service.config.source
            raise ChangeRefused(
                f"{name} has {source}: its instances are not started here; see passerelle instances --help"
            )
        return service

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """One change at a time, and none while it starts or stops."""
        async with self.lock:
            if self._supervisor.state != "running":
                raise self._refused(f"it is {self._supervisor.state}, and takes no changes")
            yield


def _processes(config: ServiceConfig) -> list[object]:
    return [getattr(config, key) for key in _PROCESS]
