"""The targets of a supervisor's services: which join and which leave, at a reload, when found, or when asked for."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import TYPE_CHECKING

from passerelle.config.models.config import Config
from passerelle.discovery.catalog import Catalog
from passerelle.discovery.overrides import target_key
from passerelle.supervisor.errors import NotFound
from passerelle.supervisor.instance_admin import TargetStatus
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.service_health import ProbedTarget, ServiceHealthMonitor

if TYPE_CHECKING:
    from passerelle.supervisor.reconciler import Reconciler
    from passerelle.supervisor.supervisor import Supervisor


class TargetSet:
    """Those of ``supervisor``, whose changes are made by ``changes``; the host of
    :class:`.instance_admin.InstanceAdmin`."""

    def __init__(self, supervisor: Supervisor, changes: Reconciler) -> None:
        self._supervisor = supervisor
        self._changes = changes
        self._leaving: dict[ProbedTarget, asyncio.Task[None]] = {}  # found no more, and not yet empty

    def joining(
        self, service: ServiceHealthMonitor, config: Config, leaving: list[InstanceProcess | ProbedTarget]
    ) -> list[ProbedTarget]:
        """The targets to add so that ``service`` has those of ``config``, found ones too; ``leaving`` gets the others.

        One is known by its address: it keeps its name. One that was going and is back stays.
        """
        specs = self._supervisor.catalog.specs(service.name, config)
        known = {target_key(t.spec): t for t in self._of(service)}
        names = {target.name for target in known.values()}
        joining = []
        for spec in specs:
            target = known.pop(target_key(spec), None)
            if target is not None and target in self._leaving:
                self._leaving.pop(target).cancel()
                service.resume(target.name)
            if target is None:
                stem, _, number = spec.name.rpartition("-")
                if not number.isdigit():  # it was found or added, and is named after its address
                    joining.append(ProbedTarget(spec, service))
                    continue
                name = next(name for n in count(1) if (name := f"{stem}-{n}") not in names)
                names.add(name)
                joining.append(ProbedTarget(spec._replace(name=name), service))
            elif (
                current := target.spec._replace(weight=spec.weight, secure=spec.secure, tier=spec.tier)
            ) != target.spec:
                target.spec = current
                service.add(target.spec)
        leaving += [target for target in known.values() if target not in self._leaving]
        return joining

    async def found(self, name: str) -> None:
        """The service called ``name`` has other targets now. What is new is asked once before anything goes."""
        async with self._changes.lock:
            if name in self._supervisor.services and self._supervisor.state == "running":
                await self._apply(name, "found")

    async def apply(self, service: str) -> None:
        """Let the service have the targets that the catalog says."""
        await self._apply(service, "")

    async def _apply(self, service: str, how: str) -> None:
        supervisor = self._supervisor
        leaving: list[InstanceProcess | ProbedTarget] = []
        joining = self.joining(supervisor.services[service], supervisor.setup.config, leaving)
        supervisor.targets += joining
        if how and (joining or leaving):
            supervisor.report.say(f"{service}: {len(joining)} targets {how}, {len(leaving)} gone")
        await self._changes.start(joining)
        for target in leaving:
            if isinstance(target, ProbedTarget):
                self._leaving[target] = supervisor.spawn(self._drain_and_remove(target))

    async def _drain_and_remove(self, target: ProbedTarget) -> None:
        try:
            await self._changes.wait_until_drained(target)
            async with self._changes.lock:
                if target in self._supervisor.targets:
                    await self._supervisor.remove(target)
        finally:
            self._leaving.pop(target, None)

    # The host of Instances

    @property
    def config(self) -> Config:
        """What is in force."""
        return self._supervisor.setup.config

    @property
    def catalog(self) -> Catalog:
        """Which targets each service has."""
        return self._supervisor.catalog

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """One change at a time."""
        return self._changes.exclusive()

    def members(self, service: str) -> list[TargetStatus]:
        """The targets of a service, but for those that go already."""
        mine = self._of(self._supervisor.services[service])
        return [TargetStatus(t.name, target_key(t.spec), t.state) for t in mine if t not in self._leaving]

    def drain(self, service: str, member: str) -> None:
        """Give it nothing new."""
        self._supervisor.services[service].drain(member)

    def resume(self, service: str, member: str) -> None:
        """Take :meth:`drain` back."""
        self._supervisor.services[service].resume(member)

    async def forget(self, service: str, member: str) -> None:
        """Know it no more."""
        await self._supervisor.remove(self._target(service, member))

    async def in_flight(self, service: str, member: str) -> int:
        """Requests and tunnels that all workers together have open on it; none when it is gone meanwhile."""
        try:
            return await self._supervisor.in_flight(self._target(service, member))
        except NotFound:
            return 0

    def _of(self, service: ServiceHealthMonitor) -> list[ProbedTarget]:
        return [target for target in self._supervisor.targets if target.service is service]

    def _target(self, service: str, member: str) -> ProbedTarget:
        for target in self._supervisor.targets:
            if target.service.name == service and target.name == member:
                return target
        raise NotFound(f"{service} has no instance {member!r}")
