"""Pods of the export to Kubernetes: the gateway, the instances of services, and jobs."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from passerelle.appserver.main import GRACE
from passerelle.appserver.options import ServerOptions
from passerelle.config.models.base import given
from passerelle.config.models.config import Config, Health, Service
from passerelle.config.reading.substitute import references
from passerelle.export.config_tree import at, data_of
from passerelle.export.deployment import Deployment
from passerelle.export.kubernetes_file import SECRETS_FOLDER, SERVICE_PORT, ClusterFile
from passerelle.export.secret_places import may_be_secret

Manifest = dict[str, Any]

CONFIG_FOLDER = "/etc/passerelle"
CONFIG_FILE = "gateway.yaml"
USER = 10001
"""The user and group of all processes, without an account."""

_GATEWAY_DRAIN = 5  # seconds until no proxy sends requests to a pod that ends
_GATEWAY_STOP = 20.0  # passerelle needs at most 10 s for requests and 10 s for its processes
_DISCOVERY = 5.0  # seconds for which the DNS of the cluster keeps an address
_MARGIN = 5
_WORD = "PASSERELLE_WORD_"  # and the place of a word in its command: a variable with that word
_MIB = 2**20
_PROBE_FIELD = re.compile(r"[-A-Za-z0-9]+").fullmatch


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the export. ``service_images`` has the image of a service, under "" that of all others."""

    image: str
    service_images: Mapping[str, str] = field(default_factory=dict)
    gateways: int = 2
    namespace: str | None = None
    gateway_class: str = "default"
    ingress: str | None = None
    redis: str | None = None
    scale_by: str = "in-flight"
    migrations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    backup: str | None = None
    backup_image: str = "passerelle-backup"
    monitoring: str = "monitoring"

    def image_of(self, service: str) -> str:
        """Return the image of a service."""
        return self.service_images.get(service) or self.service_images.get("") or self.image


@dataclass(frozen=True, slots=True)
class Workload:
    """A service that the cluster runs.

    ``env`` has the texts of its variables before substitution, ``words`` those of `run`; ``folder`` is its working
    directory in the image. ``plain_health``: its health check comes from the file alone.
    """

    name: str
    label: str
    service: Service
    env: dict[str, str]
    words: tuple[str, ...]
    folder: str
    plain_health: bool


def literal(text: str) -> str:
    """Write a word of a command or the value of a variable: Kubernetes replaces `$(NAME)` in it, and `$$` is `$`."""
    return text.replace("$", "$$")


def labels_of(name: str, component: str) -> dict[str, str]:
    """Return the labels of a workload."""
    return selector_of(name) | {"app.kubernetes.io/component": component}


def selector_of(name: str) -> dict[str, str]:
    """Return the labels that select the pods of a workload."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "passerelle"}


def manifest(api: str, kind: str, name: str, component: str = "gateway", **rest: Any) -> Manifest:
    """Return a resource with the labels of its workload: the gateway, or what has its name."""
    workload = "gateway" if component == "gateway" else name
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "labels": labels_of(workload, component)},
        **rest,
    }


def pod(
    name: str,
    component: str,
    container: Manifest,
    volumes: Iterable[Manifest] = (),
    annotations: Mapping[str, str] | None = None,
    **spec: object,
) -> Manifest:
    """Return the template of a pod with one container, which runs with few rights."""
    metadata: Manifest = {"labels": labels_of(name, component)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    mounts = [*container.pop("volumeMounts", ()), {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    return {
        "metadata": metadata,
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **spec,
            "containers": [
                {
                    **container,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": mounts,
                }
            ],
            "volumes": [*volumes, {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        },
    }


def spread(name: str) -> list[Manifest]:
    """Return the rule that spreads the pods of a workload over the nodes."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector_of(name)},
        }
    ]


