"""Number of connections that the instances of a gateway.yaml open, and whether their PostgreSQL server has as many.

Each instance opens as many as :func:`shopkit.settings.pool_size`. An instance is counted once more than the file has:
a rolling restart starts a new one before the old one ends.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from shopkit.catalogue import RESOURCES
from shopkit.settings import SHOP

if TYPE_CHECKING:
    from passerelle.config import Config, Service

# Connections of a role beside those of instances: shopkit.prepare, shopkit.accounts, a person with psql.
SPARE = 2


@dataclass(frozen=True)
class Need:
    """Connections of one service: ``instances`` with ``each``, and :data:`SPARE`."""

    service: str
    instances: int
    each: int

    @property
    def total(self) -> int:
        """The most connections that the service has at once."""
        return self.instances * self.each + SPARE

    def __str__(self) -> str:
        return f"{self.service} {self.total} ({self.instances} instances with {self.each} each, and {SPARE})"


@dataclass(frozen=True)
class Capacity:
    """Connections of a server: ``most``, of which ``reserved`` are for superusers and ``others`` for other roles."""

    most: int
    reserved: int
    others: int = 0

    @property
    def free(self) -> int:
        """The connections that the shop may use."""
        return max(0, self.most - self.reserved - self.others)

    def __str__(self) -> str:
        others = f", {self.others} for other roles" if self.others else ""
        return f"{self.free} (max_connections {self.most}, {self.reserved} of them reserved{others})"


def read_config(file: Path) -> Config:
    """Read the gateway.yaml that runs the services; raise ValueError with its errors."""
    from passerelle.config import ConfigError, load  # not for SQLite, where it would be most of the time

    try:
        return load(file)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def needs(
    config: Config, services: Iterable[str], each: int, machines: int = 1, instances: int | None = None
) -> list[Need]:
    """Return the need of each of ``services``, run by ``config`` on this many machines.

    Raises ValueError if the instances of one are discovered and ``instances`` does not state their number.
    """
    return [
        Need(service, _instances(name, keys, machines, instances), each)
        for service in services
        for name, keys in config.services.items()
        if service_of(name, keys.app) == service
    ]


def _instances(name: str, service: Service, machines: int, given: int | None) -> int:
    if service.is_local:
        return (service.instances.max + 1) * machines
    if given is not None:
        return given + 1
    if any(target.is_found for target in service.all_targets):
        raise ValueError(f"the instances of {name} are discovered; state the number of them with --instances")
    return len(service.all_targets) + 1  # they run elsewhere, once for all machines


def service_of(name: str, app: str | None) -> str | None:
    """Return the service of the shop that an entry of ``services`` runs, by its application or by its name."""
    module = (app or "").partition(":")[0]
    return next((service for service in RESOURCES if service in (module, name, f"{name}s")), None)


def capacity(connection: Connection, roles: Sequence[str]) -> Capacity:
    """Read the capacity of a server. What roles other than ``roles`` may open is counted where they have a limit."""
    setting = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
    names = ["max_connections", "superuser_reserved_connections", "reserved_connections"]
    found = {row.name: int(row.setting) for row in connection.execute(setting, {"names": names})}
    limits = text("SELECT coalesce(sum(rolconnlimit), 0) FROM pg_roles WHERE rolconnlimit > 0 AND rolname <> ALL(:own)")
    others = connection.execute(limits, {"own": list(roles)}).scalar_one()
    return Capacity(found.pop("max_connections"), sum(found.values()), int(others))


def shortage(wanted: Sequence[Need], server: Capacity) -> str | None:
    """Return what is wrong if ``server`` has fewer connections than ``wanted``, with the numbers; else None."""
    total = sum(need.total for need in wanted)
    if total <= server.free:
        return None
    instances = sum(need.instances for need in wanted)
    fitting = (server.free - SPARE * len(wanted)) // instances
    advice = "raise max_connections, or run fewer instances"
    if fitting >= 1:
        advice += f", or set DATABASE_POOL_SIZE={fitting}"
    return f"{total} connections are needed: {', '.join(map(str, wanted))}; the server has {server}: {advice}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that state how many instances there will be."""
    default = SHOP / "gateway.yaml"
    parser.add_argument("--gateway", type=Path, default=default, metavar="FILE", help="the file that runs the services")
    parser.add_argument("--machines", type=int, default=1, metavar="N", help="on how many machines it runs them")
    parser.add_argument("--instances", type=int, metavar="N", help="instances of each service, if they are discovered")
