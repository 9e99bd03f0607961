"""Who decides about the health of instances where there is no supervisor: this worker, by the requests alone.

Nobody probes here, so instances join up, and only failing requests take one out (:mod:`passerelle.balancing.health`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from passerelle.balancing.health import ServiceHealth, Settings, apply
from passerelle.balancing.instance import Instance


class LocalHealth:
    """The health of all services of one worker; ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._services: dict[str, ServiceHealth] = {}
        self._settings: dict[str, Settings] = {}
        self._instances: dict[str, list[Instance]] = {}

    def take(self, service: str, settings: Settings, instances: Iterable[Instance]) -> None:
        """``service`` has these instances; those that stay keep their state while the settings stay."""
        now = self._clock()
        if self._settings.get(service) != settings:
            old = self._services.get(service)
            self._settings[service] = settings
            self._services[service] = ServiceHealth(settings)
            if old is not None:
                self._instances[service] = instances = list(instances)
                self._services[service].replace((i.identity for i in instances), now)
                self._services[service].restore(old.snapshot(now), now)
                self._apply(service)
                return
            # What is there from the beginning needs no slow start: there is nobody else to take the work.
            now -= settings.slow_start
        self._instances[service] = instances = list(instances)
        self._services[service].replace((instance.identity for instance in instances), now)
        self._apply(service)

    def forget(self, service: str) -> None:
        """``service`` is gone."""
        for of_service in (self._services, self._settings, self._instances):
            of_service.pop(service, None)

    def report(self, event: str, service: str, instance: str) -> None:
        """What a request saw: ``misbehaved`` or ``crowded``."""
        health = self._services.get(service)
        if health is None:
            return
        now = self._clock()
        changes = health.crowded(now) if event == "crowded" else health.misbehaved(instance, now)
        if changes:
            self._apply(service)

    def tick(self) -> None:
        """Let time pass: to be called about every second."""
        now = self._clock()
        for name, health in self._services.items():
            due = health.next_change(now)
            if due is not None and due <= now:
                health.tick(now)
                self._apply(name)

    def _apply(self, service: str) -> None:
        apply(self._services[service].snapshot(self._clock()), self._instances[service])
