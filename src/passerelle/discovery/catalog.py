"""Which targets each service has now: those of the configuration, those that were found, those changed at run time.

Each name and each file is one source, looked at once for all services, in a task of its own and never by a request.
A source that fails keeps what it found last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from passerelle.config.models.addresses import Lookup
from passerelle.config.models.config import Config, Target
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.discovery import Dns
from passerelle.discovery import file as listed
from passerelle.discovery.overrides import Overrides, TargetKey, target_key
from passerelle.discovery.types import DiscoveryFailed, FoundInstance
from passerelle.gateway.assembly.certificates import service_tls
from passerelle.gateway.assembly.services import configured_instances
from passerelle.system.ports import join
from passerelle.upstream.members import InstanceSpec

FIRST_ANSWER = 5.0  # seconds that a start or a reload waits for what it has not asked before
LOOK = 1.0  # seconds between two looks at a file

_Key = tuple[Lookup, Dns] | Path


class DiscoverySource:
    """One name or one file. ``changed`` is called when what it found is other than before."""

    def __init__(self, what: str, changed: Callable[[], None], report: Callable[[str], None]) -> None:
        self.what = what
        self.found: tuple[FoundInstance, ...] = ()
        self.first_result = asyncio.Event()
        self._changed = changed
        self._report = report
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    def start(self, key: _Key) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._watch(key) if isinstance(key, Path) else self._resolve(*key))

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    def _on_found(self, found: list[FoundInstance]) -> None:
        if self._problem:
            self._report(f"{self.what}: found again")
        self._problem = ""
        now = tuple(sorted(found))
        differs, self.found = now != self.found, now
        self.first_result.set()
        if differs:
            self._changed()

    def _on_problem(self, problem: str) -> None:
        """Said once, until it is another problem."""
        if problem != self._problem:
            self._problem = problem
            kept = f"its last {len(self.found)} targets stay" if self.found else "it has no targets yet"
            self._report(f"{problem}; {kept}")
        self.first_result.set()

    async def _resolve(self, target: Lookup, settings: Dns) -> None:
        from passerelle.discovery.dns import Resolver  # dnspython is an extra

        resolver = None
        while True:
            pause = settings.min_ttl
            try:
                resolver = resolver or Resolver(target, settings)
                found, ttl = await resolver.look_up()
            except DiscoveryFailed as error:
                self._on_problem(f"{self.what}: {error}")
            else:
                self._on_found(found)
                pause = max(settings.min_ttl, min(ttl, settings.max_ttl))
            await asyncio.sleep(pause)

    async def _watch(self, path: Path) -> None:
        before: listed.Stamp = None
        while True:
            # In a thread: a file may be on a disk that does not answer.
            now = await asyncio.to_thread(listed.file_stamp, path)
            if now != before or now is None:
                try:
                    targets = await asyncio.to_thread(listed.read, path)
                except listed.InvalidTargetFile as error:
                    self._on_problem(str(error))
                else:
                    self._on_found(
                        [FoundInstance(t.url.host, t.url.port, float(t.weight)) for t in targets if t.url is not None]
                    )
                before = now
            await asyncio.sleep(LOOK)


class Catalog:
    """``changed`` is called with the name of each service that has other targets now; ``report`` is for people."""

    def __init__(self, changed: Callable[[str], None], report: Callable[[str], None]) -> None:
        self._changed = changed
        self._report = report
        self._sources: dict[_Key, DiscoverySource] = {}
        self._config: Config | None = None
        self._adjusted: dict[str, Overrides] = {}  # by service

    async def prepare(self, config: Config) -> None:
        """Look for what ``config`` wants found, and wait a while for the first answers. :meth:`adopt` comes next."""
        fresh = []
        for key, what in _discovered_targets(config):
            if key not in self._sources:
                source = self._sources[key] = DiscoverySource(what, partial(self._on_source_changed, key), self._report)
                source.start(key)
                fresh.append(asyncio.create_task(source.first_result.wait()))
        if fresh:
            await asyncio.wait(fresh, timeout=FIRST_ANSWER)
            for task in fresh:
                task.cancel()

    def adopt(self, config: Config) -> None:
        """Go by ``config`` from now on, or stay with it: what it does not want found is looked at no more."""
        self._config = config
        wanted = {key for key, _ in _discovered_targets(config)}
        for key in self._sources.keys() - wanted:
            self._sources.pop(key).stop()
        for name in list(self._adjusted):
            self._drop_obsolete(name)

    def stop(self) -> None:
        """Look no more."""
        for source in self._sources.values():
            source.stop()

    def specs(self, name: str, config: Config) -> list[InstanceSpec]:
        """The targets of a service now. What stands twice in a zone counts once, the first time.

        One that was found or added is named after its address, so it is the same one whenever and however it is back.
        """
        declared, adjusted = self._declared(name, config), self._adjusted.get(name)
        if adjusted is None:
            return declared
        added, fits = adjusted.added, partial(_fits, service=config.services[name])
        return [spec for spec in adjusted.apply_to(declared) if target_key(spec) not in added or fits(spec)]

    def _declared(self, name: str, config: Config) -> list[InstanceSpec]:
        service = config.services[name]
        specs = {(spec.host, spec.port, spec.zone): spec for spec in configured_instances(name, service)}
        for zone, target in _targets(service):
            key = _key(target, config)
            source = self._sources.get(key) if key is not None else None
            for host, port, weight, tier in source.found if source is not None else ():
                share = weight * target.weight
                spec = InstanceSpec(name_after_address(name, host, port, zone), host, port, share, zone, tier=tier)
                specs.setdefault((host, port, zone), spec)
        return list(specs.values())

    def add(self, name: str, spec: InstanceSpec) -> None:
        """Let the service called ``name`` have ``spec`` too."""
        self._adjust(name).add(spec, self._current(name))

    def remove(self, name: str, place: TargetKey) -> None:
        """Let it have the one at ``place`` no more."""
        self._adjust(name).remove(place, self._current(name))

    def set_weight(self, name: str, place: TargetKey, weight: float) -> None:
        """Let the one at ``place`` have another weight."""
        self._adjust(name).set_weight(place, weight, self._current(name))

    def origin(self, name: str, place: TargetKey) -> str:
        """Where the one at ``place`` comes from: ``file``, ``found`` or ``added`` at run time."""
        assert self._config is not None
        service = self._config.services.get(name)
        if service is None or place in map(target_key, configured_instances(name, service)):
            return "file"
        return "added" if name in self._adjusted and place in self._adjusted[name].added else "found"

    def found_by(self, name: str, place: TargetKey) -> str:
        """The name or the file that gives a service the one at ``place``; empty where none does."""
        assert self._config is not None
        host, port, zone = place
        for within, target in _targets(self._config.services[name]):
            key = _key(target, self._config)
            source = self._sources.get(key) if key is not None else None
            if source is not None and within == zone and any(f[:2] == (host, port) for f in source.found):
                return source.what
        return ""

    def removed(self, name: str) -> list[str]:
        """The addresses that the configuration gives a service and that were taken away at run time."""
        adjusted = self._adjusted.get(name)
        return [join(host, port) for host, port, _ in adjusted.removed] if adjusted is not None else []

    def _adjust(self, name: str) -> Overrides:
        return self._adjusted.setdefault(name, Overrides())

    def _current(self, name: str) -> list[InstanceSpec]:
        assert self._config is not None
        return self._declared(name, self._config)

    def _drop_obsolete(self, name: str) -> None:
        """Forget changes at run time that the configuration in force, or what was found, has overtaken."""
        adjusted, config = self._adjusted[name], self._config
        if config is None or name not in config.services or config.services[name].is_local:
            del self._adjusted[name]
            return
        adjusted.drop_obsolete(self._declared(name, config))
        service = config.services[name]
        adjusted.added = {place: spec for place, spec in adjusted.added.items() if _fits(spec, service)}

    def is_discovered(self, config: ServiceConfig) -> bool:
        """Whether any target of a service is found at run time."""
        return any(target.is_found for target in config.all_targets)

    def _on_source_changed(self, key: _Key) -> None:
        config = self._config
        if config is not None:
            for name, service in config.services.items():
                if any(_key(target, config) == key for target in service.all_targets):
                    if name in self._adjusted:
                        self._drop_obsolete(name)
                    self._changed(name)


def name_after_address(service: str, host: str, port: int, zone: str) -> str:
    """The name of an instance that is called after its address."""
    stem = f"{service}-{zone}" if zone else service
    return f"{stem}-{join(host, port)}"


def _fits(spec: InstanceSpec, service: ServiceConfig) -> bool:
    """Whether one that was added can be there still: https:// needs a service whose certificates are told of."""
    zones = service.zones.keys() if service.zones is not None else {""}
    return not service.is_local and spec.zone in zones and (not spec.secure or service_tls(service) is not None)


def _targets(service: ServiceConfig) -> Iterator[tuple[str, Target]]:
    yield from (("", target) for target in service.targets or ())
    for zone, settings in (service.zones or {}).items():
        yield from ((zone, target) for target in settings.targets)


def _key(target: Target, config: Config) -> _Key | None:
    if target.file is not None:
        return target.file
    return (target.url, config.dns) if isinstance(target.url, Lookup) else None


def _discovered_targets(config: Config) -> Iterator[tuple[_Key, str]]:
    for service in config.services.values():
        for target in service.all_targets:
            key = _key(target, config)
            if key is not None:
                yield key, str(target.file or (target.url and target.url.url))
