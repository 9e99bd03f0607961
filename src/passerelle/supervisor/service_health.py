"""The health of a service in the supervisor: which instances it has, and which of them are up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from passerelle.balancing.health import HealthChange, HealthState, ServiceHealth
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.gateway.assembly.certificates import ServiceCertificates
from passerelle.gateway.assembly.services import health_settings
from passerelle.http1.tls_contexts import reason
from passerelle.supervisor.health_probe import INTERVAL, NO_SOCKET, REFUSED, TIMEOUT, ProbeRules, probe
from passerelle.system.ports import join
from passerelle.upstream.members import InstanceSpec

COALESCE = 0.25  # seconds between two updates of the workers for changes that only depend on time
LATE = 1.0  # seconds until the problem of a process that is not up yet is reported
_MOST_LATE = 3  # different problems that a service reports before one of its instances is up


class HealthEvents(Protocol):
    """The receiver of changes of health for the console report."""

    def health(self, label: str, change: HealthChange, problem: str) -> None:
        """The health of the instance ``label`` has changed; ``problem`` is that of its last probe."""

    def late(self, name: str, problem: str) -> None:
        """The process ``name`` accepts connections but is not up, because of ``problem``."""


class ServiceHealthMonitor:
    """Probes the instances of a service (running processes or targets) and keeps the state of their health.

    ``changed`` is called with this object when the workers need an update. ``problems`` has the result of the last
    failed probe of each instance, by name. ``events`` receives the changes for the console report.
    """

    def __init__(
        self,
        name: str,
        config: ServiceConfig,
        changed: Callable[[ServiceHealthMonitor], None],
        clock: Callable[[], float],
        rng: Callable[[], float],
        events: HealthEvents,
    ) -> None:
        self.name = name
        self.config = config
        self._use_probes_of(config)
        self.problems: dict[str, str] = {}
        self.on_change: Callable[[str, HealthChange], None] | None = None  # called with the name and each change
        self._changed = changed
        self._clock = clock
        self._rng = rng
        self._events = events
        self._late_problems: set[str] = set()  # those reported since an instance was last up
        self._present: dict[str, InstanceSpec] = {}
        self._health = ServiceHealth(health_settings(config, probed=True))
        self._timer: asyncio.TimerHandle | None = None

    def configure(self, config: ServiceConfig) -> None:
        """Apply another configuration; the health of the instances is kept."""
        before, self.config = self.config, config
        self._use_probes_of(config)
        settings = health_settings(config, probed=True)
        if settings != health_settings(before, probed=True):
            now = self._clock()
            snapshot = self._health.snapshot(now)
            self._health = ServiceHealth(settings)
            self._health.replace(map(_key, self._present.values()), now)
            self._health.restore(snapshot, now)

    def _use_probes_of(self, config: ServiceConfig) -> None:
        health = config.health
        self._certificates = ServiceCertificates(config)
        self.path = health.path if health is not None else None
        self.probe_timeout = health.timeout if health is not None else TIMEOUT
        self.interval = health.interval if health is not None else INTERVAL
        self._rules = probe_rules(config)

    def add(self, spec: InstanceSpec) -> None:
        """Add or replace an instance. A new one is down until its first successful probe."""
        self._present[spec.name] = spec
        self._on_instances_changed()

    def remove(self, name: str) -> None:
        """Remove an instance: no worker may pick it any more."""
        if self._present.pop(name, None) is not None:
            self.problems.pop(name, None)
            self._on_instances_changed()

    async def watch(
        self, spec: InstanceSpec, up: Callable[[], None], failed: Callable[[], None] | None = None
    ) -> NoReturn:
        """Probe ``spec`` until cancelled: often until the first success, then at the interval.

        ``up`` is called once, after the first success (with ``rise``: after so many); ``failed``, if given, after each
        failure before that.
        """
        pause = 0.02
        begun = self._clock()
        while not (healthy := await self._probe(spec)) or self._health.state(_key(spec)) is HealthState.JOINING:
            if healthy:
                pass  # `rise` requires further successes
            elif failed is not None:
                failed()
            elif self._clock() - begun > LATE:
                self._report_late(spec)
            await asyncio.sleep(pause)
            # An instance that takes T seconds to start is found up at most about T / 5 later.
            pause = min(pause * 1.2, self.interval)
        up()
        # Spread the probes: the instances of a service start at the same time.
        await asyncio.sleep(self.interval * self._rng())
        while True:
            # After a first failure the next probe comes sooner, so that an instance that is down is found soon.
            undecided = not await self._probe(spec) and self.is_up(spec.name)
            await asyncio.sleep(self.interval / 12 if undecided else self.interval)

    def _report_late(self, spec: InstanceSpec) -> None:
        """Report why the process ``spec`` is not up yet, unless the service has reported this problem already."""
        problem = self.problems.get(spec.name, REFUSED)
        if problem == REFUSED or problem.startswith(NO_SOCKET):
            return  # a process that accepts no connections yet is still starting
        if problem not in self._late_problems and len(self._late_problems) < _MOST_LATE:
            self._late_problems.add(problem)
            self._events.late(spec.name, problem)

    async def _probe(self, spec: InstanceSpec) -> bool:
        try:
            tls = self._certificates.current() if spec.secure else None
        except OSError as error:
            problem = f"cannot use the certificates: {reason(error)}"
        else:
            problem = await probe(spec.host, spec.port, self.path, self.probe_timeout, tls, self._rules)
        if problem:
            self.problems[spec.name] = problem
        else:
            self.problems.pop(spec.name, None)
        self._on_changes(self._health.probed(_key(spec), not problem, self._clock()))
        return not problem

    def is_up(self, name: str) -> bool:
        """Whether the instance ``name`` passes its probes."""
        spec = self._present.get(name)
        return spec is not None and self._health.state(_key(spec)) is HealthState.UP

    def state(self, name: str) -> str:
        """The state of the health of the instance ``name``, in one word; ``gone`` if there is none."""
        spec = self._present.get(name)
        state = self._health.state(_key(spec)) if spec is not None else None
        return state.value if state is not None else "gone"

    def report(self, event: str, instance: str) -> None:
        """Record what a worker reports: ``misbehaved`` (requests to ``instance`` keep failing) or ``crowded``."""
        now = self._clock()
        self._on_changes(
            self._health.report_overload(now) if event == "crowded" else self._health.report_failing(instance, now)
        )

    def drain(self, name: str) -> None:
        """Send the instance ``name`` no new requests; those in flight finish."""
        spec = self._present.get(name)
        if spec is not None:
            self._on_changes(self._health.drain(_key(spec), self._clock()))

    def resume(self, name: str) -> None:
        """Revert :meth:`drain`."""
        spec = self._present.get(name)
        if spec is not None:
            self._on_changes(self._health.resume(_key(spec), self._clock()))

    def listing(self) -> list[dict[str, Any]]:
        """Return the instances for the workers, each an :class:`InstanceSpec` with its status and share."""
        health = self._health.snapshot(self._clock())["instances"]
        return [
            {**s._asdict(), "status": health[_key(s)]["status"], "share": health[_key(s)]["share"]}
            for s in self._present.values()
        ]

    def _on_instances_changed(self) -> None:
        self._report(self._health.replace(map(_key, self._present.values()), self._clock()))
        self._notify()

    def _on_changes(self, changes: list[HealthChange]) -> None:
        if changes:
            self._report(changes)
            self._notify()

    def _report(self, changes: list[HealthChange]) -> None:
        for change in changes:
            if self.on_change is not None:
                self.on_change(self.name, change)
            name, _, address = change.key.rpartition("@")
            spec = self._present.get(name)
            if change.after is HealthState.UP:
                self._late_problems.clear()
            # The start of a process is reported by its supervision.
            if spec is None or (spec.place and change.before is HealthState.JOINING):
                continue
            label = name if spec.place or name == address else f"{name} ({address})"
            self._events.health(label, change, self.problems.get(name, ""))

    def _notify(self) -> None:
        """Update the workers now, and again when the passing of time changes the state of an instance."""
        self._changed(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        due = self._health.next_change(now)
        if due is not None:
            # A moment later, so that the clock has passed `due`. A thousand instances in slow start have their steps
            # at a thousand times, which are coalesced.
            self._timer = asyncio.get_running_loop().call_later(max(due - now + 0.01, COALESCE), self._tick)

    def _tick(self) -> None:
        self._report(self._health.tick(self._clock()))
        self._notify()

    def close(self) -> None:
        """Stop updating the workers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def probe_rules(config: ServiceConfig) -> ProbeRules:
    """Build the rules for the probes of a service."""
    health = config.health
    if health is None:
        return ProbeRules()
    statuses = frozenset(health.statuses) if health.statuses is not None else None
    return ProbeRules(
        health.host or config.host_name,
        tuple(health.headers.items()),
        statuses,
        health.method,
        health.port,
        (health.body or "").encode(),
    )


def _key(spec: InstanceSpec) -> str:
    # The port distinguishes a restarted process, whose health is unknown.
    return f"{spec.name}@{spec.address}"


class ProbedTarget:
    """An instance that runs elsewhere and is only probed. ``settled`` is set after its first probe."""

    def __init__(self, spec: InstanceSpec, service: ServiceHealthMonitor) -> None:
        self.spec = spec
        self.name = spec.name
        self.service = service
        self.address = join(spec.host, spec.port)
        self.settled = asyncio.Event()

    @property
    def state(self) -> str:
        """``up``, ``ejected``, ``draining``, ``down``, or ``starting`` before the first probe."""
        if not self.settled.is_set():
            return "starting"
        state = self.service.state(self.name)
        return state if state in ("up", "ejected", "draining") else "down"

    async def run(self) -> None:
        """Probe the target until cancelled."""
        self.service.add(self.spec)
        await self.service.watch(self.spec, self.settled.set, self.settled.set)
