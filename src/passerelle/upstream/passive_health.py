"""Health of instances without a supervisor: this worker decides, from requests alone.

There are no active probes, so instances join as up, and only failing requests eject one
(:mod:`passerelle.balancing.health`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from passerelle.balancing.health import HealthChange, HealthSettings, HealthState, ServiceHealth, apply_snapshot
from passerelle.balancing.instance import Instance, Status


class PassiveHealth:
    """The health of all services of one worker; ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.on_change: Callable[[str, HealthChange], None] | None = None  # service, change
        self._services: dict[str, ServiceHealth] = {}
        self._settings: dict[str, HealthSettings] = {}
        self._instances: dict[str, list[Instance]] = {}

    def set_instances(self, service: str, settings: HealthSettings, instances: Iterable[Instance]) -> None:
        """Set the instances of ``service``. Instances that stay keep their state as long as the settings are unchanged.

        Instances whose status is draining are drained; draining ends for all others.
        """
        instances = list(instances)
        draining = {instance.identity for instance in instances if instance.status is Status.DRAINING}
        self._set_instances(service, settings, instances)
        health, now = self._services[service], self._clock()
        for instance in instances:
            if instance.identity in draining:
                self._report(service, health.drain(instance.identity, now))
            elif health.state(instance.identity) is HealthState.DRAINING:
                self._report(service, health.resume(instance.identity, now))
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
            # The first instances need no slow start: there are no others that could take the load meanwhile.
            now -= settings.slow_start
        self._services[service].replace((instance.identity for instance in instances), now)

    def forget(self, service: str) -> None:
        """Remove ``service``."""
        for of_service in (self._services, self._settings, self._instances):
            of_service.pop(service, None)

    def report(self, event: str, service: str, instance: str) -> None:
        """Handle an ``event`` that a request has reported: ``misbehaved`` or ``crowded``."""
        health = self._services.get(service)
        if health is None:
            return
        now = self._clock()
        changes = health.report_overload(now) if event == "crowded" else health.report_failing(instance, now)
        if changes:
            self._report(service, changes)
            self._apply(service)

    def tick(self) -> None:
        """Make the changes that are due. To be called about once a second."""
        now = self._clock()
        for name, health in self._services.items():
            due = health.next_change(now)
            if due is not None and due <= now:
                self._report(name, health.tick(now))
                self._apply(name)

    def _report(self, service: str, changes: Iterable[HealthChange]) -> None:
        if self.on_change is not None:
            for change in changes:
                self.on_change(service, change)

    def _apply(self, service: str) -> None:
        apply_snapshot(self._services[service].snapshot(self._clock()), self._instances[service])
