"""A folder for Compose: nginx, gateways, services, their databases, Redis, monitoring, migrations and backups.

The gateways have fixed addresses on the network of nginx, so that nginx needs no name of a gateway that does not run,
and trusts nothing else. They find the replicas of services by DNS.

The file is longer than 400 lines because all containers refer to each other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from passerelle.config.models.addresses import Address
from passerelle.config.models.base import given
from passerelle.config.models.config import Health
from passerelle.config.models.listeners import listening_at
from passerelle.config.models.redis import parse_redis
from passerelle.config.problems import Finding
from passerelle.config.reading import yaml_tree
from passerelle.export import compose_programs as programs
from passerelle.export import monitoring, nginx_front, prometheus_rules
from passerelle.export.compose_coverage import COVERAGE
from passerelle.export.compose_networks import SUBNET, Networks
from passerelle.export.compose_programs import FRONT, MONITORING, SERVICES, after, check, http_check, service, tcp_check
from passerelle.export.config_tree import data_of, is_loopback, values_of
from passerelle.export.container_backup import backup_file
from passerelle.export.container_file import FOLDER, HOST, NAME, Addresses, container_file
from passerelle.export.container_service import (
    APPLICATION,
    PORT,
    ContainerService,
    Database,
    ServiceBuilder,
    Stack,
    wants_database,
    working_folder,
)
from passerelle.export.deployment import Deployment
from passerelle.export.dns_labels import labels
from passerelle.export.grafana_dashboard import dashboard
from passerelle.export.listener_certificate import listener_pair
from passerelle.export.moved_backup import VOLUME
from passerelle.export.secret_files import Filled, SecretFiles
from passerelle.export.yaml_text import dump

_USER = "10001:10001"  # of the images of passerelle
_NOFILE = 1024  # descriptors beside those of connections


@dataclass(frozen=True, slots=True)
class Options:
    """What the configuration does not state. ``port`` is that of nginx on the machine.

    ``databases`` maps services to the variables that have the URL of their PostgreSQL, ``migrations`` to the commands
    that prepare it.
    """

    image: str = "passerelle"
    service_image: str = "passerelle-services"
    backup_image: str = "passerelle-backup"
    gateways: int = 2
    port: int | None = None
    subnet: ipaddress.IPv4Network = SUBNET
    databases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    migrations: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of the export by their paths, with what is lost and what differs in the file of the gateways.

    ``document`` is what `compose.yaml` means.
    """

    files: Mapping[str, str]
    losses: Sequence[Finding]
    changes: Sequence[Finding]
    document: Mapping[str, Any]

    def reads_back(self) -> bool:
        """Whether `compose.yaml` means the same to a parser of YAML 1.1 and to one of YAML 1.2."""
        text = self.files["compose.yaml"]
        return (
            bool(yaml.load(text, yaml.CSafeLoader) == self.document)
            and values_of(yaml_tree.parse(text)[0]) == self.document
        )


def export(deployment: Deployment, options: Options) -> Folder:
    """Return the folder."""
    return _Export(deployment, options).folder()


