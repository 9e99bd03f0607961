"""The targets of each service: those of the configuration, discovered ones, and changes at run time.

Each name and each file is one source, which is polled once for all services, in a task and never by a request. A source
that fails keeps its last result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from passerelle.config.checks import calls_gateway
from passerelle.config.models.addresses import Address, Lookup
from passerelle.config.models.config import Config, Target
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.discovery import Dns
from passerelle.discovery import file as target_file
from passerelle.discovery.overrides import Overrides, TargetKey, target_key
from passerelle.discovery.types import DiscoveryFailed, FoundInstance
from passerelle.gateway.assembly.certificates import service_tls
from passerelle.gateway.assembly.services import configured_instances
from passerelle.system.ports import is_local, join, split
from passerelle.upstream.members import InstanceSpec

FIRST_RESULT_LIMIT = 5.0  # seconds that a start or a reload waits for the first result of new sources
FILE_INTERVAL = 1.0  # seconds between two polls of a file

# Hosts that stand for every address of this machine.
EVERY_HOST = ("0.0.0.0", "::")

_Key = tuple[Lookup, Dns] | Path


class DiscoverySource:
    """One DNS name or one file. ``changed`` is called when its result changes; ``log`` gets its problems."""

    def __init__(self, name: str, changed: Callable[[], None], log: Callable[[str], None]) -> None:
        self.name = name
        self.found: tuple[FoundInstance, ...] = ()
        self.first_result = asyncio.Event()
        self._changed = changed
        self._log = log
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    def start(self, key: _Key) -> None:
        """Begin to poll the source."""
        self._task = asyncio.create_task(self._watch(key) if isinstance(key, Path) else self._resolve(*key))

    def stop(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()

    def _on_found(self, found: list[FoundInstance]) -> None:
        if self._problem:
            self._log(f"{self.name}: available again")
        self._problem = ""
        now = tuple(sorted(found))
        differs, self.found = now != self.found, now
        self.first_result.set()
        if differs:
            self._changed()

    def _on_problem(self, problem: str) -> None:
        """Log a problem, unless it is the same as before."""
        if problem != self._problem:
            self._problem = problem
            kept = f"keeping its last {len(self.found)} targets" if self.found else "it has no targets yet"
            self._log(f"{problem}; {kept}")
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
                self._on_problem(f"{self.name}: {error}")
            else:
                self._on_found(found)
                pause = max(settings.min_ttl, min(ttl, settings.max_ttl))
            await asyncio.sleep(pause)

    async def _watch(self, path: Path) -> None:
        before: target_file.Stamp = None
        while True:
            # In a thread, because a file system may block.
            now = await asyncio.to_thread(target_file.file_stamp, path)
            if now != before or now is None:
                try:
                    targets = await asyncio.to_thread(target_file.read, path)
                except target_file.InvalidTargetFile as error:
                    self._on_problem(str(error))
                else:
                    self._on_found(
                        [FoundInstance(t.url.host, t.url.port, float(t.weight)) for t in targets if t.url is not None]
                    )
                before = now
            await asyncio.sleep(FILE_INTERVAL)


class Catalog:
    """The targets of all services.

    ``changed`` is called with the name of each service whose discovered targets have changed. ``log`` gets problems of
    discovery, one line each.
    """

    def __init__(self, changed: Callable[[str], None], log: Callable[[str], None]) -> None:
        self._changed = changed
        self._log = log
        self._sources: dict[_Key, DiscoverySource] = {}
        self._config: Config | None = None
        self._overrides: dict[str, Overrides] = {}  # by service
        self._listen: list[Address] = []
        self._own: set[tuple[str, str]] = set()  # services and their found targets that are the gateway's own address

    def exclude(self, listen: Iterable[str]) -> None:
        """Leave out found targets at ``listen`` (``host:port``), where the gateway would call itself."""
        places = [split(each) for each in listen if not each.startswith("unix:")]
        self._listen = [Address(host=host, port=port) for host, port in places]

    def is_excluded(self, host: str, port: int) -> bool:
        """Whether requests to ``host:port`` would arrive at the gateway itself."""
        return any(
            calls_gateway(Address(host=host, port=port), listen) or (listen.host in EVERY_HOST and is_local(host))
            for listen in self._listen
            if port == listen.port
        )

    async def prepare(self, config: Config) -> None:
        """Start the sources that ``config`` adds, and wait for their first results, for a limited time.

        To be followed by :meth:`adopt`, with ``config`` or the previous configuration.
        """
        fresh = []
        for key, name in _discovered_targets(config):
            if key not in self._sources:
                source = self._sources[key] = DiscoverySource(name, partial(self._on_source_changed, key), self._log)
                source.start(key)
                fresh.append(asyncio.create_task(source.first_result.wait()))
        if fresh:
            await asyncio.wait(fresh, timeout=FIRST_RESULT_LIMIT)
            for task in fresh:
                task.cancel()

    def adopt(self, config: Config) -> None:
        """Put ``config`` in force, and stop the sources that it does not have."""
        self._config = config
        wanted = {key for key, _ in _discovered_targets(config)}
        for key in self._sources.keys() - wanted:
            self._sources.pop(key).stop()
        for name in list(self._overrides):
            self._drop_obsolete(name)

    def stop(self) -> None:
        """Stop all sources."""
        for source in self._sources.values():
            source.stop()

    def specs(self, name: str, config: Config) -> list[InstanceSpec]:
        """Return the current targets of the service ``name``. Duplicates in a zone count once, the first of them.

        A discovered or added target is named after its address, so it keeps its name when it disappears and returns.
        """
        declared, overrides = self._declared(name, config), self._overrides.get(name)
        if overrides is None:
            return declared
        added, allowed = overrides.added, partial(_is_allowed, service=config.services[name])
        return [spec for spec in overrides.apply_to(declared) if target_key(spec) not in added or allowed(spec)]

    def _declared(self, name: str, config: Config) -> list[InstanceSpec]:
        service = config.services[name]
        specs = {(spec.host, spec.port, spec.zone): spec for spec in configured_instances(name, service)}
        for zone, target in _targets(service):
            key = _key(target, config)
            source = self._sources.get(key) if key is not None else None
            for host, port, weight, tier in source.found if source is not None else ():
                if self.is_excluded(host, port):
                    self._report_own(name, join(host, port))
                    continue
                share = weight * target.weight
                spec = InstanceSpec(name_after_address(name, host, port, zone), host, port, share, zone, tier=tier)
                specs.setdefault((host, port, zone), spec)
        return list(specs.values())

    def _report_own(self, name: str, address: str) -> None:
        if (name, address) not in self._own:
            self._own.add((name, address))
            self._log(f"{name}: found {address}, where the gateway itself listens; it is left out")

    def add(self, name: str, spec: InstanceSpec) -> None:
        """Add the target ``spec`` to the service ``name``."""
        self._overrides_of(name).add(spec, self._current(name))

    def remove(self, name: str, target: TargetKey) -> None:
        """Remove a target from the service ``name``."""
        self._overrides_of(name).remove(target, self._current(name))

    def set_weight(self, name: str, target: TargetKey, weight: float) -> None:
        """Set the weight of a target of the service ``name``."""
        self._overrides_of(name).set_weight(target, weight, self._current(name))

    def origin(self, name: str, target: TargetKey) -> str:
        """Return the origin of a target of the service ``name``: ``file``, ``found`` or ``added`` at run time."""
        assert self._config is not None
        service = self._config.services.get(name)
        if service is None or target in map(target_key, configured_instances(name, service)):
            return "file"
        return "added" if name in self._overrides and target in self._overrides[name].added else "found"

    def found_by(self, name: str, target: TargetKey) -> str:
        """Return the DNS name or the file that a target was found by; an empty string if there is none."""
        assert self._config is not None
        host, port, zone = target
        for within, declared in _targets(self._config.services[name]):
            key = _key(declared, self._config)
            source = self._sources.get(key) if key is not None else None
            if source is not None and within == zone and any(f[:2] == (host, port) for f in source.found):
                return source.name
        return ""

    def removed(self, name: str) -> list[str]:
        """Return the addresses of the targets that were removed from the service ``name`` at run time."""
        overrides = self._overrides.get(name)
        return [join(host, port) for host, port, _ in overrides.removed] if overrides is not None else []

    def _overrides_of(self, name: str) -> Overrides:
        return self._overrides.setdefault(name, Overrides())

    def _current(self, name: str) -> list[InstanceSpec]:
        assert self._config is not None
        return self._declared(name, self._config)

    def _drop_obsolete(self, name: str) -> None:
        """Forget changes at run time that no longer apply to the configuration and the discovered targets."""
        overrides, config = self._overrides[name], self._config
        if config is None or name not in config.services or config.services[name].is_local:
            del self._overrides[name]
            return
        overrides.drop_obsolete(self._declared(name, config))
        service = config.services[name]
        overrides.added = {key: spec for key, spec in overrides.added.items() if _is_allowed(spec, service)}

    def is_discovered(self, config: ServiceConfig) -> bool:
        """Whether any target of a service is discovered at run time."""
        return any(target.is_found for target in config.all_targets)

    def _on_source_changed(self, key: _Key) -> None:
        config = self._config
        if config is not None:
            for name, service in config.services.items():
                if any(_key(target, config) == key for target in service.all_targets):
                    if name in self._overrides:
                        self._drop_obsolete(name)
                    self._changed(name)


def name_after_address(service: str, host: str, port: int, zone: str) -> str:
    """Return the name of an instance that is named after its address."""
    stem = f"{service}-{zone}" if zone else service
    return f"{stem}-{join(host, port)}"


def _is_allowed(spec: InstanceSpec, service: ServiceConfig) -> bool:
    """Whether ``service`` may have the added target ``spec``: https:// needs a configuration of its certificates."""
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
