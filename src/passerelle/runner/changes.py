"""What is changed while everything runs: the file is read anew, a service gets more or fewer instances, or new ones.

One change at a time. A client never notices: what is new is up before anything is taken away, and what is taken away
first finishes what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passerelle.config.loader import inspect_bytes
from passerelle.config.models import Config
from passerelle.config.models import Service as ServiceConfig
from passerelle.gateway.service import InstanceSpec
from passerelle.runner.control import ControlError
from passerelle.runner.instance import Instance
from passerelle.runner.service import Service, Target

if TYPE_CHECKING:
    from passerelle.runner.supervisor import Supervisor

DRAIN_LIMIT = 30.0  # seconds for what an instance that leaves has in flight
MOST_INSTANCES = 1000
_LOOK = 0.05

# What only a new start can change: it belongs to processes and sockets, not to a plan.
FIXED = ("listen", "admin", "workers", "access_log")
# What an instance's process is made of.
_PROCESS = ("app", "run", "interface", "env", "cwd")


class Refused(Exception):
    """A change that was not made; ``problems`` are lines for people."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Changes:
    """Changes ``supervisor``; ``clock`` in seconds; a new instance has ``start_limit`` seconds to answer."""

    def __init__(self, supervisor: Supervisor, clock: Callable[[], float], start_limit: float) -> None:
        self._it = supervisor
        self._clock = clock
        self._start_limit = start_limit
        self._lock = asyncio.Lock()
        self._going: dict[Target, asyncio.Task[None]] = {}  # found no more, and not yet empty

    async def carry_out(self, what: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """A change by its name. :raises Refused: when it cannot be made."""
        if what == "reload":
            return await self.reload()
        service = arguments.get("service", "")
        if what == "restart":
            return await self.restart(service)
        number = arguments.get("instances", "")
        if not number.isdecimal() or not 1 <= int(number[:6]) <= MOST_INSTANCES:
            raise Refused(f"found {number!r} instances; allowed is a number from 1 to {MOST_INSTANCES}")
        return await self.scale(service, int(number))

    # The file

    async def reload(self) -> dict[str, Any]:
        """Read the file anew and go by it. :raises Refused: with every problem of the file; nothing has changed."""
        async with self._alone():
            config, text, later = self._read()
            it = self._it
            old = it.setup.config
            gone = [name for name in old.services if name not in config.services]
            leaving: list[Instance | Target] = []
            await it.catalog.prepare(config)
            await self._prepare(old, config, leaving)
            try:
                for worker in list(it.workers):
                    await worker.reload(text)
            except ControlError as error:
                problem = f"a gateway worker cannot use the file: {error}"
                it.catalog.adopt(old)
                it.report.say(problem)
                raise Refused(problem) from error
            it.setup = replace(it.setup, config=config, text=text)
            it.catalog.adopt(config)
            members: list[Instance | Target] = [*it.instances, *it.targets]
            leaving += [member for member in members if member.service.name in gone]
            await self._take_away(leaving)
            for name in gone:
                it.services.pop(name).close()
            for name, service in it.services.items():
                if name in old.services and _processes(old.services[name]) != _processes(service.config):
                    await self._replace_all(service)
            message = f"{it.setup.file} is read anew"
            if later:
                message += f"; {', '.join(later)} changed too, which a new start alone can carry out"
            it.report.say(message)
            return {"message": message, "after_restart": later}

    def _read(self) -> tuple[Config, str, list[str]]:
        setup = self._it.setup
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

    def _refused(self, *problems: str) -> Refused:
        for problem in problems:
            self._it.report.say(problem)
        self._it.report.say("nothing was changed")
        return Refused(*problems)

    async def _prepare(self, old: Config, new: Config, leaving: list[Instance | Target]) -> None:
        """Start what is new and wait for it; ``leaving`` gets what stays only until the workers know."""
        it = self._it
        added: list[Instance | Target] = []
        for name, config in new.services.items():
            before = old.services.get(name)
            if before is None:
                service = it.make_service(name, config)
            else:
                service = it.services[name]
                service.configure(config)
            instances = self._instances(service)
            wanted = config.instances if config.is_local else 0
            if before is not None and before.is_local and config.is_local and before.instances == config.instances:
                wanted = len(instances)  # as it was scaled since
            added += [it.make_instance(service) for _ in range(wanted - len(instances))]
            leaving += instances[wanted:]
            joining = self.targets(service, new, leaving)
            it.targets += joining
            added += joining
        await self._start(added)

    async def found(self, name: str) -> None:
        """The service called ``name`` has other targets now. What is new is asked once before anything goes."""
        async with self._lock:
            it = self._it
            service = it.services.get(name)
            if service is None or it.state != "running":
                return
            leaving: list[Instance | Target] = []
            joining = self.targets(service, it.setup.config, leaving)
            it.targets += joining
            if joining or leaving:
                it.report.say(f"{name}: {len(joining)} targets found, {len(leaving)} gone")
            await self._start(joining)
            for target in leaving:
                if isinstance(target, Target):
                    self._going[target] = it.spawn(self._let_go(target))

    async def _let_go(self, target: Target) -> None:
        try:
            await self._emptied(target)
            async with self._lock:
                if target in self._it.targets:
                    await self._it.remove(target)
        finally:
            self._going.pop(target, None)

    def targets(self, service: Service, config: Config, leaving: list[Instance | Target]) -> list[Target]:
        """The targets to add so that ``service`` has those of ``config``, found ones too; ``leaving`` gets the others.

        One is known by its address: it keeps its name. One that was going and is back stays.
        """
        specs = self._it.catalog.specs(service.name, config)
        known = {_place(t.spec): t for t in self._it.targets if t.service is service}
        names = {target.name for target in known.values()}
        joining = []
        for spec in specs:
            target = known.pop(_place(spec), None)
            if target is not None and target in self._going:
                self._going.pop(target).cancel()
                service.resume(target.name)
            if target is None:
                stem, _, number = spec.name.rpartition("-")
                if not number.isdigit():  # it was found, and is named after its address
                    joining.append(Target(spec, service))
                    continue
                name = next(name for n in count(1) if (name := f"{stem}-{n}") not in names)
                names.add(name)
                joining.append(Target(spec._replace(name=name), service))
            elif (said := target.spec._replace(weight=spec.weight, secure=spec.secure, tier=spec.tier)) != target.spec:
                target.spec = said
                service.join(target.spec)
        leaving += [target for target in known.values() if target not in self._going]
        return joining

    # Instances

    async def scale(self, name: str, number: int) -> dict[str, Any]:
        """Let the service called ``name`` have ``number`` instances. :raises Refused: when it has no processes."""
        async with self._alone():
            service = self._local(name)
            instances = self._instances(service)
            before = len(instances)
            added: list[Instance | Target] = [self._it.make_instance(service) for _ in range(number - before)]
            await self._start(added)
            late = [member.name for member in added if not service.is_up(member.name)]
            await self._take_away(instances[number:])
            message = f"{name}: from {before} to {number} instances"
            if late:
                message += f"; not up yet: {', '.join(late)}"
            self._it.report.say(message)
            return {"message": message, "before": before, "instances": number}

    async def restart(self, name: str) -> dict[str, Any]:
        """Replace the instances of a service, one at a time. :raises Refused: when a new one does not come up."""
        async with self._alone():
            service = self._local(name)
            number = await self._replace_all(service)
            message = f"{name}: {number} instances replaced"
            self._it.report.say(message)
            return {"message": message, "instances": number}

    async def _replace_all(self, service: Service) -> int:
        old = self._instances(service)
        for number, instance in enumerate(old):
            new = self._it.make_instance(service)
            await self._start([new])
            if not service.is_up(new.name):
                problem = service.problems.get(new.name) or new.last_end or "it did not answer"
                await self._it.remove(new)
                raise self._stopped(service, new.name, problem, number, len(old))
            await self._take_away([instance])
        return len(old)

    def _stopped(self, service: Service, name: str, problem: str, number: int, of: int) -> Refused:
        text = f"{service.name}: {number} of {of} replaced; the new {name} is not up ({problem}), so the rest goes on"
        self._it.report.say(text)
        return Refused(text)

    async def _start(self, members: Iterable[Instance | Target]) -> None:
        """Keep them running, and wait until each has come to something, for a while."""
        members = list(members)
        it = self._it
        it.report.names([kept.name for kept in (*it.instances, *it.workers)])
        for member in members:
            it.keep(member)
        waiting = [asyncio.create_task(member.settled.wait()) for member in members]
        if waiting:
            await asyncio.wait(waiting, timeout=self._start_limit)
        for task in waiting:
            task.cancel()

    async def _take_away(self, members: Iterable[Instance | Target]) -> None:
        await asyncio.gather(*map(self._drain, members))

    async def _drain(self, member: Instance | Target) -> None:
        """Give ``member`` nothing new, wait for what it has in flight for a while, then end it."""
        await self._emptied(member)
        await self._it.remove(member)

    async def _emptied(self, member: Instance | Target) -> None:
        member.service.drain(member.name)
        until = self._clock() + DRAIN_LIMIT
        while True:
            if not await self._it.in_flight(member) or self._clock() >= until:
                break
            await asyncio.sleep(_LOOK)

    def _instances(self, service: Service) -> list[Instance]:
        return [instance for instance in self._it.instances if instance.service is service]

    def _local(self, name: str) -> Service:
        services = self._it.services
        service = services.get(name)
        if service is None:
            raise Refused(f"there is no service {name!r}; there are: {', '.join(services)}")
        if not service.config.is_local:
            raise Refused(f"{name} has {service.config.source}: its instances are not started here")
        return service

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One change at a time, and none while it starts or stops."""
        async with self._lock:
            if self._it.state != "running":
                raise self._refused(f"it is {self._it.state}, and takes no changes")
            yield


def _processes(config: ServiceConfig) -> list[object]:
    return [getattr(config, key) for key in _PROCESS]


def _place(spec: InstanceSpec) -> tuple[str, int, str]:
    return spec.host, spec.port, spec.zone
