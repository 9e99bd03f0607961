"""A service whose instances are containers: its command, its environment, its database."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from passerelle.appserver.options import ServerOptions
from passerelle.config.models.config import Service
from passerelle.config.problems import Finding, Loc, key_of
from passerelle.config.reading.substitute import references
from passerelle.export.config_tree import at, is_loopback
from passerelle.export.deployment import Deployment, ServiceExport
from passerelle.export.moved_backup import Place, place_of
from passerelle.export.secret_files import Filled, SecretFiles
from passerelle.export.secret_places import has_password, may_be_secret

PORT = 5000
"""The port of all instances."""
APPLICATION = "/srv/app"
"""Where images have the folder of the configuration."""

is_database_variable = re.compile(r"(?:[A-Za-z0-9_]*_)?DATABASE_URL").fullmatch
"""Matches variables with the URL of a database."""

_HERE = re.compile(r"\b(?:127\.\d+\.\d+\.\d+|localhost)\b|\[::1\]").search
_MACHINE = re.compile(r"(?:127\.\d+\.\d+\.\d+|localhost|\[::1\])(?::\d+)?").fullmatch
_POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+[a-z0-9]+)?").fullmatch


@dataclass(frozen=True, slots=True)
class Database:
    """The PostgreSQL database of one service. ``password`` is the name of a secret; ``name`` is that of the database
    and of its role. ``origin`` is the database on the machine of the file that it replaces."""

    label: str
    name: str
    password: str
    origin: Place | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """What services find beside them: a reference to the URL of Redis, and the address of the collector of traces."""

    redis: Filled
    collector: str


@dataclass(slots=True)
class ContainerService:
    """The containers of a service. ``filled`` has the variables whose values contain references."""

    label: str
    exported: ServiceExport
    plain: dict[str, str] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    databases: list[Database] = field(default_factory=list)
    losses: list[Finding] = field(default_factory=list)
    changes: list[Finding] = field(default_factory=list)

    @property
    def service(self) -> Service:
        """The service of the configuration."""
        return self.exported.service

    def command(self, words: list[str]) -> list[str]:
        """Return a command with the environment of the service. It may contain references."""
        if not self.filled and not any("$" in word for word in words):
            return words
        given = [f"--env={name}={text}" for name, text in self.filled.items()]
        return ["passerelle", "exec", *given, "--", *words]

    def use(self, filled: Filled) -> str:
        """Add what a converted text refers to, such as secrets, to the container; return the text."""
        self.secrets |= filled.secrets
        self.variables |= filled.variables
        return filled.text


class ServiceBuilder:
    """Builds the services of a configuration. ``data`` is its text as data, ``databases`` the variables of services."""

    def __init__(self, deployment: Deployment, data: object, secrets: SecretFiles, stack: Stack) -> None:
        self._deployment = deployment
        self._data = data
        self._secrets = secrets
        self._stack = stack

    def build(self, item: ServiceExport, label: str, wanted: Mapping[str, str]) -> ContainerService:
        """Return the containers of ``item``. ``wanted`` maps its variables with databases to labels of these."""
        built = ContainerService(label, item)
        loc = item.loc
        for name, value in item.service.env.items():
            self._variable(built, (*loc, "env", name), name, value, wanted)
        for name, place in wanted.items():
            if name not in item.service.env:
                built.filled[name] = self._database(built, place, "")
        built.words = list(self._words(built))
        return built

    def _variable(self, built: ContainerService, loc: Loc, name: str, value: str, wanted: Mapping[str, str]) -> None:
        raw = str(at(self._data, loc))
        url = urlsplit(value) if "://" in value else None
        here = url is not None and is_loopback(_host(value))
        if name in wanted:
            built.filled[name] = self._database(built, wanted[name], value)
            built.changes.append(Finding(loc, f"now the PostgreSQL {wanted[name]}"))
        elif url is not None and here and url.scheme in ("redis", "rediss"):
            path = url.path if url.path.strip("/") else "/0"
            built.filled[name] = built.use(self._stack.redis) + path
            built.changes.append(Finding(loc, "now the Redis of the containers"))
        elif url is not None and here and name.startswith("OTEL_"):
            built.plain[name] = f"{url.scheme}://{self._stack.collector}:{url.port or 4318}{url.path}"
            built.changes.append(Finding(loc, f"now {built.plain[name]}"))
        else:
            if here or _MACHINE(value):
                built.losses.append(Finding(loc, "in a container, this address is the container itself"))
            elif url is not None and url.scheme.startswith("sqlite"):
                built.losses.append(Finding(loc, "each container has an SQLite file of its own, and loses it"))
            if references(raw):
                built.filled[name] = built.use(self._secrets.filled(raw))
            elif may_be_secret(name, value):
                secret = self._secrets.introduce(f"{built.label}-{name}", f"the value of {key_of(loc)} in the file")
                built.filled[name] = built.use(secret)
                built.changes.append(Finding(loc, f"now {secret.text}"))
            else:
                built.plain[name] = value

    def _database(self, built: ContainerService, label: str, value: str) -> str:
        """Add the database ``label`` and return its URL. ``value`` is the one that it replaces."""
        name = re.sub(r"[^a-z0-9]", "_", built.label)
        password = f"{label}-password"
        secret = self._secrets.introduce(password, f"a random word of letters and digits, the password of {label}")
        scheme, separator, _ = value.partition("://")
        origin = place_of(value) if separator and _POSTGRESQL(scheme) else None
        built.databases.append(Database(label, name, password, origin))
        scheme = scheme if _POSTGRESQL(scheme) else "postgresql"
        return f"{scheme}://{name}:{built.use(secret)}@{label}:5432/{name}"

    def _words(self, built: ContainerService) -> Iterator[str]:
        """Yield the words of the command of an instance."""
        service, loc = built.service, built.exported.loc
        if service.app is not None:
            yield from ("python3", "-P", "-m", "passerelle.appserver.main", service.app)
            yield from ("--host", "0.0.0.0", "--port", str(PORT))
            yield from ServerOptions.of(service).words()
            return
        found = at(self._data, (*loc, "run"))
        words = shlex.split(found) if isinstance(found, str) else [str(word) for word in found]
        if any(_HERE(word) for word in words):
            built.losses.append(Finding((*loc, "run"), "listens on loopback, where other containers do not reach it"))
        for word in words:
            if references(word):
                yield built.use(self._secrets.filled(word)).replace("{port}", str(PORT))
            elif has_password(word):
                built.losses.append(Finding((*loc, "run"), "the password in the command is not exported"))
                yield re.sub(r"://[^/@\s]*@", "://", word)
            else:
                yield word.replace("{port}", str(PORT))


def working_folder(deployment: Deployment, service: Service) -> str | None:
    """Return the working directory in the image, or None if the image does not have it."""
    folder = deployment.path(service.cwd or Path(deployment.file).parent)
    here = os.fspath(deployment.folder)
    if folder != here and not folder.startswith(here.rstrip("/") + "/"):
        return None
    return os.path.normpath(os.path.join(APPLICATION, os.path.relpath(folder, here)))


def wants_database(name: str, value: str) -> bool:
    """Whether a variable declares a PostgreSQL of the service: one that is given at the start, or is on the machine."""
    if not is_database_variable(name):
        return False
    return not value or (bool(_POSTGRESQL(value.partition("://")[0])) and is_loopback(_host(value)))


def _host(value: str) -> str:
    authority = value.partition("://")[2].partition("/")[0].rpartition("@")[2]
    if authority.startswith("["):
        return authority.partition("]")[0]
    return authority.partition(":")[0]
