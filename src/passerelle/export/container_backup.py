"""The file of the job of backups in a container: databases of the containers, those of the file, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from passerelle.config.problems import Finding
from passerelle.export.config_tree import at
from passerelle.export.container_file import redis_url
from passerelle.export.container_service import Database
from passerelle.export.deployment import Deployment
from passerelle.export.dns_labels import labels
from passerelle.export.moved_backup import moved_backup
from passerelle.export.secret_files import Filled, SecretFiles
from passerelle.export.yaml_text import dump


@dataclass(slots=True)
class BackupFile:
    """The file and what it needs. ``text`` is empty if there is nothing to back up; ``to_volume``: to a volume."""

    text: str = ""
    to_volume: bool = True
    secrets: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    losses: list[Finding] = field(default_factory=list)
    changes: list[Finding] = field(default_factory=list)

    def use(self, filled: Filled) -> str:
        """Take over what a text needs, and return it."""
        self.secrets |= filled.secrets
        self.variables |= filled.variables
        return filled.text


def backup_file(
    deployment: Deployment,
    data: dict[str, Any],
    secrets: SecretFiles,
    redis: Filled | None,
    databases: Sequence[Database],
) -> BackupFile:
    """Make the file from ``data``, the text of the configuration as data, which is changed.

    ``databases`` are those of the containers; ``redis`` is None if the file names one on another machine.
    """
    config = deployment.config
    beside = {each.origin: each.label for each in reversed(databases) if each.origin is not None}
    given = redis.text if redis is not None else data.get("redis")
    moved = moved_backup(deployment, data, redis=given, beside=beside)
    made = BackupFile(to_volume=moved.to_volume, losses=moved.losses, changes=moved.changes)
    named = moved.data["backup"]["databases"]
    if moved.is_empty and not databases:
        return made
    own = {label: name for name, label in moved.replaced.items()}
    free = labels((each.label for each in databases if each.label not in own), [*named, *own.values()])
    # References of the file first: those that follow are of the export itself.
    for loc, filled in secrets.replace_references(moved.data, lambda loc: loc == ("redis",) and redis is not None):
        made.use(filled)
        if at(moved.data, loc) != at(data, loc):
            made.changes.append(Finding(loc, f"now {filled.text}"))
    for loc, secret in secrets.replace_literals(moved.data):
        made.changes.append(Finding(loc, f"now {made.use(secret)}"))
    if redis is not None and "redis" in moved.data:
        moved.data["redis"] = redis_url(config, made.use(redis))
    for each in databases:
        made.secrets.add(each.password)
        address = f"postgresql://{each.name}:${{file:{secrets[each.password].target}}}@{each.label}:5432/{each.name}"
        named[own.get(each.label) or free[each.label]] = address
    if not named:
        del moved.data["backup"]["databases"]
    if config.backup is not None and config.backup.key_file is not None:
        made.secrets.add(secrets.mounted(config.backup.key_file))
    made.text = f"# {deployment.header}\n# For `docker compose run --rm backup`.\n{dump(moved.data)}"
    return made
