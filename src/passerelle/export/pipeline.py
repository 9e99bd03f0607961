"""What the pipelines of GitHub and GitLab have in common: the model of a project's delivery, and how YAML is written.

Both check the file, run the tests beside the stores that the file names, build an image with its provenance and a bill
of materials, roll it out in stages, and go back to the image before if a stage fails. ``deploy/run`` in the project
puts an image into service, with ``STAGE`` and ``IMAGE`` in its environment.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from passerelle.export.coverage import Coverage, Exported, NotApplicable
from passerelle.export.deployment import Deployment

COVERAGE = Coverage(
    {
        "Config.redis": Exported(),
        "Config.services": Exported(),
        "Service.env": Exported(),
    },
    NotApplicable("the image has the file, and the gateway applies it"),
)
"""What both exports do with each key."""

DEPLOY = "deploy/run"
STAGES = ("staging", "canary", "production")
REDIS_IMAGE = "redis:8"
POSTGRES_IMAGE = "postgres:17"
_PASSWORD = "test"  # noqa: S105 - of a database that lives as long as a job


@dataclass(frozen=True, slots=True)
class Project:
    """A project as its pipeline sees it: shell commands, and the version of Python."""

    python: str
    install: str
    test: str


def check_command(deployment: Deployment) -> str:
    """Return the command that checks the file. It runs in the root of the repository, where the file is expected."""
    return f"passerelle check {shlex.quote(Path(deployment.file).name)}"


def databases(deployment: Deployment) -> list[str]:
    """Return the variables that name a database, sorted: those of services, and those that the file refers to."""
    return _variables(deployment, "DATABASE_URL")


def redis_variables(deployment: Deployment) -> list[str]:
    """Return the variables that name a Redis, sorted; empty if the tests need none."""
    return _variables(deployment, "REDIS_URL") or (["REDIS_URL"] if deployment.config.redis is not None else [])


def _variables(deployment: Deployment, end: str) -> list[str]:
    names = {name for item in deployment.services for name in item.service.env or ()} | set(deployment.variables)
    return sorted(name for name in names if name.endswith(end))


def test_variables(deployment: Deployment, redis: str, postgres: str) -> dict[str, str]:
    """Return the variables of the tests: where the stores are that run beside them, at these hosts."""
    found = dict.fromkeys(databases(deployment), f"postgresql://postgres:{_PASSWORD}@{postgres}:5432/postgres")
    return found | dict.fromkeys(redis_variables(deployment), f"redis://{redis}:6379/0")


def postgres_variables() -> dict[str, str]:
    """Return the variables of the container of PostgreSQL."""
    return {"POSTGRES_PASSWORD": _PASSWORD}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write each value where it is used."""
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _text)


def write(document: Mapping[str, Any]) -> str:
    """Return a document as YAML, with its keys in their order."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
