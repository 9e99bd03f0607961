"""Manifests for Kubernetes: gateways with the file of the cluster, the services, and what keeps them running."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml

from passerelle.config.models.addresses import Lookup
from passerelle.config.problems import Finding
from passerelle.config.reading import yaml_tree
from passerelle.config.reading.substitute import references
from passerelle.export import prometheus_rules
from passerelle.export.deployment import Deployment
from passerelle.export.dns_labels import labels
from passerelle.export.kubernetes_coverage import COVERAGE
from passerelle.export.kubernetes_file import (
    SERVICE_PORT,
    ClusterBackup,
    ClusterFile,
    backup_file,
    cluster_file,
)
from passerelle.export.kubernetes_jobs import backup, migration
from passerelle.export.kubernetes_losses import by_in_flight, lost
from passerelle.export.kubernetes_pods import (
    CONFIG_FILE,
    Manifest,
    Options,
    Workload,
    gateway_pod,
    is_reference,
    labels_of,
    manifest,
    run_words,
    secret_words,
    selector_of,
    service_pod,
)
from passerelle.export.kubernetes_routes import route_manifests
from passerelle.export.yaml_text import dump

RESERVED = ("gateway", "gateway-admin", "gateway-backup", "gateway-backup-config", "gateway-config", "gateway-tls")
"""Names of resources that no service gets."""


def export(deployment: Deployment, options: Options) -> tuple[dict[str, str], Sequence[Finding]]:
    """Return the files by their paths, and what is lost."""
    return _Exporter(deployment, options).export()


def cluster_file_of(deployment: Deployment, options: Options) -> ClusterFile:
    """Return the gateway's file of an export."""
    return cluster_file(deployment, _labels(deployment), options.redis)


def backup_file_of(deployment: Deployment, options: Options) -> ClusterFile | None:
    """Return the file of the job of backups; None if the export has none."""
    return backup_file(deployment, options.redis).file if options.backup is not None else None


def _labels(deployment: Deployment) -> dict[str, str]:
    """Return the names of the resources of the services that the cluster runs."""
    return labels((item.name for item in deployment.services if item.service.is_local), RESERVED)


