"""The model that all exports are made from: services with the addresses of their instances, and routes in order."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from passerelle.config import rule_of
from passerelle.config.expand import tree_of, without_defaults
from passerelle.config.models.addresses import Address
from passerelle.config.models.config import Config, Route, Service
from passerelle.config.problems import Finding, Loc, Problem
from passerelle.config.reading import yaml_tree
from passerelle.config.reading.substitute import references
from passerelle.config.source import locate
from passerelle.routing.router import specificity

FIRST_PORT = 5001
"""The port of the first instance of an `app` or `run` service; the others follow in the order of the file."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance with a fixed address. A ``backup`` receives requests only while all others are down."""

    address: Address
    weight: int = 1
    backup: bool = False


@dataclass(frozen=True, slots=True)
class ServiceExport:
    """A service with its instances. Those that are discovered at run time are missing."""

    name: str
    service: Service
    instances: tuple[Instance, ...]

    @property
    def loc(self) -> Loc:
        """The place of the service in the file."""
        return ("services", self.name)


@dataclass(frozen=True, slots=True)
class RouteExport:
    """A route with its index in the file."""

    index: int
    route: Route

    @property
    def loc(self) -> Loc:
        """The place of the route in the file."""
        return ("routes", self.index)


class Deployment:
    """A configuration as exports see it. ``file`` is its name as given, ``text`` its content.

    ``folder`` is where its folder is when the export is used: an absolute path. ``root`` is the parsed text, with
    included files, the profile and the defaults.
    """

    def __init__(self, config: Config, text: str, file: str, folder: Path) -> None:
        self.config = config
        self.file = file
        self.folder = folder
        # With included files, the profile and the defaults in their places, so that exports are complete.
        self.root = without_defaults(tree_of(text, file))
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._references = dict(_references(self.root, ()))
        self.services = _services(config)
        routes = [RouteExport(index, route) for index, route in enumerate(config.routes)]
        self.routes = tuple(sorted(routes, key=lambda item: specificity(rule_of(item.route))))

    def moved(self, config: Config, folder: Path) -> Deployment:
        """Return the same file with some values changed, in another folder. Its services stay as they are."""
        found = copy.copy(self)
        found.config = config
        found.folder = folder
        return found

    def locate(self, finding: Finding) -> Problem:
        """Add the position in the file to a finding."""
        return locate(self.root, self.file, finding)

    def path(self, found: Path, folder: Path | None = None) -> str:
        """Return the absolute path of a file that the configuration names, if the configuration is in ``folder``."""
        here = Path(self.file).parent
        relative = found.relative_to(here) if found.is_relative_to(here) else found
        return os.path.normpath((folder or self.folder) / relative)

    def refers(self, loc: Loc) -> bool:
        """Whether a value at ``loc`` or below comes from the environment or from a secret file."""
        return any(place[: len(loc)] == loc for place in self._references)

    @property
    def references(self) -> tuple[tuple[Loc, tuple[str, ...]], ...]:
        """The places that refer to the environment, with the names of the variables."""
        found = [(loc, self._plain(names)) for loc, names in self._references.items()]
        return tuple((loc, names) for loc, names in found if names)

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that the file refers to, sorted."""
        return tuple(sorted({name for _, names in self.references for name in names}))

    @staticmethod
    def _plain(names: list[str]) -> tuple[str, ...]:
        return tuple(name.partition(":-")[0] for name in names if not name.startswith("file:"))

    @property
    def needs_variables(self) -> bool:
        """Whether the file refers to an environment variable without stating a default."""
        found = [name for names in self._references.values() for name in names if not name.startswith("file:")]
        return any(":-" not in name for name in found)

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The secret files that the file refers to, as written, sorted."""
        found = [name for names in self._references.values() for name in names if name.startswith("file:")]
        return tuple(sorted({name.removeprefix("file:") for name in found}))

    @property
    def header(self) -> str:
        """The first line of each exported file, without the sign of a comment."""
        return f"Exported by passerelle from {Path(self.file).name} (sha256 {self.digest})."


def _references(node: yaml_tree.YamlNode, loc: Loc) -> Iterator[tuple[Loc, list[str]]]:
    if isinstance(node, yaml_tree.YamlMapping):
        for key, (_, value) in node.items.items():
            yield from _references(value, (*loc, key))
    elif isinstance(node, yaml_tree.YamlSequence):
        for index, item in enumerate(node.items):
            yield from _references(item, (*loc, index))
    elif isinstance(node, yaml_tree.YamlScalar) and (found := references(node.text)):
        yield loc, found


def _services(config: Config) -> tuple[ServiceExport, ...]:
    """Resolve the instances of all services. Those of `app` and `run` get ports that nothing else in the file uses."""
    taken = {each.address.port for each in config.listen}
    if config.admin is not None:
        taken.add(config.admin.listen.port)
    for service in config.services.values():
        taken.update(target.url.port for target in service.all_targets if target.url is not None)
    ports = (port for port in range(FIRST_PORT, 65536) if port not in taken)
    found = []
    for name, service in config.services.items():
        if service.is_local:
            instances = [Instance(Address(host="127.0.0.1", port=next(ports))) for _ in range(service.instances.min)]
        else:
            instances = list(_running(service))
        found.append(ServiceExport(name, service, tuple(instances)))
    return tuple(found)


def _running(service: Service) -> Iterator[Instance]:
    """Yield the instances of targets and zones, with weights that give each zone its share."""
    for target in service.targets or ():
        if target.url is not None and not target.is_found:
            yield Instance(target.url, target.weight)
    zones = (service.zones or {}).values()
    first = min((zone.priority for zone in zones), default=0)
    totals = [sum(target.weight for target in zone.targets) for zone in zones]
    common = math.lcm(*totals)
    for zone, total in zip(zones, totals, strict=True):
        for target in zone.targets:
            if target.url is not None and not target.is_found:
                share = zone.weight * target.weight * (common // total)
                yield Instance(target.url, share, backup=zone.priority > first)
