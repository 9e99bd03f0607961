"""Configurations of Prometheus, Grafana and the OpenTelemetry collector beside gateways in containers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from passerelle.export.deployment import Deployment
from passerelle.export.grafana_dashboard import SOURCE
from passerelle.export.yaml_text import dump


def prometheus(deployment: Deployment, gateways: Sequence[str], token: str, rules: str) -> str:
    """Return the configuration of Prometheus. ``gateways`` are addresses of admin ports, ``token`` is a file."""
    job = {
        "job_name": "passerelle",
        "authorization": {"type": "Bearer", "credentials_file": token},
        "static_configs": [{"targets": list(gateways)}],
    }
    document = {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": [rules],
        "scrape_configs": [job] if gateways else [],
    }
    return _file(deployment, document)


def grafana_source(deployment: Deployment, url: str) -> str:
    """Return the data source for Grafana: the Prometheus at ``url``."""
    source = {"name": "Prometheus", "uid": SOURCE, "type": "prometheus", "access": "proxy", "url": url}
    return _file(deployment, {"apiVersion": 1, "datasources": [{**source, "isDefault": True, "editable": False}]})


def grafana_provider(deployment: Deployment, folder: str) -> str:
    """Return the provider of the dashboards in ``folder``."""
    provider = {"name": "passerelle", "type": "file", "disableDeletion": True, "options": {"path": folder}}
    return _file(deployment, {"apiVersion": 1, "providers": [provider]})


def collector(deployment: Deployment, memory: int) -> str:
    """Return the configuration of the collector, which logs the number of spans. ``memory`` is its limit in MiB."""
    document: dict[str, Any] = {
        "receivers": {
            "otlp": {"protocols": {"grpc": {"endpoint": "0.0.0.0:4317"}, "http": {"endpoint": "0.0.0.0:4318"}}}
        },
        "processors": {
            "memory_limiter": {"check_interval": "1s", "limit_mib": memory * 3 // 4, "spike_limit_mib": memory // 8},
            "batch": {},
        },
        "exporters": {"debug": {"verbosity": "basic"}},
        "service": {
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "processors": ["memory_limiter", "batch"],
                    "exporters": ["debug"],
                }
            }
        },
    }
    text = _file(deployment, document)
    return text.replace("\n", "\n# Add the exporter of your system of traces, and name it in the pipeline.\n", 1)


def _file(deployment: Deployment, document: object) -> str:
    return f"# {deployment.header}\n{dump(document)}"
