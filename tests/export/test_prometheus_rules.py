"""Alerting rules: they use metrics, labels and kinds that exist, and only what the file has."""

from __future__ import annotations

import re
from typing import Any

import yaml

from passerelle.errors import Kind
from passerelle.export import prometheus_rules
from passerelle.observability.events import KINDS
from passerelle.observability.prometheus import METRICS
from tests.export.serving import deployment_of, lost

SERVICES = {"u": {"targets": ["http://127.0.0.1:5000"]}}
ROUTES = [{"path": "/{rest*}", "service": "u"}]


def rules(services: dict[str, Any] = SERVICES, **top: Any) -> dict[str, dict[str, Any]]:
    """Return the rules of a file by their name."""
    text, losses = prometheus_rules.export(deployment_of(services, ROUTES, **top))
    assert losses == []
    (group,) = yaml.safe_load(text)["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def all_rules() -> dict[str, dict[str, Any]]:
    services = {"u": {**SERVICES["u"], "breaker": {}}}
    return rules(services, redis="redis://127.0.0.1", tls={"certificate": "c.pem", "key": "k.pem"})


def test_rules_use_metrics_and_labels_that_exist() -> None:
    metrics = {metric.name: metric for metric in METRICS}
    for rule in all_rules().values():
        names = re.findall(r"passerelle_[a-z_]+", rule["expr"])
        assert names
        for name in names:
            metric = metrics[name] if name in metrics else metrics[name.removesuffix("_bucket")]
            assert name == metric.name or metric.kind == "histogram"
        for name, label in re.findall(r"(passerelle_[a-z_]+)\{([a-z]+)", rule["expr"]):
            assert label in metrics[name].labels
        grouped = set(re.findall(r"[a-z]+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        known = {label for name in names for label in metrics[name.removesuffix("_bucket")].labels}
        assert grouped <= known | {"job", "instance", "le"}
        used = set(re.findall(r"\$labels\.([a-z]+)", rule["annotations"]["summary"]))
        assert used <= grouped


def test_rules_use_kinds_that_exist() -> None:
    for rule in all_rules().values():
        for metric, kind in re.findall(r'(passerelle_[a-z_]+)\{kind="([a-z_]+)"', rule["expr"]):
            assert kind in (set(KINDS) if metric == "passerelle_events_total" else {each.value for each in Kind})


def test_rules_for_what_the_file_does_not_have_are_left_out() -> None:
    assert set(all_rules()) - set(rules()) == {
        "PasserelleBreakerOpen",
        "PasserelleCertificate",
        "PasserelleRedisDown",
    }


def test_without_an_admin_port_the_rules_are_a_loss() -> None:
    deployment = deployment_of(SERVICES, ROUTES, admin="off")
    assert lost(deployment, prometheus_rules.export(deployment)[1]) == ["admin"]
