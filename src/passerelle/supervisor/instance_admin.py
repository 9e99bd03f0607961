"""Changes of the instances of a service with targets at run time: add, remove, drain, resume, set the weight.

A change is checked as the file is. A change that leaves a service without an instance is refused unless it is forced.
An :class:`InstanceHost` applies the changes: a supervisor, or a gateway without one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, NoReturn, Protocol

from pydantic import ValidationError

from passerelle.config.models.addresses import Lookup
from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.config import Target as TargetConfig
from passerelle.config.models.units import parse_duration
from passerelle.config.problems import A_TARGET, from_pydantic
from passerelle.config.reading import yaml_tree
from passerelle.discovery.catalog import Catalog, name_after_address
from passerelle.discovery.overrides import TargetKey
from passerelle.gateway.assembly.certificates import service_tls
from passerelle.supervisor.errors import ChangeRefused, InvalidChange, NotFound
from passerelle.system.ports import join
from passerelle.upstream.members import InstanceSpec

DRAIN_LIMIT = 30.0  # seconds to wait for the requests in flight of an instance before it is removed
MOST_SECONDS = 3600.0
_DRAIN_POLL = 0.05  # seconds between two counts of the requests in flight
_FLAGS = {"true": True, "false": False}


class TargetStatus(NamedTuple):
    """The current state of one target of a service."""

    name: str
    key: TargetKey
    state: str

    @property
    def address(self) -> str:
        """``host:port``."""
        return join(*self.key[:2])


class InstanceHost(Protocol):
    """The owner of the services and their targets."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    @property
    def catalog(self) -> Catalog:
        """The targets of each service, from all sources."""

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Hold the lock of changes: one change at a time. :raises ChangeRefused: while none can be made."""

    def members(self, service: str) -> list[TargetStatus]:
        """The targets of a service."""

    async def apply(self, service: str) -> None:
        """Give the service the targets that the catalog lists; returns when new ones have been probed once."""

    def drain(self, service: str, member: str) -> None:
        """Send the target no new requests."""

    def resume(self, service: str, member: str) -> None:
        """Revert :meth:`drain`."""

    async def forget(self, service: str, member: str) -> None:
        """Remove a target that the catalog no longer lists."""

    async def in_flight(self, service: str, member: str) -> int:
        """Count the requests and tunnels that are open on the target."""


class InstanceAdmin:
    """Changes the instances of ``host``. ``log`` gets a line for each change; ``clock`` is in seconds."""

    def __init__(
        self, host: InstanceHost, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._host = host
        self._log = log
        self._clock = clock

    async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Make the change ``add``, ``remove`` or ``change``.

        ``arguments`` has the ``service``, the ``instance`` (its name or address; not for ``add``), and the options of
        the change.

        :raises ChangeRefused: if the change cannot be made.
        """
        options = dict(arguments)
        service, instance = options.pop("service"), options.pop("instance", "")
        if name == "add":
            return await self._add(service, options)
        if name == "remove":
            return await self._remove(service, instance, options)
        _require_keys(options, ("weight", "drain", "limit", "force"))
        if ("weight" in options) == ("drain" in options):
            raise InvalidChange("a change needs exactly one of weight and drain")
        if "weight" in options:
            return await self._set_weight(service, instance, options)
        if _flag(options, "drain"):
            return await self._drain(service, instance, options)
        return await self._resume(service, instance)

    async def _add(self, name: str, options: Mapping[str, str]) -> dict[str, Any]:
        _require_keys(options, ("url", "weight", "zone"))
        async with self._host.exclusive():
            spec = _spec(name, self._service(name), options)
            if self._host.catalog.is_excluded(spec.host, spec.port):
                address = join(spec.host, spec.port)
                raise ChangeRefused(f"found {address}, where the gateway itself listens: it would call itself")
            key = (spec.host, spec.port, spec.zone)
            for member in self._host.members(name):
                if member.key == key:
                    raise ChangeRefused(f"{name} already has {member.address}: {member.name}, {member.state}")
            self._host.catalog.add(name, spec)
            await self._host.apply(name)
            added = next((m for m in self._host.members(name) if m.key == key), TargetStatus(spec.name, key, "gone"))
        late = "" if added.state == "up" else "; it is not up yet, and receives requests as soon as it is"
        return self._report(f"{name}: {added.name} added{late}", added.state, added)

    async def _remove(self, name: str, instance: str, options: Mapping[str, str]) -> dict[str, Any]:
        _require_keys(options, ("limit", "force"))
        limit = _seconds(options)
        async with self._host.exclusive():
            member = self._member(name, instance)
            if self._host.catalog.origin(name, member.key) == "found":
                raise ChangeRefused(self._rediscovered(name, member))
            self._require_others(name, member, _flag(options, "force"))
            self._host.drain(name, member.name)
        left = await self._wait_until_drained(name, member, limit)
        async with self._host.exclusive():
            now = [m.state for m in self._host.members(name) if m.name == member.name and m.key == member.key]
            if now and now != ["draining"]:
                raise ChangeRefused(f"{member.name} was resumed meanwhile, so it is not removed")
            if now:
                self._host.catalog.remove(name, member.key)
                await self._host.forget(name, member.name)
        rest = f"; {left} request{'s' * (left != 1)} in flight after {limit:g} s will continue" if left else ""
        return self._report(f"{name}: {member.name} removed{rest}", "gone", member, left)

    def _rediscovered(self, name: str, member: TargetStatus) -> str:
        where = self._host.catalog.found_by(name, member.key) or "DNS or a target list"
        why = f"{member.name} was found by {where} and would be found again"
        return f"{why}; remove it there, or drain it: passerelle instances drain {name} {member.name}"

    async def _drain(self, name: str, instance: str, options: Mapping[str, str]) -> dict[str, Any]:
        limit = _seconds(options)
        async with self._host.exclusive():
            member = self._member(name, instance)
            self._require_others(name, member, _flag(options, "force"))
            self._host.drain(name, member.name)
        left = await self._wait_until_drained(name, member, limit)
        if left:
            problem = f"{member.name} receives no new requests, but still has {left} in flight after {limit:g} s"
            self._log(f"{name}: {problem}")
            raise ChangeRefused(problem)
        return self._report(f"{name}: {member.name} drained, no requests in flight", "draining", member)

    async def _resume(self, name: str, instance: str) -> dict[str, Any]:
        async with self._host.exclusive():
            member = self._member(name, instance)
            if member.state != "draining":
                raise ChangeRefused(f"{member.name} is {member.state}, not draining")
            self._host.resume(name, member.name)
        return self._report(f"{name}: {member.name} resumed; it receives requests as soon as it is up", "down", member)

    async def _set_weight(self, name: str, instance: str, options: Mapping[str, str]) -> dict[str, Any]:
        _require_keys(options, ("weight",))
        async with self._host.exclusive():
            member = self._member(name, instance)
            weight = _target(url="http://weight", weight=yaml_tree.resolve(options["weight"])).weight
            self._host.catalog.set_weight(name, member.key, float(weight))
            await self._host.apply(name)
            balance = self._host.config.services[name].balance.policy
        note = "; balance: round_robin ignores weights" if balance == "round_robin" else ""
        return self._report(f"{name}: {member.name} now has weight {weight}{note}", member.state, member)

    # Checks

    def _service(self, name: str) -> ServiceConfig:
        services = self._host.config.services
        service = services.get(name)
        if service is None:
            raise NotFound(f"there is no service {name!r}; the services are: {', '.join(services)}")
        if service.is_local:
            here = f"{name} has {service.source}: passerelle starts its instances"
            raise ChangeRefused(f"{here}; use `passerelle scale {name}=N` or `passerelle restart {name}`")
        return service

    def _member(self, name: str, instance: str) -> TargetStatus:
        """Find the instance with this name or address."""
        self._service(name)
        members = self._host.members(name)
        found = [m for m in members if m.name == instance] or [
            m for m in members if m.address == instance.partition("://")[2] or m.address == instance
        ]
        if not found:
            names = ", ".join(m.name for m in members) or "none"
            raise NotFound(f"{name} has no instance {instance!r}; the instances are: {names}")
        if len(found) > 1:
            raise InvalidChange(f"{instance} is ambiguous: {', '.join(m.name for m in found)}")
        return found[0]

    def _require_others(self, name: str, member: TargetStatus, force: bool) -> None:
        """Check that the service keeps an instance that takes requests.

        :raises ChangeRefused: if it does not, unless ``force`` is set.
        """
        others = [m for m in self._host.members(name) if m.name != member.name]
        if not force and not any(m.state == "up" for m in others) and (member.state == "up" or not others):
            last = f"the last instance of {name} that is up" if member.state == "up" else f"the only instance of {name}"
            raise ChangeRefused(f"{member.name} is {last}; add another one first, or force the change")

    async def _wait_until_drained(self, name: str, member: TargetStatus, limit: float) -> int:
        """Wait until no request is in flight. Returns the number that is left after ``limit`` seconds."""
        until = self._clock() + limit
        while True:
            left = await self._host.in_flight(name, member.name)
            if not left or self._clock() >= until:
                return left
            await asyncio.sleep(_DRAIN_POLL)

    def _report(self, message: str, state: str, member: TargetStatus, left: int = 0) -> dict[str, Any]:
        self._log(message)
        status = {"name": member.name, "address": member.address, "state": state, "in_flight": left}
        return {"message": message, **status}


