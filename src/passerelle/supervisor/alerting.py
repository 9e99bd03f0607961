"""Alerts of a running gateway: judged with each sample of the live view, recorded as events, sent to the webhook."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from passerelle.config.models.alerts import AlertSettings
from passerelle.config.models.config import Config
from passerelle.observability.alerts import AlertChange, AlertRule, Alerts, Measure
from passerelle.observability.events import EventLog
from passerelle.supervisor.webhook import Destination, WebhookSender


def rules_of(settings: AlertSettings | None) -> list[AlertRule]:
    """Convert the rules of the configuration."""
    return [
        AlertRule(
            rule.label,
            cast(Measure, rule.measure),
            rule.threshold,
            rule.seconds,
            rule.requests,
            rule.route,
            rule.service,
        )
        for rule in (settings.rules if settings is not None else ())
    ]


class Alerting:
    """Watches samples. ``ends`` returns the ends of the validity of certificates by their place, since 1970.

    ``clock`` is monotonic, ``wall`` is the time since 1970; both in seconds.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        ends: Callable[[], Mapping[str, float]],
        events: EventLog,
        webhook: WebhookSender,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._ends = ends
        self._events = events
        self._webhook = webhook
        self._clock = clock
        self._wall = wall
        self._settings: AlertSettings | None = None
        self._alerts = Alerts()

    def watch(self, sample: Mapping[str, Any]) -> None:
        """Judge a sample of the live view."""
        now = self._clock()
        settings = self._config().alerts
        if settings is not self._settings:
            before, self._settings = self._settings, settings
            for change in self._alerts.replace(rules_of(settings), now):
                self._report(change, settings if settings is not None else before)
        if settings is not None:
            for change in self._alerts.update(sample, self._ends(), now, self._wall()):
                self._report(change, settings)

    def counts(self) -> dict[str, Any]:
        """Return the counters for the metrics; empty without alerts."""
        if self._settings is None:
            return {"firing": {}, "deliveries": {}}
        firing = {name: int(is_firing) for name, is_firing in self._alerts.firing.items()}
        return {"firing": firing, "deliveries": dict(self._webhook.outcomes)}

    def _report(self, change: AlertChange, settings: AlertSettings | None) -> None:
        rule = change.rule
        state = "firing" if change.is_firing else "resolved"
        facts: dict[str, Any] = {"alert": rule.name, "state": state, "value": change.value, "threshold": rule.threshold}
        self._events.record("alert", change.text, service=rule.service, route=rule.route, **facts)
        if settings is None or settings.webhook is None:
            return
        webhook = settings.webhook
        message = {
            **facts,
            "measure": rule.measure,
            "route": rule.route,
            "service": rule.service,
            "text": change.text,
            "time": round(self._wall(), 3),
            "host": platform.node(),
        }
        self._webhook.send(Destination(webhook.url, webhook.secret, webhook.timeout), message)