def gateway_pod(config: Config, file: ClusterFile, options: Options, digest: str) -> Manifest:
    """Return the template of the gateway's pods. ``digest`` is that of the file, so that a change replaces them."""
    ports = [{"name": "http", "containerPort": file.listen}]
    if file.admin is not None:
        ports.append({"name": "admin", "containerPort": file.admin})
        live, ready = _page("/healthz"), _page("/readyz")
    else:
        live = ready = {"tcpSocket": {"port": "http"}}
    memory = 256 + config.workers * (128 + math.ceil(config.cache.memory / _MIB))
    container = {
        "name": "gateway",
        "image": options.image,
        "command": ["passerelle", "up", f"{CONFIG_FOLDER}/{CONFIG_FILE}"],
        "ports": ports,
        "env": environment(file),
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**live, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": _GATEWAY_DRAIN}}},
        "resources": {
            "requests": {"cpu": f"{500 * config.workers}m", "memory": f"{memory}Mi"},
            "limits": {"memory": f"{memory}Mi"},
        },
        "volumeMounts": config_mounts(file),
    }
    return pod(
        "gateway",
        "gateway",
        container,
        config_volumes(file),
        {"passerelle/config-sha256": digest},
        terminationGracePeriodSeconds=_seconds(_GATEWAY_DRAIN + _GATEWAY_STOP) + _MARGIN,
        topologySpreadConstraints=spread("gateway"),
    )


def environment(file: ClusterFile) -> list[Manifest]:
    """Return the variables that the file refers to, as references to a Secret."""
    found = [
        {"name": name, "valueFrom": {"secretKeyRef": _key(file.env, name, optional)}}
        for name, optional in file.variables.items()
    ]
    return [*found, {"name": "HOME", "value": "/tmp"}]  # noqa: S108 - a volume of the pod


