"""The targets of a supervisor's services: which join and which leave, at a reload, when found, or when asked for."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import TYPE_CHECKING

from passerelle.config.models.config import Config
from passerelle.discovery.catalog import Catalog
from passerelle.discovery.overrides import place_of
from passerelle.supervisor.errors import Missing
from passerelle.supervisor.instance_admin import Member
from passerelle.supervisor.instance_process import Instance
from passerelle.supervisor.service_health import Service, Target

if TYPE_CHECKING:
    from passerelle.supervisor.reconciler import Changes
    from passerelle.supervisor.supervisor import Supervisor


class Targets:
    """Those of ``supervisor``, whose changes are made by ``changes``; the host of
    :class:`.instance_admin.Instances`."""

    def __init__(self, supervisor: Supervisor, changes: Changes) -> None:
        self._it = supervisor
        self._changes = changes
        self._going: dict[Target, asyncio.Task[None]] = {}  # found no more, and not yet empty

    def joining(self, service: Service, config: Config, leaving: list[Instance | Target]) -> list[Target]:
        """The targets to add so that ``service`` has those of ``config``, found ones too; ``leaving`` gets the others.

        One is known by its address: it keeps its name. One that was going and is back stays.
        """
        specs = self._it.catalog.specs(service.name, config)
        known = {place_of(t.spec): t for t in self._of(service)}
        names = {target.name for target in known.values()}
        joining = []
        for spec in specs:
            target = known.pop(place_of(spec), None)
            if target is not None and target in self._going:
                self._going.pop(target).cancel()
                service.resume(target.name)
            if target is None:
                stem, _, number = spec.name.rpartition("-")
                if not number.isdigit():  # it was found or added, and is named after its address
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

    async def found(self, name: str) -> None:
        """The service called ``name`` has other targets now. What is new is asked once before anything goes."""
        async with self._changes.lock:
            if name in self._it.services and self._it.state == "running":
                await self._apply(name, "found")

    async def apply(self, service: str) -> None:
        """Let the service have the targets that the catalog says."""
        await self._apply(service, "")

    async def _apply(self, service: str, how: str) -> None:
        it = self._it
        leaving: list[Instance | Target] = []
        joining = self.joining(it.services[service], it.setup.config, leaving)
        it.targets += joining
        if how and (joining or leaving):
            it.report.say(f"{service}: {len(joining)} targets {how}, {len(leaving)} gone")
        await self._changes.start(joining)
        for target in leaving:
            if isinstance(target, Target):
                self._going[target] = it.spawn(self._let_go(target))

    async def _let_go(self, target: Target) -> None:
        try:
            await self._changes.emptied(target)
            async with self._changes.lock:
                if target in self._it.targets:
                    await self._it.remove(target)
        finally:
            self._going.pop(target, None)

    # The host of Instances

    @property
    def config(self) -> Config:
        """What is in force."""
        return self._it.setup.config

    @property
    def catalog(self) -> Catalog:
        """Which targets each service has."""
        return self._it.catalog

    def alone(self) -> AbstractAsyncContextManager[None]:
        """One change at a time."""
        return self._changes.alone()

    def members(self, service: str) -> list[Member]:
        """The targets of a service, but for those that go already."""
        mine = self._of(self._it.services[service])
        return [Member(t.name, place_of(t.spec), t.state) for t in mine if t not in self._going]

    def drain(self, service: str, member: str) -> None:
        """Give it nothing new."""
        self._it.services[service].drain(member)

    def resume(self, service: str, member: str) -> None:
        """Take :meth:`drain` back."""
        self._it.services[service].resume(member)

    async def forget(self, service: str, member: str) -> None:
        """Know it no more."""
        await self._it.remove(self._target(service, member))

    async def in_flight(self, service: str, member: str) -> int:
        """Requests and tunnels that all workers together have open on it; none when it is gone meanwhile."""
        try:
            return await self._it.in_flight(self._target(service, member))
        except Missing:
            return 0

    def _of(self, service: Service) -> list[Target]:
        return [target for target in self._it.targets if target.service is service]

    def _target(self, service: str, member: str) -> Target:
        for target in self._it.targets:
            if target.service.name == service and target.name == member:
                return target
        raise Missing(f"{service} has no instance {member!r}")
