"""The configuration of a job that makes backups beside gateways: what it backs up, to where, and nothing else.

Neither the gateways get the secrets of backups, nor the job those of the gateways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from passerelle.config.models.backup import Backup
from passerelle.config.problems import Finding, Loc
from passerelle.export.config_tree import is_loopback
from passerelle.export.deployment import Deployment

VOLUME = "/backups"
"""The folder of backups where the file names no bucket: a volume of the job."""

Place = tuple[int, str]
"""A database on the machine of the file: its port and its name."""

_PORT = 5432


@dataclass(slots=True)
class MovedBackup:
    """The configuration as data, and what became of the section.

    ``to_volume``: the job writes to :data:`VOLUME`. ``replaced`` maps names of databases to those that take their
    places, and are not in the data.
    """

    data: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    to_volume: bool = True
    losses: list[Finding] = field(default_factory=list)
    changes: list[Finding] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to back up."""
        return not ({"keys", "sessions"} & self.data.keys()) and not self.data["backup"]["databases"]


def moved_backup(
    deployment: Deployment, given: Mapping[str, Any], *, redis: str | None, beside: Mapping[Place, str]
) -> MovedBackup:
    """Return the configuration. ``given`` is that of the file as data, ``redis`` the address where the keys are.

    ``beside`` has the names of databases that take the places of some on the machine of the file.
    """
    config = deployment.config
    settings = config.backup or Backup()
    found = MovedBackup()
    if redis is not None:
        stores = {key: {"store": "redis"} for key in config.stores}
        found.data |= {"redis": redis, **stores} if stores else {}
    section = dict(given.get("backup", {}))
    found.data["backup"] = section
    databases = dict(section.pop("databases", {}))
    for name, place in settings.databases.items():
        _database(found, deployment, databases, name, place, beside)
    section["databases"] = databases
    _target(found, settings)
    loc: Loc = ("backup", "scratch")
    if settings.scratch is not None and place_of(settings.scratch) is not None and not deployment.refers(loc):
        del section["scratch"]
        why = "the job does not reach this address; dumps are restored on the server of each database"
        found.losses.append(Finding(loc, why, at_key=True))
    loc = ("backup", "s3", "endpoint")
    endpoint = (settings.s3.endpoint if settings.s3 is not None else None) or ""
    if is_loopback(urlsplit(endpoint).hostname or "") and not deployment.refers(loc):
        found.losses.append(Finding(loc, "the job does not reach this address", at_key=True))
    # A file needs a service and a route. The job reads neither.
    found.data["services"] = {"unused": {"targets": ["http://127.0.0.1:9"]}}
    found.data["routes"] = [{"path": "/", "service": "unused"}]
    return found


def place_of(url: str) -> Place | None:
    """Return the place of a database on the machine of the file; None for others.

    Two addresses of the same database may have different users, drivers and names of the machine.
    """
    parts = urlsplit(url)
    host = parts.hostname or parse_qs(parts.query).get("host", [""])[0]
    if host and not host.startswith("/") and not is_loopback(host):
        return None
    return parts.port or _PORT, parts.path.strip("/")


def _database(
    found: MovedBackup,
    deployment: Deployment,
    databases: dict[str, Any],
    name: str,
    given: Path | str,
    beside: Mapping[Place, str],
) -> None:
    loc: Loc = ("backup", "databases", name)
    place = None if isinstance(given, Path) else place_of(given)
    if isinstance(given, Path):
        del databases[name]
        found.losses.append(Finding(loc, "the job does not have this file; back it up where the file is", at_key=True))
    elif place is None:
        return
    elif place in beside:
        del databases[name]
        found.replaced[name] = beside[place]
        found.changes.append(Finding(loc, f"now the PostgreSQL {beside[place]}"))
    elif not deployment.refers(loc):
        del databases[name]
        found.losses.append(Finding(loc, "the job does not reach this address", at_key=True))


def _target(found: MovedBackup, settings: Backup) -> None:
    found.to_volume = settings.to is None or isinstance(settings.to, Path)
    if not found.to_volume:
        return
    found.data["backup"]["to"] = VOLUME
    if settings.to is not None:
        found.changes.append(Finding(("backup", "to"), f"now {VOLUME}, a volume"))