def config_mounts(file: ClusterFile) -> list[Manifest]:
    """Return the mounts of the file and of its secrets."""
    mounts = [{"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}]
    if file.secrets:
        mounts.append({"name": "secrets", "mountPath": SECRETS_FOLDER, "readOnly": True})
    return mounts


def config_volumes(file: ClusterFile) -> list[Manifest]:
    """Return the volumes of :func:`config_mounts`."""
    volumes: list[Manifest] = [{"name": "config", "configMap": {"name": file.config}}]
    if file.secrets:
        items = [{"key": secret.key, "path": secret.key} for secret in file.secrets]
        volumes.append({"name": "secrets", "secret": {"secretName": file.files, "defaultMode": 0o440, "items": items}})
    return volumes


def service_pod(workload: Workload, options: Options, fresh: float) -> Manifest:
    """Return the template of the pods of a service.

    ``fresh`` is the time for which the gateway uses the addresses of a name, in seconds.
    """
    service, label = workload.service, workload.label
    drain = _seconds(fresh + _DISCOVERY)
    container = {
        "name": "service",
        "image": options.image_of(workload.name),
        "command": list(command_of(workload)),
        "workingDir": workload.folder,
        "ports": [{"name": "http", "containerPort": SERVICE_PORT}],
        "env": service_environment(workload),
        # Further variables, such as those that passerelle itself would be started with.
        "envFrom": [{"secretRef": {"name": f"{label}-env", "optional": True}}],
        "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": _readiness(service.health if workload.plain_health else None),
        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"sleep": {"seconds": drain}}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    }
    return pod(
        label,
        "service",
        container,
        terminationGracePeriodSeconds=drain + _seconds(GRACE if service.grace is None else service.grace) + _MARGIN,
        topologySpreadConstraints=spread(label),
    )


def run_words(deployment: Deployment, service: str) -> list[str]:
    """Return the words of `run` as they are written, before substitution."""
    found = at(data_of(deployment.root), ("services", service, "run"))
    return shlex.split(found) if isinstance(found, str) else [str(word) for word in found]


def secret_words(workload: Workload) -> dict[str, str]:
    """Return the words of a command that may be secrets, by the variables that have them in the pod."""
    return {f"{_WORD}{index}": word for index, word in enumerate(workload.words) if is_reference("", word)}


def command_of(workload: Workload) -> Iterator[str]:
    """Yield the command of an instance, which listens on all addresses of its pod."""
    service = workload.service
    if service.app is None:
        for index, word in enumerate(workload.words):
            if is_reference("", word):
                yield f"$({_WORD}{index})"
            else:
                yield literal(_listening(word.replace("$$", "$")).replace("{port}", str(SERVICE_PORT)))
        return
    yield from ("python3", "-P", "-m", "passerelle.appserver.main", literal(service.app), "--host", "0.0.0.0")
    yield from ("--port", str(SERVICE_PORT))
    yield from ServerOptions.of(service).words()


def _listening(word: str) -> str:
    """Return a word of a command with all addresses in place of a loopback one to listen on."""
    for host in ("127.0.0.1", "localhost", "[::1]"):
        word = word.replace(f"{host}:{{port}}", "0.0.0.0:{port}")
    return word


def has_loopback(workload: Workload) -> bool:
    """Whether the command of a service contains a loopback address that the export does not replace."""
    words = map(_listening, workload.words)
    return any(re.search(r"127\.0\.0\.1|\blocalhost\b|\[?::1\]?", word) for word in words)


def is_reference(name: str, text: str) -> bool:
    """Whether the value of a variable comes from a Secret: it refers to something, or may itself be a secret."""
    return bool(references(text)) or may_be_secret(name, text)


def service_environment(workload: Workload) -> list[Manifest]:
    """Return the variables of an instance: those of passerelle, and those of the file."""
    found: dict[str, Manifest] = {
        "HOST": {"value": "0.0.0.0"},
        "PORT": {"value": str(SERVICE_PORT)},
        "PASSERELLE_SERVICE": {"value": workload.name},
        "PASSERELLE_INSTANCE": {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        "PYTHONUNBUFFERED": {"value": "1"},
        "HOME": {"value": "/tmp"},  # noqa: S108 - a volume of the pod
    }
    if workload.service.app is not None:
        # A NetworkPolicy lets only the gateway connect.
        found["FORWARDED_ALLOW_IPS"] = {"value": "*"}
    for key, text in (secret_words(workload) | workload.env).items():
        if is_reference(key, text):
            found[key] = {"valueFrom": {"secretKeyRef": _key(f"{workload.label}-env", key)}}
        else:
            found[key] = {"value": literal(text.replace("$$", "$"))}
    return [{"name": key, **value} for key, value in found.items()]


def _key(secret: str, key: str, optional: bool = False) -> Manifest:
    return {"name": secret, "key": key, **({"optional": True} if optional else {})}


def _page(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "admin"}}


def _readiness(health: Health | None) -> Manifest:
    """Return the readiness probe of a service.

    A check that Kubernetes cannot express, or that may need a secret, is left to the gateway, which probes as well.
    """
    rest: Manifest = {"periodSeconds": 3, "failureThreshold": 3}
    if health is not None:
        rest = {"periodSeconds": _seconds(health.interval), "failureThreshold": health.fall}
        if health.rise != 1:
            rest["successThreshold"] = health.rise
    inexpressible = health is None or given(health) & {"statuses", "body"} or health.method != "GET"
    if health is None or inexpressible or not all(map(_is_plain_field, health.headers.items())):
        return {"tcpSocket": {"port": "http"}, **rest}
    fields = dict(health.headers) | ({"Host": health.host} if health.host is not None else {})
    page: Manifest = {"path": health.path, "port": "http"}
    if fields:
        page["httpHeaders"] = [{"name": key, "value": value} for key, value in fields.items()]
    return {"httpGet": page, "timeoutSeconds": _seconds(health.timeout), **rest}


def _is_plain_field(item: tuple[str, str]) -> bool:
    return bool(_PROBE_FIELD(item[0])) and not may_be_secret(*item)


def _seconds(duration: float) -> int:
    return max(1, math.ceil(duration))