class _Exporter:
    def __init__(self, deployment: Deployment, options: Options) -> None:
        self._deployment = deployment
        self._config = deployment.config
        self._options = options
        self._labels = _labels(deployment)
        self._file = cluster_file_of(deployment, options)
        self._workloads = [self._workload(name) for name in self._labels]
        self._rules = ""
        self._losses = [*COVERAGE.losses(self._config), *self._file.losses]
        self._backup: ClusterBackup | None = None
        if options.backup is not None:
            self._backup = backup_file(deployment, options.redis)
            self._losses += self._backup.losses
        elif self._config.backup is not None:
            self._losses.append(Finding(("backup",), "there is no job without --backup", at_key=True))

    def export(self) -> tuple[dict[str, str], Sequence[Finding]]:
        """Return all files, and what is lost."""
        self._losses += lost(self._deployment, self._options, self._workloads)
        if self._file.admin is not None:
            self._rules, rule_losses = prometheus_rules.export(self._deployment)
            self._losses += rule_losses
        base: dict[str, list[Manifest]] = {}
        if self._options.namespace is not None:
            base["namespace.yaml"] = [self._namespace(self._options.namespace)]
        base["gateway.yaml"] = list(self._gateway())
        base["route.yaml"] = route_manifests(self._deployment, self._options)
        for workload in self._workloads:
            base[f"service-{workload.label}.yaml"] = list(self._service(workload))
        if self._options.migrations:
            base["migrations.yaml"] = [
                migration(workload, self._options)
                for workload in self._workloads
                if workload.name in self._options.migrations
            ]
        made = [self._file]
        if self._options.backup is not None and self._backup is not None and self._backup.file is not None:
            made.append(self._backup.file)
            image, schedule = self._options.backup_image, self._options.backup
            base["backup.yaml"] = list(backup(made[-1], image, schedule, to_volume=self._backup.to_volume))
        files = {f"base/{name}": self._text(*manifests) for name, manifests in base.items()}
        files |= {f"base/{each.config}.yaml": self._configuration(each) for each in made}
        resources = sorted(name.removeprefix("base/") for name in files)
        files["base/kustomization.yaml"] = self._kustomization(
            "Kustomization", self._secrets(made), resources=resources
        )
        if self._file.admin is not None:
            files["components/monitoring/monitoring.yaml"] = self._text(*self._monitoring())
            files["components/monitoring/kustomization.yaml"] = self._kustomization(
                "Component", ["# Needs the Prometheus operator."], resources=["monitoring.yaml"]
            )
        files |= {f"overlays/{name}/kustomization.yaml": text for name, text in self._overlays()}
        return dict(sorted(files.items())), list(dict.fromkeys(self._losses))

    def _workload(self, name: str) -> Workload:
        service = self._config.services[name]
        folder = self._deployment.path(service.cwd) if service.cwd is not None else os.fspath(self._deployment.folder)
        plain = not self._deployment.refers(("services", name, "health"))
        words = tuple(run_words(self._deployment, name)) if service.run is not None else ()
        return Workload(name, self._labels[name], service, _texts_of(self._deployment, name), words, folder, plain)

    def _text(self, *manifests: Manifest) -> str:
        return f"# {self._deployment.header}\n" + "---\n".join(dump(each) for each in manifests)

    def _configuration(self, file: ClusterFile) -> str:
        """Return the ConfigMap with a file, in which the file can be read."""
        head = self._text(manifest("v1", "ConfigMap", file.config))
        return f"{head}data:\n  {CONFIG_FILE}: |\n{textwrap.indent(file.text, '    ')}"

    def _namespace(self, name: str) -> Manifest:
        pod_security = {"pod-security.kubernetes.io/enforce": "restricted"}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": pod_security}}

    def _deployed(self, name: str, component: str, template: Manifest, replicas: int | None) -> Manifest:
        spec = {
            # An autoscaler decides about the number where there is none.
            **({"replicas": replicas} if replicas is not None else {}),
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": selector_of(name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        }
        return manifest("apps/v1", "Deployment", name, component, spec=spec)

    def _budget(self, name: str, component: str) -> Manifest:
        spec = {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector_of(name)},
        }
        return manifest("policy/v1", "PodDisruptionBudget", name, component, spec=spec)

    def _gateway(self) -> Iterator[Manifest]:
        digest = hashlib.sha256(self._file.text.encode()).hexdigest()
        template = gateway_pod(self._config, self._file, self._options, digest)
        yield self._deployed("gateway", "gateway", template, self._options.gateways)
        port = {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}
        yield manifest("v1", "Service", "gateway", spec={"selector": selector_of("gateway"), "ports": [port]})
        if self._file.admin is not None:
            port = {"name": "admin", "port": self._file.admin, "targetPort": "admin"}
            spec = {"clusterIP": "None", "selector": selector_of("gateway"), "ports": [port]}
            yield manifest("v1", "Service", "gateway-admin", "admin", spec=spec)
        yield self._budget("gateway", "gateway")
        ingress: list[Manifest] = [{"ports": [{"protocol": "TCP", "port": "http"}]}]
        if self._file.admin is not None:
            space = {"matchLabels": {"kubernetes.io/metadata.name": self._options.monitoring}}
            peer = {"namespaceSelector": space}
            ingress.append({"from": [peer], "ports": [{"protocol": "TCP", "port": "admin"}]})
        spec = {
            "podSelector": {"matchLabels": selector_of("gateway")},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": list(self._egress()),
        }
        yield manifest("networking.k8s.io/v1", "NetworkPolicy", "gateway", spec=spec)

    def _egress(self) -> Iterator[Manifest]:
        """Yield what the gateway connects to: DNS, the services, and the addresses in the file."""
        yield {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
        for workload in self._workloads:
            peer = {"podSelector": {"matchLabels": selector_of(workload.label)}}
            yield {"to": [peer], "ports": [{"protocol": "TCP", "port": SERVICE_PORT}]}
        for host, port in sorted(self._servers()):
            ports = {"ports": [{"protocol": "TCP", **({"port": port} if port else {})}]}
            try:
                address = ipaddress.ip_address(host)
            except ValueError:
                yield ports  # a policy has no names
            else:
                yield {"to": [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}], **ports}

    def _servers(self) -> set[tuple[str, int]]:
        """Return the other hosts and ports that the gateway connects to. A name is "", and any port is 0."""
        config = self._config
        found: set[tuple[str, int]] = set()
        for service in config.services.values():
            for target in service.all_targets:
                if target.url is not None:
                    found.add(("" if isinstance(target.url, Lookup) else target.url.host, target.url.port))
        urls: list[object] = []
        if self._options.redis is not None or config.redis is not None:
            urls.append(self._options.redis or (config.redis.url if config.redis is not None else ""))
        urls += [config.jwt.jwks] if config.jwt is not None else []
        urls += [config.oidc.issuer] if config.oidc is not None else []
        urls += [config.tracing.endpoint] if config.tracing is not None else []
        urls += [config.alerts.webhook.url] if config.alerts is not None and config.alerts.webhook is not None else []
        for url in urls:
            if isinstance(url, str):
                parts = urlsplit(url)
                usual = {"https": 443, "http": 80}.get(parts.scheme, 6379)
                found.add((parts.hostname or "", parts.port or usual))
        return {(host if _is_address(host) else "", port) for host, port in found}

    def _service(self, workload: Workload) -> Iterator[Manifest]:
        label, instances = workload.label, workload.service.instances
        dns = self._config.dns
        fresh = dns.max_ttl if "max_ttl" in dns.model_fields_set else max(5.0, dns.min_ttl)
        template = service_pod(workload, self._options, fresh)
        replicas = None if instances.scales else instances.min
        yield self._deployed(label, "service", template, replicas)
        port = {"name": "http", "port": SERVICE_PORT, "targetPort": "http", "appProtocol": "http"}
        spec = {"clusterIP": "None", "selector": selector_of(label), "ports": [port]}
        yield manifest("v1", "Service", label, "service", spec=spec)
        if instances.scales:
            yield self._scaler(workload)
        yield self._budget(label, "service")
        peer = {"podSelector": {"matchLabels": selector_of("gateway")}}
        spec = {
            "podSelector": {"matchLabels": selector_of(label)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [peer], "ports": [{"protocol": "TCP", "port": "http"}]}],
        }
        yield manifest("networking.k8s.io/v1", "NetworkPolicy", label, "service", spec=spec)

    def _scaler(self, workload: Workload) -> Manifest:
        instances = workload.service.instances
        if by_in_flight(workload.name, self._options):
            selector = {"matchLabels": {"service": workload.name}}
            target = {"type": "AverageValue", "averageValue": str(instances.target_in_flight)}
            metric = {"name": "passerelle_upstream_in_flight", "selector": selector}
            measure: Manifest = {"type": "External", "external": {"metric": metric, "target": target}}
        else:
            use = {"type": "Utilization", "averageUtilization": 70}
            measure = {"type": "Resource", "resource": {"name": "cpu", "target": use}}
        spec = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.label},
            "minReplicas": instances.min,
            "maxReplicas": instances.max,
            "metrics": [measure],
            # As passerelle itself: a change at most doubles the number or removes half of it, and a fall waits.
            "behavior": {
                "scaleUp": {
                    "stabilizationWindowSeconds": 0,
                    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
                },
                "scaleDown": {
                    "stabilizationWindowSeconds": 60,
                    "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}],
                },
            },
        }
        return manifest("autoscaling/v2", "HorizontalPodAutoscaler", workload.label, "service", spec=spec)

    def _monitoring(self) -> Iterator[Manifest]:
        # Without honorLabels, the label `service` of metrics would be renamed: the target has one, too.
        endpoint: Manifest = {"port": "admin", "path": "/metrics", "interval": "15s", "honorLabels": True}
        if self._file.credentials is not None:
            secret, key = self._file.credentials
            credentials = {"name": secret, "key": key}
            endpoint["authorization"] = {"type": "Bearer", "credentials": credentials}
        spec = {"selector": {"matchLabels": labels_of("gateway-admin", "admin")}, "endpoints": [endpoint]}
        yield manifest("monitoring.coreos.com/v1", "ServiceMonitor", "gateway", spec=spec)
        rules = yaml.load(self._rules, Loader=yaml.CSafeLoader)
        yield manifest("monitoring.coreos.com/v1", "PrometheusRule", "gateway", spec=rules)

    def _secrets(self, made: Sequence[ClusterFile]) -> list[str]:
        """Return comments that list the Secrets that must exist, for the files that were made and for services."""
        lines = []
        for file in made:
            lines += [f"{file.env}: {key}" + (" (optional)" if given else "") for key, given in file.variables.items()]
            lines += [f"{file.files}: {secret.key}: {_printable(secret.origin)}" for secret in file.secrets]
        if self._config.tls is not None:
            ordered = self._config.tls.pair is None
            origin = "from cert-manager" if ordered else "the files of tls.certificate and tls.key"
            lines += [f"gateway-tls: tls.crt, tls.key: {origin}"]
            for index, _ in enumerate(self._config.tls.certificates):
                lines.append(f"gateway-tls-{index + 1}: tls.crt, tls.key: those of tls.certificates[{index}]")
        for workload in self._workloads:
            for key, text in (workload.env | secret_words(workload)).items():
                if is_reference(key, text):
                    origin = " ".join(f"${{{found}}}" for found in references(text)) or "the value in the file"
                    lines.append(f"{workload.label}-env: {key}: {_printable(origin)}")
        head = ["# These keys of Secrets must exist; the export contains no secret:"] if lines else []
        return head + [f"#   {line}" for line in lines]

    def _kustomization(self, kind: str, comments: Sequence[str], **rest: Any) -> str:
        version = "v1alpha1" if kind == "Component" else "v1beta1"
        document = {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind}
        if kind == "Kustomization" and self._options.namespace is not None:
            document["namespace"] = self._options.namespace
        return "\n".join([f"# {self._deployment.header}", *comments, dump(document | rest)])

    def _overlays(self) -> Iterator[tuple[str, str]]:
        images = {self._options.image, *(self._options.image_of(each.name) for each in self._workloads)}
        images |= {self._options.backup_image} if self._options.backup is not None else set()
        given = [{"name": name, "newTag": tag or "latest"} for name, tag in sorted(map(_image, images)) if name]
        fixed = [("gateway", self._options.gateways)]
        fixed += [
            (each.label, each.service.instances.min) for each in self._workloads if not each.service.instances.scales
        ]
        small = [{"name": name, "count": 1} for name, _ in fixed]
        full = [{"name": name, "count": number} for name, number in fixed]
        ranges = [each.label for each in self._workloads if each.service.instances.scales]
        patch = (
            "- {op: replace, path: /spec/minReplicas, value: 1}\n- {op: replace, path: /spec/maxReplicas, value: 2}\n"
        )
        patches = [{"target": {"kind": "HorizontalPodAutoscaler", "name": name}, "patch": patch} for name in ranges]
        comments = ["# `kustomize edit set image` sets the tags."]
        staging = {"resources": ["../../base"], "images": given, "replicas": small}
        yield (
            "staging",
            self._kustomization("Kustomization", comments, **staging, **({"patches": patches} if patches else {})),
        )
        monitoring = {"components": ["../../components/monitoring"]} if self._file.admin is not None else {}
        production = {"resources": ["../../base"], **monitoring, "images": given, "replicas": full}
        yield "production", self._kustomization("Kustomization", comments, **production)


def _texts_of(deployment: Deployment, service: str) -> dict[str, str]:
    """Return the variables of a service as they are written, before substitution."""
    node: yaml_tree.YamlNode = deployment.root
    for step in ("services", service, "env"):
        if not isinstance(node, yaml_tree.YamlMapping) or step not in node.items:
            return {}
        node = node.items[step][1]
    assert isinstance(node, yaml_tree.YamlMapping)
    return {key: value.text for key, (_, value) in node.items.items() if isinstance(value, yaml_tree.YamlScalar)}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _image(image: str) -> tuple[str, str]:
    """Split an image into its name and its tag, which may be empty. Both are empty for a digest, which has no tag."""
    if "@" in image:
        return "", ""
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "")


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


__all__ = ["Options", "backup_file_of", "cluster_file_of", "export"]
