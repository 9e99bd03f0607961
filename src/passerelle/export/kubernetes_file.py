"""The file of the gateway for a cluster: the same configuration with addresses, stores and secrets of the cluster."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passerelle.config.models.addresses import Lookup
from passerelle.config.problems import Finding, Loc, key_of
from passerelle.config.reading.substitute import references
from passerelle.export.config_tree import at, data_of, files, is_loopback, put, texts
from passerelle.export.deployment import Deployment
from passerelle.export.dns_labels import labels
from passerelle.export.moved_backup import moved_backup
from passerelle.export.moved_file import (
    FRESH,
    admin_section,
    is_local_log,
    listen_port,
    literal_secrets,
    loopback_targets,
    loopback_urls,
    with_targets,
    without_backups,
)
from passerelle.export.yaml_text import Written, dump

SECRETS_FOLDER = "/run/secrets/passerelle"
"""Where the keys of a Secret with files are files."""
GATEWAY = "gateway"
"""The beginning of names of what the gateways have."""
BACKUP = "gateway-backup"
"""The beginning of names of what the job of backups has."""
SERVICE_PORT = 5000
"""The port of each instance of a service."""

_REFERENCE = re.compile(r"\$(?:\$|\{file:([^{}]*)\})")


@dataclass(frozen=True, slots=True)
class Secret:
    """A key of a Secret with files. ``origin`` describes where its value is now, without the value."""

    key: str
    origin: str
    value: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """The file and what it needs.

    ``name`` is the beginning of the names of its ConfigMap and of its Secrets. ``listen`` and ``admin`` are ports;
    ``credentials`` are the Secret with the token of the admin port, and its key there. ``variables`` maps names to
    whether they have a default.
    """

    name: str
    text: str
    listen: int
    admin: int | None
    credentials: tuple[str, str] | None
    variables: dict[str, bool]
    secrets: tuple[Secret, ...]
    losses: tuple[Finding, ...]

    @property
    def config(self) -> str:
        """The name of the ConfigMap with the file."""
        return f"{self.name}-config"

    @property
    def env(self) -> str:
        """The name of the Secret with the variables of the file."""
        return f"{self.name}-env"

    @property
    def files(self) -> str:
        """The name of the Secret with the files that the file refers to."""
        return f"{self.name}-files"


@dataclass(frozen=True, slots=True)
class ClusterBackup:
    """The file of the job of backups; None if there is nothing to back up. ``to_volume``: it writes to a volume."""

    file: ClusterFile | None
    to_volume: bool
    losses: tuple[Finding, ...]


def cluster_file(deployment: Deployment, hosts: dict[str, str], redis: str | None) -> ClusterFile:
    """Make the file. ``hosts`` has the name of the Service for each service that passerelle would start."""
    return _Maker(deployment, hosts, redis).make()


def backup_file(deployment: Deployment, redis: str | None) -> ClusterBackup:
    """Make the file of the job of backups."""
    return _Maker(deployment, {}, redis).make_backup()


class _Maker:
    def __init__(self, deployment: Deployment, hosts: dict[str, str], redis: str | None) -> None:
        self._deployment = deployment
        self._config = deployment.config
        self._hosts = hosts
        self._redis = redis
        data = data_of(deployment.root)
        assert isinstance(data, dict)
        self._data: dict[str, Any] = data
        self._changed: list[str] = []
        self._losses: list[Finding] = []
        self._secrets: dict[str, tuple[str, Callable[[], str | None]]] = {}  # name: (origin, value)
        # Places that become a secret, by its name: its path, or a reference to its content.
        self._places: dict[Loc, tuple[str, bool]] = {}

    def make(self) -> ClusterFile:
        """Change the data in the order of the file."""
        without_backups(self._data)
        listen, admin = self._listeners()
        self._limits()
        self._log_and_stores()
        self._servers()
        for name in self._config.services:
            self._service(name)
        self._literal_secrets()
        self._files()
        keys = self._secret_keys()
        credentials = self._credentials() if admin is not None else None
        changed = f"# Changed for the cluster: {', '.join(self._changed)}\n"
        return self._file(GATEWAY, changed, keys, listen, admin, credentials)

    def make_backup(self) -> ClusterBackup:
        """Change what concerns backups, and leave the rest out."""
        redis = self._redis
        if redis is None and self._config.redis is not None:
            redis = self._data["redis"]
        moved = moved_backup(self._deployment, self._data, redis=redis, beside={})
        self._losses += moved.losses
        if moved.is_empty:
            why = "--backup has nothing to back up that a pod reaches: name databases here, or keep keys in Redis"
            return ClusterBackup(None, False, (*self._losses, Finding(("backup", "databases"), why, at_key=True)))
        self._data = moved.data
        if not moved.data["backup"]["databases"]:
            del moved.data["backup"]["databases"]
        self._literal_secrets()
        self._files()
        file = self._file(BACKUP, "# For the job of backups.\n", self._secret_keys())
        return ClusterBackup(file, moved.to_volume, file.losses)

    def _file(
        self,
        name: str,
        comment: str,
        keys: dict[str, str],
        listen: int = 0,
        admin: int | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> ClusterFile:
        secrets = tuple(Secret(keys[name], *of) for name, of in sorted(self._secrets.items()))
        text = f"# {self._deployment.header}\n{comment}{dump(self._data)}"
        losses = tuple(self._losses)
        return ClusterFile(name, text, listen, admin, credentials, self._variables(), secrets, losses)

    def _lose(self, loc: Loc, why: str) -> None:
        self._losses.append(Finding(loc, why, at_key=True))

    def _set(self, key: str, value: object) -> None:
        self._data[key] = value
        self._changed.append(key)

    def _listeners(self) -> tuple[int, int | None]:
        port = listen_port(self._config)
        self._set("listen", f"0.0.0.0:{port}")
        if self._data.pop("tls", None) is not None:
            self._changed.append("tls")
        found = admin_section(self._config, self._data.get("admin"), port)
        if found is None or self._config.admin is None:
            self._lose(("admin",), "without it, readiness is only a connection, and there is no ServiceMonitor")
            return port, None
        section, admin = found
        if self._config.admin.token is None:
            self._introduce(("admin", "token"), "a new token of at least 16 characters", "x" * 32)
            section["token"] = ""
        self._set("admin", section)
        return port, admin

    def _limits(self) -> None:
        """Remove the limit that would apply to the proxies of the Gateway."""
        section = self._data.get("limits", {})
        if section.pop("connections_per_address", None) is not None:
            self._changed.append("limits.connections_per_address")
            if not section:
                del self._data["limits"]

    def _credentials(self) -> tuple[str, str] | None:
        """Return the Secret and the key with the token of the admin port, for Prometheus."""
        token = str(self._data["admin"]["token"])
        (inside, *more) = references(token)
        if not more and token == f"${{{inside}}}" and ":-" not in inside:
            path = inside.removeprefix("file:")
            return (f"{GATEWAY}-env", inside) if path == inside else (f"{GATEWAY}-files", path.rpartition("/")[2])
        self._lose(("admin", "token"), "Prometheus needs it as one reference, without text around it and a default")
        return None

    def _log_and_stores(self) -> None:
        for key in ("user", "group"):
            if self._data.pop(key, None) is not None:
                self._changed.append(key)
        if is_local_log(self._config):
            self._lose(("access_log",), "a pod has no files and sockets of a machine; the log goes to standard output")
            del self._data["access_log"]
            self._changed.append("access_log")
        for key in ("keys", "sessions"):
            section = getattr(self._config, key)
            if section is None or not isinstance(section.store, Path):
                continue
            shared = self._config.redis is not None or self._redis is not None
            other = "the export has `store: redis`" if shared else "set `redis`, and leave `store` out"
            self._lose((key, "store"), f"a pod keeps no files, and pods share none; {other}")
            self._data[key]["store"] = "redis" if shared else f"/tmp/{key}.db"  # noqa: S108 - a volume of the pod
            self._changed.append(f"{key}.store")
        if self._config.sessions is not None and self._config.sessions.insecure:
            why = "a pod listens beyond loopback: cookies are `Secure`, so clients need https"
            self._lose(("sessions", "insecure"), why)
            del self._data["sessions"]["insecure"]
            self._changed.append("sessions.insecure")

    def _servers(self) -> None:
        """Change the addresses of Redis and of the DNS server, and report others that a pod does not reach."""
        redis = self._config.redis
        if self._redis is not None:
            self._set("redis", self._redis)
        elif redis is not None and is_loopback(redis.address.host) and not self._deployment.refers(("redis",)):
            self._lose(("redis",), "a pod has no Redis of its own; give its address in the cluster with --redis")
        section = self._data.get("dns", {})
        if section.pop("server", None) is not None:
            self._changed.append("dns.server")
        if self._hosts and "max_ttl" not in section:
            section["max_ttl"] = FRESH
            if self._config.dns.min_ttl > 5.0:
                section["max_ttl"] = section["min_ttl"]
            self._changed.append("dns.max_ttl")
        if section:
            self._data["dns"] = section
        else:
            self._data.pop("dns", None)
        for loc in loopback_urls(self._config):
            if not self._deployment.refers(loc):
                self._lose(loc, "a loopback address is the pod itself")

    def _service(self, name: str) -> None:
        if name in self._hosts:
            target = f"dns+http://{self._hosts[name]}:{SERVICE_PORT}"
            self._data["services"][name] = with_targets(self._data["services"][name], target)
            self._changed.append(key_of(("services", name)))
            return
        for loc, url in loopback_targets(self._config, name):
            if not isinstance(url, Lookup):
                self._losses.append(Finding(loc, "a pod does not reach an instance on the machine of the gateway"))

    def _literal_secrets(self) -> None:
        """Replace secrets that are in the file by references."""
        for loc, text in literal_secrets(self._data):
            if loc in self._places or (loc == ("redis",) and self._redis is not None):
                continue
            self._introduce(loc, f"the value of {key_of(loc)}", None if references(text) else text.replace("$$", "$"))
            self._changed.append(key_of(loc))
            self._lose(loc, "the secret in the file is not exported; the export refers to a key of a Secret")

    def _files(self) -> None:
        """Replace the files that the file names by those of a Secret."""
        for loc, path in files(self._config):
            if self._holds(loc) and loc[0] != "access_log" and loc[-1] not in ("store", "file", "cwd", "to"):
                name = self._relative(path)
                self._secrets[name] = (f"the file {name}", _constant(None))
                self._places[loc] = (name, True)
                self._changed.append(key_of(loc))
        for loc, text in texts(self._data):
            for path_text in (found[1] for found in _REFERENCE.finditer(text) if found[1] is not None):
                here = Path(self._deployment.file).parent / path_text
                name = self._relative(here)
                self._secrets[name] = (f"the file {name}", functools.partial(_read, here))
                self._changed.append(key_of(loc))

    def _introduce(self, loc: Loc, origin: str, value: str | None) -> None:
        """Make a value a secret. Its name is no path: those do not end with a slash."""
        name = f"value-of-{key_of(loc)}/"
        self._secrets[name] = (origin, _constant(value))
        self._places[loc] = (name, False)

    def _holds(self, loc: Loc) -> bool:
        return at(self._data, loc) is not None

    def _relative(self, path: Path) -> str:
        """Return a file relative to the folder of the configuration, where it is below it."""
        here = Path(self._deployment.file).parent
        return os.path.normpath(path.relative_to(here) if path.is_relative_to(here) else path)

    def _secret_keys(self) -> dict[str, str]:
        """Write the references. Return the keys of the Secret by the names of the secrets."""
        keys = labels(sorted(self._secrets))
        folder = Path(self._deployment.file).parent

        def refer(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0]
            return f"${{file:{SECRETS_FOLDER}/{keys[self._relative(folder / match[1])]}}}"

        for loc, text in list(texts(self._data)):
            if _REFERENCE.search(text):
                changed = _REFERENCE.sub(refer, text)
                put(self._data, loc, changed if not isinstance(at(self._data, loc), Written) else Written(changed))
        for loc, (name, is_path) in self._places.items():
            place = f"{SECRETS_FOLDER}/{keys[name]}"
            put(self._data, loc, place if is_path else f"${{file:{place}}}")
        return keys

    def _variables(self) -> dict[str, bool]:
        """Return the variables of the file that is left, and whether each has a default everywhere."""
        found: dict[str, bool] = {}
        for _, text in texts(self._data):
            for inside in references(text):
                if not inside.startswith("file:"):
                    name, default, _ = inside.partition(":-")
                    found[name] = found.get(name, True) and bool(default)
        return dict(sorted(found.items()))


def _constant(value: str | None) -> Callable[[], str | None]:
    return lambda: value


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
