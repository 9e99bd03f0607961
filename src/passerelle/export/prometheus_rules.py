"""Alerting rules for Prometheus, from the services and routes of the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from passerelle.config.problems import Finding
from passerelle.export.coverage import Coverage, Exported, NotApplicable
from passerelle.export.deployment import Deployment

COVERAGE = Coverage(
    {
        "Config.admin": Exported("`off` is a loss: there are no metrics"),
        "Config.redis": Exported(),
        "Config.tls": Exported(),
        "Config.services": Exported(),
        "Service.breaker": Exported(),
        "Service.tls": Exported(),
    },
    NotApplicable("no rule depends on it"),
)
"""What the export does with each key."""


def export(deployment: Deployment) -> tuple[str, Sequence[Finding]]:
    """Return the rules as YAML, and what is lost."""
    losses = list(COVERAGE.losses(deployment.config))
    if deployment.config.admin is None:
        losses.append(Finding(("admin",), "the rules need the metrics of the admin port", at_key=True))
    rules = [_rule(*each) for each in _alerts(deployment)]
    document = {"groups": [{"name": "passerelle", "rules": rules}]}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return f"# {deployment.header}\n{text}", losses


def _rule(name: str, expr: str, wait: str, severity: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        **({"for": wait} if wait else {}),
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description},
    }


def _alerts(deployment: Deployment) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Yield name, expression, duration, severity, summary and description of each rule."""
    config = deployment.config
    yield (
        "PasserelleGone",
        "absent(passerelle_workers) or sum by (job, instance) (passerelle_workers) == 0",
        "1m",
        "critical",
        "No gateway worker runs",
        "Prometheus receives no metrics, or the gateway has no worker.",
    )
    yield (
        "PasserelleErrorRate",
        'sum by (route) (rate(passerelle_requests_total{code=~"5.."}[5m]))'
        " / sum by (route) (rate(passerelle_requests_total[5m])) > 0.05",
        "5m",
        "critical",
        "More than 5 % of the responses of {{ $labels.route }} are errors",
        "passerelle_request_failures_total has the kind and the side of each failure.",
    )
    yield (
        "PasserelleSlow",
        "histogram_quantile(0.99, sum by (route, le) (rate(passerelle_request_duration_seconds_bucket[5m]))) > 1",
        "10m",
        "warning",
        "1 % of the requests to {{ $labels.route }} take longer than 1 s",
        "passerelle_upstream_duration_seconds shows whether a service is slow.",
    )
    yield (
        "PasserelleNoInstance",
        'sum by (route) (rate(passerelle_request_failures_total{kind="no_instance"}[2m])) > 0',
        "",
        "critical",
        "No instance is up for {{ $labels.route }}",
        "Requests fail with 503.",
    )
    yield (
        "PasserelleRestarts",
        'sum by (job) (increase(passerelle_events_total{kind="restart"}[15m])) > 3',
        "",
        "warning",
        "Instances or workers restart again and again",
        "`passerelle events` has the reasons.",
    )
    if any(item.service.breaker is not None for item in deployment.services):
        yield (
            "PasserelleBreakerOpen",
            'sum by (service) (passerelle_upstream_breakers{state="open"}) > 0',
            "1m",
            "warning",
            "The circuit breaker of {{ $labels.service }} is open",
            "Most requests to the service have failed.",
        )
    certificates = config.tls is not None or any(
        item.service.tls is not None and item.service.tls.certificate is not None for item in deployment.services
    )
    if certificates:
        yield (
            "PasserelleCertificate",
            'sum by (job) (increase(passerelle_events_total{kind="certificate"}[1h])) > 0',
            "",
            "warning",
            "A certificate expires soon, cannot be used, or was replaced",
            "`passerelle events` has the reason. A certificate is reported 14, 7 and 1 days before it expires.",
        )
    if config.redis is not None:
        yield (
            "PasserelleRedisDown",
            "sum by (job, instance) (passerelle_cache_redis_connected) < sum by (job, instance) (passerelle_workers)",
            "1m",
            "critical",
            "A gateway worker has no connection to Redis",
            "The worker limits, stores and invalidates by itself until it is connected again.",
        )
