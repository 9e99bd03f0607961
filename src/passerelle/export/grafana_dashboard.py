"""A dashboard for Grafana with the metrics of the gateway."""

from __future__ import annotations

import json
from typing import Any

from passerelle.export.deployment import Deployment

SOURCE = "passerelle-prometheus"
"""The uid of the data source."""

_WIDTH, _HEIGHT = 12, 8  # of a panel; a row has 24 columns

# Title, unit, and the expressions with their legends.
_PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Requests by route",
        "reqps",
        (("sum by (route) (rate(passerelle_requests_total[$__rate_interval]))", "{{route}}"),),
    ),
    (
        "Share of errors by route",
        "percentunit",
        (
            (
                'sum by (route) (rate(passerelle_requests_total{code=~"5.."}[$__rate_interval]))'
                " / sum by (route) (rate(passerelle_requests_total[$__rate_interval]))",
                "{{route}}",
            ),
        ),
    ),
    (
        "Latency of responses",
        "s",
        tuple(
            (
                f"histogram_quantile({quantile}, sum by (le)"
                " (rate(passerelle_request_duration_seconds_bucket[$__rate_interval])))",
                legend,
            )
            for quantile, legend in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
        ),
    ),
    (
        "Latency of services, p95",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (service, le)"
                " (rate(passerelle_upstream_duration_seconds_bucket[$__rate_interval])))",
                "{{service}}",
            ),
        ),
    ),
    (
        "Failures by kind",
        "reqps",
        (("sum by (kind) (rate(passerelle_request_failures_total[$__rate_interval]))", "{{kind}}"),),
    ),
    (
        "Attempts in flight by service",
        "short",
        (("sum by (service) (passerelle_upstream_in_flight)", "{{service}}"),),
    ),
    (
        "Retries by service",
        "reqps",
        (("sum by (service) (rate(passerelle_upstream_retries_total[$__rate_interval]))", "{{service}}"),),
    ),
    (
        "Cache by outcome",
        "reqps",
        (("sum by (outcome) (rate(passerelle_cache_requests_total[$__rate_interval]))", "{{outcome}}"),),
    ),
    (
        "Memory of the caches",
        "bytes",
        (
            ("sum by (instance) (passerelle_cache_memory_bytes)", "{{instance}}"),
            ("max(passerelle_cache_memory_limit_bytes)", "limit"),
        ),
    ),
    ("Open connections", "short", (("sum by (instance) (passerelle_connections_open)", "{{instance}}"),)),
    ("Workers", "short", (("sum by (instance) (passerelle_workers)", "{{instance}}"),)),
    (
        "Events",
        "short",
        (("sum by (kind) (increase(passerelle_events_total[$__rate_interval]))", "{{kind}}"),),
    ),
)


def dashboard(deployment: Deployment) -> str:
    """Return the dashboard as JSON. Its first key has the mark of the export."""
    document = {
        "description": deployment.header,
        "uid": "passerelle",
        "title": "passerelle",
        "tags": ["passerelle"],
        "editable": True,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "panels": [_panel(number, *panel) for number, panel in enumerate(_PANELS)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _panel(number: int, title: str, unit: str, queries: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": SOURCE}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {
            "h": _HEIGHT,
            "w": _WIDTH,
            "x": number % 2 * _WIDTH,
            "y": number // 2 * _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(queries)
        ],
    }