def _spec(name: str, service: ServiceConfig, options: Mapping[str, str]) -> InstanceSpec:
    if "url" not in options:
        raise InvalidChange("url is required: where the instance listens, such as http://127.0.0.1:5000")
    target = _target(url=options["url"], weight=yaml_tree.resolve(options.get("weight", "1")))
    url = target.url
    assert url is not None
    if isinstance(url, Lookup):
        raise InvalidChange(f"url: {url.url} is a name to look up, not an instance; names belong in the file")
    if url.path:
        raise InvalidChange(f"url: found {url.url} with a path; all instances have the path of the targets in the file")
    if url.secure and service_tls(service) is None:
        raise ChangeRefused(f"{name} has no https:// target in the file, so no certificate authority is known for it")
    zone = options.get("zone", "")
    zones = service.zones
    if zones is None and zone:
        raise InvalidChange(f"found zone {zone!r}; {name} has no zones")
    if zones is not None and zone not in zones:
        found = f"found zone {zone!r}" if zone else "zone is required"
        raise InvalidChange(f"{found}; allowed: {', '.join(zones)}")
    instance = name_after_address(name, url.host, url.port, zone)
    return InstanceSpec(instance, url.host, url.port, float(target.weight), zone, secure=url.secure)


def _target(**found: object) -> TargetConfig:
    try:
        return TargetConfig.model_validate(found)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise InvalidChange(
            *(f"{d['loc'][0]}: {from_pydantic(d, {}, within=A_TARGET).message}" for d in details)
        ) from error


def _require_keys(options: Collection[str], allowed: Collection[str]) -> None:
    for key in options:
        if key not in allowed:
            raise InvalidChange(f"found {key!r}; allowed: {', '.join(allowed)}")


def _flag(options: Mapping[str, str], key: str) -> bool:
    flag = _FLAGS.get(options.get(key, "false"))
    return _raise_invalid(f"{key}: found {options[key]!r}; allowed: true, false") if flag is None else flag


def _seconds(options: Mapping[str, str]) -> float:
    if "limit" not in options:
        return DRAIN_LIMIT
    try:
        seconds = parse_duration(options["limit"])
    except ValueError as error:
        _raise_invalid(f"limit: {error}")
    return (
        seconds
        if seconds <= MOST_SECONDS
        else _raise_invalid(f"limit: found {options['limit']!r}; allowed is at most 1h")
    )


def _raise_invalid(problem: str) -> NoReturn:
    raise InvalidChange(problem)
