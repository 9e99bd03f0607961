"""The targets of the services of a supervisor: add and remove them as configuration, discovery and changes require."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from itertools import count

from passerelle.config.models.config import Config
from passerelle.discovery.catalog import Catalog
from passerelle.discovery.overrides import target_key
from passerelle.supervisor.errors import NotFound
from passerelle.supervisor.fleet import Fleet, Member
from passerelle.supervisor.instance_admin import TargetStatus
from passerelle.supervisor.service_health import ProbedTarget, ServiceHealthMonitor


class TargetSet:
    """The targets of ``fleet``. An :class:`.instance_admin.InstanceHost`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        # Targets that discovery no longer finds, while they are drained.
        self._leaving: dict[ProbedTarget, asyncio.Task[None]] = {}

    def reconcile(self, service: ServiceHealthMonitor, config: Config, leaving: list[Member]) -> list[ProbedTarget]:
        """Compare the targets of ``service`` with those that the catalog lists under ``config``.

        Returns the targets to add, and appends those to remove to ``leaving``. A target is identified by its address:
        one that stays keeps its name and takes its new weight, TLS and tier. One that was leaving and is listed again
        stays.
        """
        specs = self._fleet.catalog.specs(service.name, config)
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
                if not number.isdigit():  # the target was discovered or added, and is named after its address
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

    async def on_found(self, name: str) -> None:
        """Apply the discovered targets of the service ``name``: new ones are probed once before others leave."""
        async with self._fleet.lock:
            if name in self._fleet.services and self._fleet.state == "running":
                await self._apply(name, log=True)

    async def apply(self, service: str) -> None:
        """Give the service the targets that the catalog lists."""
        await self._apply(service, log=False)

    async def _apply(self, service: str, *, log: bool) -> None:
        fleet = self._fleet
        leaving: list[Member] = []
        joining = self.reconcile(fleet.services[service], fleet.config, leaving)
        fleet.targets += joining
        if log and (joining or leaving):
            text = f"{service}: {len(joining)} targets found, {len(leaving)} gone"
            fleet.report.log(text)
            fleet.events.record("discovery", text, service=service)
        await fleet.start(joining)
        for target in leaving:
            if isinstance(target, ProbedTarget):
                self._leaving[target] = fleet.spawn(self._drain_and_remove(target))

    async def _drain_and_remove(self, target: ProbedTarget) -> None:
        try:
            await self._fleet.wait_until_drained(target)
            async with self._fleet.lock:
                if target in self._fleet.targets:
                    await self._fleet.remove(target)
        finally:
            self._leaving.pop(target, None)

    # InstanceHost

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._fleet.config

    @property
    def catalog(self) -> Catalog:
        """The targets of each service, from all sources."""
        return self._fleet.catalog

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Hold the lock of changes. :raises ChangeRefused: while the supervisor starts or stops."""
        return self._fleet.exclusive()

    def members(self, service: str) -> list[TargetStatus]:
        """The targets of a service, without those that are leaving."""
        mine = self._of(self._fleet.services[service])
        return [TargetStatus(t.name, target_key(t.spec), t.state) for t in mine if t not in self._leaving]

    def drain(self, service: str, member: str) -> None:
        """Send the target no new requests."""
        self._fleet.services[service].drain(member)

    def resume(self, service: str, member: str) -> None:
        """Revert :meth:`drain`."""
        self._fleet.services[service].resume(member)

    async def forget(self, service: str, member: str) -> None:
        """Remove the target."""
        await self._fleet.remove(self._target(service, member))

    async def in_flight(self, service: str, member: str) -> int:
        """Count the requests and tunnels that all workers have open on the target; 0 if it has left."""
        try:
            return await self._fleet.in_flight(self._target(service, member))
        except NotFound:
            return 0

    def _of(self, service: ServiceHealthMonitor) -> list[ProbedTarget]:
        return [target for target in self._fleet.targets if target.service is service]

    def _target(self, service: str, member: str) -> ProbedTarget:
        for target in self._fleet.targets:
            if target.service.name == service and target.name == member:
                return target
        raise NotFound(f"{service} has no instance {member!r}")
