"""Alerts of a running gateway: from the file to the events, the metrics and the webhook."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from passerelle.config.loader import load_text
from passerelle.config.models.config import Config
from passerelle.observability.events import EventLog
from passerelle.supervisor.alerting import Alerting
from passerelle.supervisor.webhook import WebhookSender
from tests.supervisor.helpers import until_now
from tests.supervisor.up import up

SERVICES = "services: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n"
Received = list[tuple[str | None, dict[str, Any]]]


@pytest.fixture
def webhook() -> Iterator[tuple[str, Received]]:
    """The address of a webhook, and what it has received: the credentials and the message."""
    received: Received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers["Authorization"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_alert_fires_and_is_resolved(tmp_path: Path, webhook: tuple[str, Received]) -> None:
    url, received = webhook
    (tmp_path / "token").write_text("s3cret-of-the-webhook\n")
    (tmp_path / "failing.py").write_text(
        "import pathlib\n"
        "def app(environ, start_response):\n"
        "    ok = pathlib.Path('ok').exists()\n"
        "    start_response('200 OK' if ok else '500 Internal Server Error', [])\n"
        "    return [b'']\n"
    )
    config = f"""
alerts:
  rules:
    - {{name: many errors, error_rate: 50%, window: 2s, requests: 1, route: /}}
    - {{p99: 1h}}
  webhook: {{url: "{url}", secret: "${{file:token}}"}}
services: {{s: {{app: "failing:app"}}}}
routes: [{{path: /, service: s}}]
"""
    with up(tmp_path, config) as running:
        running.listening()

        def requested(count: int) -> bool:
            running.get("/")
            return len(received) >= count

        until_now(lambda: requested(1), 20.0)
        (tmp_path / "ok").touch()
        until_now(lambda: requested(2), 20.0)
        (first, fired), (_, resolved) = received
        assert first == "Bearer s3cret-of-the-webhook"
        assert (fired["alert"], fired["state"], fired["route"]) == ("many errors", "firing", "/")
        assert (fired["value"], fired["threshold"], fired["measure"]) == (1.0, 0.5, "error_rate")
        assert (resolved["alert"], resolved["state"]) == ("many errors", "resolved")
        events = json.loads(running.get("/events?kind=alert", running.admin)[1])["events"]
        assert [event["detail"]["state"] for event in events] == ["firing", "resolved"]
        assert "alert: many errors: error rate 1 of 1, threshold 0.5" in running.text
        metrics = running.get("/metrics", running.admin)[1].decode()
        assert 'passerelle_alerts_firing{alert="many errors"} 0.0' in metrics
        assert 'passerelle_alerts_firing{alert="p99"} 0.0' in metrics
        assert 'passerelle_alert_deliveries_total{outcome="delivered"} 2.0' in metrics
        assert "s3cret" not in running.text + metrics + json.dumps(events)


class Rig:
    """Alerting without a gateway, with the configuration and the time of the test."""

    def __init__(self, text: str) -> None:
        self.config = load_text(text + SERVICES)
        self.now = 100.0
        self.events = EventLog()
        self.ends: dict[str, float] = {}
        self.webhook = WebhookSender(lambda: 0.5)
        self.alerting = Alerting(self._config, lambda: self.ends, self.events, self.webhook, self.time, self.time)

    def _config(self) -> Config:
        return self.config

    def time(self) -> float:
        return self.now

    def watch(self, **sample: Any) -> list[str]:
        """Judge a sample a second later. Returns the texts of all events."""
        self.now += 1
        self.alerting.watch(sample)
        return [event.text for event in self.events.since()]


def test_a_reload_replaces_the_rules_and_resolves_what_is_gone() -> None:
    rig = Rig("alerts: {rules: {certificate_days: 14}}\n")
    rig.ends = {"tls": 0.0}
    fired = "certificate_days: valid for -0.0 more days, threshold 14 (tls)"
    assert rig.watch() == [fired]
    rig.config = load_text("alerts: {rules: [{certificate_days: 14}, {restarts: 3}]}\n" + SERVICES)
    assert rig.watch() == [fired]
    rig.config = load_text(SERVICES)
    assert rig.watch() == [fired, "certificate_days: resolved: the rule was changed or removed"]
    assert rig.alerting.counts() == {"firing": {}, "deliveries": {}}


def test_restarts_are_counted_in_ten_minutes_by_default() -> None:
    rig = Rig("alerts: {rules: {restarts: 2, service: s}}\n")
    for count in (0, 1, 2):
        rig.now += 290
        texts = rig.watch(services={"s": {"instances": {"s-1": {"restarts": count}}}})
    assert texts == ["restarts of s: 2 restarts, threshold 2 (s-1)"]
    assert rig.events.since()[0].service == "s"


def test_without_alerts_nothing_happens() -> None:
    rig = Rig("")
    assert rig.watch(total={"requests": 100.0, "errors": 100.0}) == []
    assert rig.alerting.counts() == {"firing": {}, "deliveries": {}}
