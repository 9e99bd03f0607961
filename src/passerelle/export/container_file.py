"""The file of a gateway in a container: the same configuration with the addresses, stores and secrets of containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from passerelle.config.models.addresses import Address, Lookup
from passerelle.config.models.config import Config
from passerelle.config.problems import Finding, Loc
from passerelle.export.config_tree import at, files, is_loopback, put, texts
from passerelle.export.container_service import PORT
from passerelle.export.deployment import Deployment
from passerelle.export.listener_certificate import listener_pair
from passerelle.export.moved_file import (
    FRESH,
    LOCAL_KEYS,
    admin_section,
    is_local_log,
    listen_port,
    loopback_targets,
    loopback_urls,
    with_targets,
    without_backups,
)
from passerelle.export.secret_files import Filled, SecretFiles
from passerelle.export.yaml_text import Written, dump

FOLDER = Path("/etc/passerelle")
"""Where containers have the file."""
NAME = "gateway.yaml"
HOST = "host.docker.internal"
"""The machine that runs the containers, as they see it."""

_ONE_REFERENCE = re.compile(r"\$\{[^{}]*\}").fullmatch


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the file refers to: the proxy in front, the services by their names, Redis, the collector of traces.

    ``redis`` is None if the file names one on another machine.
    """

    proxy: str
    services: Mapping[str, str]
    redis: Filled | None
    collector: str


@dataclass(slots=True)
class ContainerFile:
    """The file and what it needs. ``token`` is the name of the secret with the token of the admin port.

    ``mounts`` maps places of files on the host to places in the container.
    """

    text: str = ""
    listen: Address = field(default_factory=lambda: Address(host="0.0.0.0", port=8080))
    admin: int | None = None
    token: str | None = None
    secrets: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    mounts: dict[str, str] = field(default_factory=dict)
    uses_host: bool = False
    losses: list[Finding] = field(default_factory=list)
    changes: list[Finding] = field(default_factory=list)


def container_file(
    deployment: Deployment, data: dict[str, Any], secrets: SecretFiles, known: Addresses
) -> ContainerFile:
    """Make the file from ``data``, the text of the configuration as data, which is changed."""
    return _Maker(deployment, data, secrets, known).make()


def redis_url(config: Config, server: str) -> str:
    """Return the URL of the gateways' database in Redis. ``server`` is the URL without a database."""
    database = config.redis.url.rpartition("/")[2] if config.redis is not None else "0"
    return f"{server}/{database}"


