"""Who decides about the health of instances where there is no supervisor: this worker, by the requests alone.

Nobody probes here, so instances join up, and only failing requests take one out (:mod:`passerelle.balancing.health`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from passerelle.balancing.health import HealthSettings, HealthState, ServiceHealth, apply_snapshot
from passerelle.balancing.instance import Instance, Status


class PassiveHealth:
    """The health of all services of one worker; ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._services: dict[str, ServiceHealth] = {}
        self._settings: dict[str, HealthSettings] = {}
        self._instances: dict[str, list[Instance]] = {}

    def set_instances(self, service: str, settings: HealthSettings, instances: Iterable[Instance]) -> None:
        """``service`` has these instances; those that stay keep their state while the settings stay.

        Those that are given as draining are drained, and any other one is not.
        """
        instances = list(instances)
        draining = {instance.identity for instance in instances if instance.status is Status.DRAINING}
        self._set_instances(service, settings, instances)
        health, now = self._services[service], self._clock()
        for instance in instances:
            if instance.identity in draining:
                health.drain(instance.identity, now)
            elif health.state(instance.identity) is HealthState.DRAINING:
                health.resume(instance.identity, now)
        self._apply(service)

    def _set_instances(self, service: str, settings: HealthSettings, instances: list[Instance]) -> None:
        now = self._clock()
        self._instances[service] = instances
        if self._settings.get(service) != settings:
            old = self._services.get(service)
            self._settings[service] = settings
            self._services[service] = ServiceHealth(settings)
            if old is not None:
                self._services[service].replace((i.identity for i in instances), now)
                self._services[service].restore(old.snapshot(now), now)
                return
            # What is there from the beginning needs no slow start: there is nobody else to take the work.
            now -= settings.slow_start
        self._services[service].replace((instance.identity for instance in instances), now)

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
        changes = health.report_overload(now) if event == "crowded" else health.report_failing(instance, now)
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
        apply_snapshot(self._services[service].snapshot(self._clock()), self._instances[service])