class _Export:
    def __init__(self, deployment: Deployment, options: Options) -> None:
        self._deployment = deployment
        self._config = deployment.config
        self._options = options
        self._secrets = SecretFiles(deployment, FOLDER)
        self._files: dict[str, str] = {}
        self._configs: dict[str, dict[str, str]] = {}
        own = ["nginx", "redis", "prometheus", "grafana", "otel-collector", "backup", FRONT, SERVICES, MONITORING]
        self._count = options.gateways
        self._networks = Networks(options.subnet)
        self._gateways = [f"gateway-{number}" for number in range(1, self._count + 1)]
        self._port = 8443 if deployment.config.tls is not None else 8080  # of nginx in its container
        self._taken = {*own, *self._gateways, HOST}
        local = [item for item in deployment.services if item.service.is_local]
        self._labels = self._take([item.name for item in local])
        data = data_of(deployment.root)
        redis = None if self._redis_elsewhere() else self._redis_reference()
        stack = Stack(redis or self._redis_reference(), "otel-collector")
        builder = ServiceBuilder(deployment, data, self._secrets, stack)
        self._services = [builder.build(item, self._labels[item.name], self._databases(item.name)) for item in local]
        self._has_redis = redis is not None or any("redis-password" in built.secrets for built in self._services)
        addresses = Addresses(self._networks.proxy, self._labels, redis, "otel-collector")
        databases = [each for built in self._services for each in built.databases]
        self._backup = backup_file(deployment, data_of(deployment.root), self._secrets, redis, databases)
        self._gateway = container_file(deployment, data, self._secrets, addresses)

    def folder(self) -> Folder:
        """Return all files."""
        seen = self._seen()
        gateways = [
            Address(host=self._networks.gateway(number), port=seen.config.address.port) for number in range(self._count)
        ]
        front, front_losses = nginx_front.export(seen, gateways, Address(host="0.0.0.0", port=self._port))
        rules, rule_losses = prometheus_rules.export(seen)
        losses = [*self._losses(), *front_losses, *rule_losses, *self._gateway.losses, *self._backup.losses]
        changes = [*self._gateway.changes, *self._backup.changes]
        for built in self._services:
            losses += built.losses
            changes += built.changes
        self._add("gateway", f"gateway/{NAME}", self._gateway.text)
        if self._backup.text:
            self._add("backup", f"backup/{NAME}", self._backup.text)
        self._add("nginx", "nginx/nginx.conf", front)
        self._add("rules", "prometheus/passerelle.rules.yml", rules)
        document = _escaped(self._document())
        text = f"# {self._deployment.header}\n{self._about_secrets()}{dump(document)}"
        return Folder({"compose.yaml": text, **self._files}, list(dict.fromkeys(losses)), changes, document)

    def _take(self, names: Sequence[str]) -> dict[str, str]:
        """Name services of Compose; no two are the same."""
        found = labels(names, self._taken)
        self._taken |= set(found.values())
        return found

    def _redis_elsewhere(self) -> bool:
        return self._config.redis is not None and not is_loopback(self._config.redis.address.host)

    def _redis_reference(self) -> Filled:
        secret = self._secrets.introduce("redis-password", "a random word of letters and digits, the password of Redis")
        return dataclasses.replace(secret, text=f"redis://:{secret.text}@redis:6379")

    def _databases(self, name: str) -> dict[str, str]:
        """Return the variables of a service that have the URL of a PostgreSQL, with the label of each."""
        declared = [key for key, value in self._config.services[name].env.items() if wants_database(key, value)]
        given = [self._options.databases[name]] if name in self._options.databases else []
        names = list(dict.fromkeys([*given, *declared]))
        parts = ["database"] if len(names) == 1 else [f"{key.lower().replace('_', '-')}-database" for key in names]
        wanted = [f"{self._labels[name]}-{part}" for part in parts]
        return dict(zip(names, self._take(wanted).values(), strict=True))

    def _seen(self) -> Deployment:
        """Return the configuration as the containers have it, where exports for other programs differ by it."""
        changed = {
            "listen": listening_at(self._gateway.listen),
            "trusted_proxies": (self._networks.front,),
            "redis": self._config.redis or parse_redis("redis://redis"),
        }
        return self._deployment.moved(self._config.model_copy(update=changed), FOLDER)

    def _losses(self) -> Iterator[Finding]:
        yield from COVERAGE.losses(self._config)
        for item in self._deployment.services:
            instances = item.service.instances
            if instances.scales:
                why = "Compose runs a fixed number of containers; the export has the smallest number"
                yield Finding((*item.loc, "instances", "max"), why, at_key=True)
                if "target_in_flight" in instances.model_fields_set:
                    yield Finding((*item.loc, "instances", "target_in_flight"), why, at_key=True)
            if item.service.is_local and working_folder(self._deployment, item.service) is None:
                yield Finding((*item.loc, "cwd"), "the image has only the folder of the configuration", at_key=True)

    def _about_secrets(self) -> str:
        """Return comments about the secrets that have to be created."""
        wanted = [f"#   {each.source[2:]}: {each.content}\n" for each in self._secrets.all.values() if each.content]
        if not wanted:
            return ""
        about = "# Create these files first, readable for the users of containers (0444, in a folder with 0700):\n"
        return about + "".join(wanted)

    def _add(self, name: str, path: str, text: str) -> None:
        """Add a file that containers read."""
        self._files[path] = text
        self._configs[name] = {"file": f"./{path}"}

    def _document(self) -> dict[str, Any]:
        services: dict[str, Any] = {"nginx": self._nginx()}
        for number, name in enumerate(self._gateways):
            services[name] = self._gateway_service(number)
        databases: list[Database] = []
        for built in self._services:
            services |= self._of_service(built)
            databases += built.databases
        if self._has_redis:
            services["redis"] = programs.redis("redis-password")
        services |= self._monitoring()
        if self._backup.text:
            services["backup"] = self._backup_job(databases)
        for each in services.values():
            if label := self._digest(each):
                each["labels"] = label
        volumes = [
            *(["redis"] if self._has_redis else []),
            *(each.label for each in databases),
            "prometheus",
            "grafana",
        ]
        volumes += ["backups"] if self._backup.text and self._backup.to_volume else []
        front, inner = self._networks.described()
        networks: dict[str, Any] = {
            FRONT: front,
            SERVICES: inner,
            MONITORING: {},
            **{each.label: {"internal": True} for each in databases},
        }
        return {
            "services": services,
            "networks": networks,
            "volumes": {name: {} for name in volumes},
            "configs": self._configs,
            "secrets": {name: {"file": secret.source} for name, secret in self._secrets.all.items()},
        }

    def _nginx(self) -> dict[str, Any]:
        tls = self._config.tls
        port = self._options.port or (443 if tls is not None else 80)
        mounted = {"nginx": "/etc/nginx/nginx.conf"}
        secrets: dict[str, str] = {}
        if tls is not None:
            certificate, key = listener_pair(self._config)
            mounted |= self._mounts({self._deployment.path(certificate): self._deployment.path(certificate, FOLDER)})
            secrets = self._places({self._secrets.mounted(key)})
        return service(
            programs.IMAGES["nginx"],
            "101:101",
            cpus=1,
            memory=256,
            networks={FRONT: {"ipv4_address": self._networks.proxy}},
            files=mounted,
            secrets=secrets,
            writable=["/run", "/var/cache/nginx"],
            ports=[f"{port}:{self._port}"],
            ulimits=self._descriptors(),
            healthcheck=check("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{self._port}"),
            depends_on=after(started=self._gateways),
            stop_grace_period="30s",
        )

    def _gateway_service(self, number: int) -> dict[str, Any]:
        made, config = self._gateway, self._config
        run = "up" if config.workers > 1 else "gateway"
        networks: dict[str, Any] = {
            FRONT: {"ipv4_address": self._networks.gateway(number)},
            SERVICES: {"ipv4_address": self._networks.inner(number)},
            MONITORING: {},
        }
        more: dict[str, Any] = {"environment": _passed(made.variables)} if made.variables else {}
        if made.uses_host:
            more["extra_hosts"] = [f"{HOST}:host-gateway"]
        needed = {"healthy": ["redis"]} if self._has_redis else {}
        if needed or self._services:
            more["depends_on"] = after(**needed, started=[built.label for built in self._services])
        health = http_check(made.admin, "/readyz") if made.admin is not None else tcp_check(made.listen.port)
        return service(
            self._options.image,
            _USER,
            cpus=config.workers,
            memory=(128 + config.cache.memory // (1 << 20)) * config.workers + (64 if run == "up" else 0),
            networks=networks,
            files={"gateway": f"{FOLDER}/{NAME}", **self._mounts(made.mounts)},
            secrets=self._places(made.secrets),
            writable=["/tmp"],  # noqa: S108 - a place in the container
            command=["passerelle", run, f"{FOLDER}/{NAME}"],
            init=True,
            ulimits=self._descriptors(),
            healthcheck=health,
            stop_grace_period="30s",
            **more,
        )

    def _of_service(self, built: ContainerService) -> dict[str, Any]:
        """Return a service, its databases, and the migration that runs before it."""
        own: dict[str, Any] = {each.label: programs.postgres(each) for each in built.databases}
        healthy = [each.label for each in built.databases]
        found = built.service
        environment = {
            "HOST": "0.0.0.0",
            "PORT": str(PORT),
            "PASSERELLE_SERVICE": built.exported.name,
            "FORWARDED_ALLOW_IPS": ",".join(self._networks.inner(number) for number in range(self._count)),
            **built.plain,
            **_passed(built.variables),
        }
        common: dict[str, Any] = {
            "networks": [SERVICES, *healthy],
            "secrets": self._places(built.secrets),
            "writable": ["/tmp"],  # noqa: S108
            "environment": environment,
            "working_dir": working_folder(self._deployment, found) or APPLICATION,
            "init": True,
        }
        completed = []
        if (words := self._options.migrations.get(built.exported.name)) is not None:
            (name,) = self._take([f"{built.label}-migrate"]).values()
            completed = [name]
            own[name] = service(
                self._options.service_image,
                _USER,
                cpus=1,
                memory=512,
                **common,
                command=built.command(list(words)),
                restart="on-failure:5",
                depends_on=after(healthy=healthy),
            )
        own[built.label] = service(
            self._options.service_image,
            _USER,
            cpus=1,
            memory=512,
            **common,
            command=built.command(built.words),
            deploy={"replicas": found.instances.min},
            healthcheck=_health(found.health),
            depends_on=after(
                healthy=[*healthy, *(["redis"] if "redis-password" in built.secrets else [])],
                completed_successfully=completed,
            ),
            stop_grace_period=f"{math.ceil((found.grace or 10) + 5)}s",
        )
        return own

    def _monitoring(self) -> dict[str, Any]:
        made = self._gateway
        folder = "/etc/prometheus"
        self._secrets.introduce("grafana-password", "the password of the user admin of Grafana")
        admin = made.admin
        metrics = [f"{name}:{admin}" for name in self._gateways] if admin is not None else []
        token = self._secrets[made.token] if made.token is not None else None
        rules = f"{folder}/passerelle.rules.yml"
        text = monitoring.prometheus(self._deployment, metrics, token.target if token is not None else "", rules)
        self._add("prometheus", "prometheus/prometheus.yml", text)
        source, provider = "/etc/grafana/provisioning/datasources", "/etc/grafana/provisioning/dashboards"
        dashboards = "/etc/passerelle/dashboards"
        text = monitoring.grafana_source(self._deployment, "http://prometheus:9090")
        self._add("grafana-source", "grafana/datasources.yml", text)
        self._add(
            "grafana-provider", "grafana/dashboards.yml", monitoring.grafana_provider(self._deployment, dashboards)
        )
        self._add("grafana-dashboard", "grafana/passerelle.json", dashboard(self._deployment))
        text = monitoring.collector(self._deployment, programs.COLLECTOR_MEMORY)
        self._add("otel-collector", "otel-collector/config.yaml", text)
        return {
            "prometheus": programs.prometheus(
                {"prometheus": f"{folder}/prometheus.yml", "rules": rules},
                {token.name: token.target} if token is not None else {},
                after(started=self._gateways),
            ),
            "grafana": programs.grafana(
                {
                    "grafana-source": f"{source}/passerelle.yml",
                    "grafana-provider": f"{provider}/passerelle.yml",
                    "grafana-dashboard": f"{dashboards}/passerelle.json",
                },
                "grafana-password",
            ),
            "otel-collector": programs.collector("otel-collector"),
        }

    def _backup_job(self, databases: Sequence[Database]) -> dict[str, Any]:
        """The job of backups: `docker compose run --rm backup`, which the machine runs at its times."""
        made = self._backup
        more: dict[str, Any] = {"environment": _passed(made.variables)} if made.variables else {}
        healthy = [*(["redis"] if "redis-password" in made.secrets else []), *(each.label for each in databases)]
        if healthy:
            more["depends_on"] = after(healthy=healthy)
        if made.to_volume:
            more["volumes"] = [f"backups:{VOLUME}"]
        return service(
            self._options.backup_image,
            _USER,
            cpus=1,
            memory=512,
            networks=[SERVICES, *(each.label for each in databases)],
            files={"backup": f"{FOLDER}/{NAME}"},
            secrets=self._places(made.secrets),
            writable=["/tmp"],  # noqa: S108
            command=["passerelle", "backup", f"{FOLDER}/{NAME}"],
            profiles=["backup"],
            restart="no",
            init=True,
            **more,
        )

    def _mounts(self, mounts: Mapping[str, str]) -> dict[str, str]:
        """Add files of the configuration; return names of configs with their places."""
        names = {source: f"file.{label}" for source, label in labels(sorted(self._gateway.mounts)).items()}
        for source in mounts:
            self._configs[names[source]] = {"file": source}
        return {names[source]: target for source, target in sorted(mounts.items())}

    def _places(self, names: set[str]) -> dict[str, str]:
        return {name: self._secrets[name].target for name in sorted(names)}

    def _descriptors(self) -> dict[str, int]:
        return {"nofile": max(65536, 2 * self._config.limits.connections + _NOFILE)}

    def _digest(self, described: Mapping[str, Any]) -> dict[str, str]:
        """Return a label that changes with the files that a service reads, so that Compose replaces its containers."""
        paths = [self._configs[each["source"]]["file"].removeprefix("./") for each in described.get("configs", ())]
        known = [self._files[path] for path in paths if path in self._files]
        return {"passerelle.digest": hashlib.sha256("\0".join(known).encode()).hexdigest()[:16]} if known else {}


def _health(health: Health | None) -> dict[str, Any]:
    """Return the check of an instance: by HTTP if the status alone decides, otherwise by a connection."""
    if health is None or given(health) - {"path", "timeout", "interval", "rise", "fall"}:
        return tcp_check(PORT)
    return http_check(PORT, health.path)


def _passed(variables: set[str]) -> dict[str, None]:
    """Pass variables on: without a value, Compose takes that of its own environment, or sets none."""
    return dict.fromkeys(sorted(variables))


def _escaped(value: Any) -> Any:
    """Double all dollar signs: Compose replaces variables in each value."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value