class _Maker:
    def __init__(self, deployment: Deployment, data: dict[str, Any], secrets: SecretFiles, known: Addresses) -> None:
        self._deployment = deployment
        self._config = deployment.config
        self._data = data
        self._secrets = secrets
        self._known = known
        self._made = ContainerFile()

    def make(self) -> ContainerFile:
        """Change the data: references first, because later ones are those of the export itself."""
        if without_backups(self._data):
            self._made.changes.append(Finding(("backup",), "now in the file of the backup job", at_key=True))
        self._tls()
        self._references()
        self._listen()
        self._admin()
        self._shared()
        for name in self._config.services:
            self._service(name)
        self._hosts()
        self._literal_secrets()
        self._files()
        header = f"# {self._deployment.header}\n# For containers: `passerelle export compose` lists what it changed.\n"
        self._made.text = header + dump(self._data)
        return self._made

    def _set(self, key: str, value: object, shown: str) -> None:
        """Set a key of the file, and report it."""
        self._made.changes.append(Finding((key,), f"now {shown}" if key in self._data else f"added: {shown}"))
        self._data[key] = value

    def _use(self, filled: Filled) -> str:
        self._made.secrets |= filled.secrets
        self._made.variables |= filled.variables
        return filled.text

    def _lose(self, loc: Loc, why: str) -> None:
        self._made.losses.append(Finding(loc, why, at_key=True))

    def _listen(self) -> None:
        port = listen_port(self._config, 8080 if self._config.tls is None else 8443)
        self._made.listen = Address(host="0.0.0.0", port=port)
        self._set("listen", str(self._made.listen), str(self._made.listen))
        proxies = self._data.get("trusted_proxies", [])
        proxies = proxies if isinstance(proxies, list) else [proxies]
        self._set("trusted_proxies", [*proxies, self._known.proxy], f"with {self._known.proxy}, the address of nginx")
        if is_local_log(self._config):
            self._set("access_log", "stdout", "stdout")
        for key in ("user", "group"):
            self._data.pop(key, None)

    def _tls(self) -> None:
        """Have gateways use the files of another ACME client: behind nginx, they cannot order certificates."""
        tls = self._config.tls
        if tls is None or tls.pair is not None:
            return
        certificate, key = listener_pair(self._config)
        written = self._data["tls"]
        kept = {name: value for name, value in written.items() if name != "auto"} if isinstance(written, dict) else {}
        files = {"certificate": str(certificate), "key": str(key)}
        self._set("tls", files | kept, f"with the files {certificate} and {key}")
        self._made.secrets.add(self._secrets.mounted(key))
        self._made.mounts[self._deployment.path(certificate)] = self._deployment.path(certificate, FOLDER)

    def _admin(self) -> None:
        found = admin_section(self._config, self._data.get("admin"), self._made.listen.port)
        if found is None:
            return
        section, port = found
        written = str(section.get("token", ""))
        if _ONE_REFERENCE(written) and ":-" not in written:
            filled = self._secrets.filled(written)
        else:
            filled = self._secrets.introduce("admin-token", "the token of the admin port, at least 16 characters")
        section["token"] = self._use(filled)
        (self._made.token,) = filled.secrets
        self._made.admin = port
        self._set("admin", section, f"0.0.0.0:{port} with the token {filled.text}")

    def _shared(self) -> None:
        """Change what gateways share: Redis, the stores in it, the collector; and how they resolve names."""
        if self._known.redis is not None:
            url = redis_url(self._config, self._use(self._known.redis))
            self._set("redis", url, url)
        for key in ("keys", "sessions"):
            section = getattr(self._config, key)
            if section is not None and isinstance(section.store, Path):
                self._data[key]["store"] = "redis"
                self._made.changes.append(Finding((key, "store"), "now redis"))
                if key == "keys":
                    self._lose((key, "store"), "its keys are not in Redis: copy them with `passerelle keys import`")
        if self._config.sessions is not None and self._config.sessions.insecure:
            del self._data["sessions"]["insecure"]
            why = "needs a loopback address; without it, browsers send cookies over TLS only"
            self._lose(("sessions", "insecure"), why)
        self._tracing()
        section = dict(self._data.get("dns") or {})
        server = self._config.dns.server
        if server is not None and is_loopback(server.host):
            del section["server"]
            self._lose(("dns", "server"), "in a container, this address is the container itself; its own DNS is used")
        if "max_ttl" not in section and any(item.service.is_local for item in self._deployment.services):
            section["max_ttl"] = section.get("min_ttl", Written(FRESH))
        if section != (self._data.get("dns") or {}):
            self._set("dns", section, ", ".join(f"{key}: {value}" for key, value in section.items()))

    def _tracing(self) -> None:
        tracing = self._config.tracing
        endpoint = f"http://{self._known.collector}:4318/v1/traces"
        if tracing is None:
            self._set("tracing", {"endpoint": endpoint}, f"to {endpoint}")
        elif is_loopback(urlsplit(tracing.endpoint).hostname or ""):
            self._data["tracing"]["endpoint"] = endpoint
            self._made.changes.append(Finding(("tracing", "endpoint"), f"now {endpoint}"))

    def _service(self, name: str) -> None:
        if self._config.services[name].is_local:
            target = f"dns+http://{self._known.services[name]}:{PORT}"
            self._data["services"][name] = with_targets(self._data["services"][name], target)
            self._made.changes.append(Finding(("services", name), f"now targets: [{target}]", at_key=True))
            return
        for loc, url in loopback_targets(self._config, name):
            self._on_host(loc, url)

    def _on_host(self, place: Loc, url: Address) -> None:
        """Refer to an instance on the machine that runs the containers."""
        inside = (*place, "url") if isinstance(at(self._data, place), dict) else place
        if url.is_socket:
            self._made.losses.append(Finding(inside, "containers do not reach a Unix socket of this machine"))
            return
        moved = Address(host=HOST, port=url.port, secure=url.secure, path=url.path).url
        put(self._data, inside, moved)
        self._made.uses_host = True
        kind = "name" if isinstance(url, Lookup) else "address"
        why = f"containers do not reach this {kind}; the export has {HOST}, where the instance must listen as well"
        self._made.losses.append(Finding(inside, why))

    def _literal_secrets(self) -> None:
        """Replace secrets that stand in the file by references."""
        for loc, secret in self._secrets.replace_literals(self._data):
            self._made.changes.append(Finding(loc, f"now {self._use(secret)}"))

    def _references(self) -> None:
        """Replace references to variables by references to secrets, in what stays in the file."""
        before = dict(texts(self._data))
        for loc, filled in self._secrets.replace_references(self._data, self._is_replaced):
            if self._use(filled) != before[loc]:
                self._made.changes.append(Finding(loc, f"now {filled.text}"))

    def _is_replaced(self, loc: Loc) -> bool:
        """Whether another text takes the place of the one at ``loc``."""
        local = loc[0] == "services" and len(loc) > 2 and loc[2] in LOCAL_KEYS
        return local or loc == ("admin", "token") or (loc == ("redis",) and self._known.redis is not None)

    def _hosts(self) -> None:
        """Report other addresses of the machine itself."""
        for loc in loopback_urls(self._config):
            if loc[0] != "tracing":
                self._lose(loc, "in a container, this address is the container itself")

    def _files(self) -> None:
        """List the files that the file names by keys. Private keys are secrets."""
        for loc, path in files(self._config.model_copy(update={"backup": None})):
            if loc[-1] in ("store", "access_log", "cwd") or loc[:2] == ("tls", "auto"):
                continue
            if loc[-1] == "key" and loc[0] != "jwt":
                self._made.secrets.add(self._secrets.mounted(path))
            else:
                self._made.mounts[self._deployment.path(path)] = self._deployment.path(path, FOLDER)
