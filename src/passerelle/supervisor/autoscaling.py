"""Automatic scaling: samples of the live view become decisions, and decisions become changes of the fleet.

Only services whose ``instances`` are a range are looked at. A decision that would change nothing and has a new reason
which an operator should know, such as a bottleneck elsewhere, is reported once.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from passerelle.scaling.autoscaler import Decision, LoadSample, Reason
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.fleet import Fleet
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.service_scaling import ServiceScaling
from passerelle.supervisor.supervised import ProcessState

_REPORTED = frozenset({Reason.MAXIMUM, Reason.NOT_UP, Reason.CPU, Reason.NO_GAIN})

Scale = Callable[[str, int, int, str, str], Awaitable[bool]]
"""Changes a service from one number to another, for a reason with a text. False if that was no longer possible."""


class Autoscaling:
    """Scales the services of ``fleet`` with ``scale``; :meth:`on_sample` receives the samples of the live view."""

    def __init__(self, fleet: Fleet, scale: Scale) -> None:
        self._fleet = fleet
        self._scale = scale

    def on_sample(self, sample: Mapping[str, Any]) -> None:
        """Take a sample of the live view, and begin the changes that it calls for."""
        fleet = self._fleet
        if fleet.state != "running" or not fleet.scaling:
            return
        busy = sample["machine"].get("cpu")
        # A worker without a reply has only its state in the sample.
        complete = bool(fleet.workers) and all("memory" in sample["workers"].get(w.name, {}) for w in fleet.workers)
        for name, scaling in fleet.scaling.items():
            instances = [instance for instance in fleet.instances if instance.service is fleet.services[name]]
            if not instances:
                continue  # a version that has ended
            values = sample["services"].get(name, {})
            own = None if busy is None else _own_cpu(values)
            scaling.autoscaler.add(_load(fleet.clock(), values, complete, instances, busy, own))
            if not scaling.manual and not scaling.changing:
                self._follow(name, scaling, len(instances))

    def _follow(self, name: str, scaling: ServiceScaling, number: int) -> None:
        fleet = self._fleet
        before, decision = scaling.decision, scaling.autoscaler.decide(scaling.limits)
        scaling.decision = decision
        if decision.wanted != number:
            scaling.changing = True
            fleet.spawn(self._change(name, scaling, number, decision))
        elif decision.reason in _REPORTED and (before is None or before.reason is not decision.reason):
            text = f"{name}: stays at {number} instances: {decision.text}"
            fleet.report.log(text)
            fleet.events.record("scale", text, service=name, instances=number, reason=decision.reason.value)

    async def _change(self, name: str, scaling: ServiceScaling, number: int, decision: Decision) -> None:
        try:
            if await self._scale(name, number, decision.wanted, decision.reason.value, decision.text):
                scaling.counts[decision.reason.value] += 1
                scaling.autoscaler.changed(self._fleet.clock(), number, decision.wanted)
        except ChangeRefused:
            pass  # the supervisor stops, and has reported it
        finally:
            scaling.changing = False


def _own_cpu(values: Mapping[str, Any]) -> float:
    """Return the share of all CPUs of the machine that the instances of a service use, with their descendants."""
    used: float = sum(each.get("cpu", 0.0) for each in values.get("instances", {}).values())
    return used / (os.cpu_count() or 1)


def _load(
    now: float,
    values: Mapping[str, Any],
    complete: bool,
    instances: list[InstanceProcess],
    busy: float | None,
    own: float | None,
) -> LoadSample:
    """Build the sample of a service; ``values`` are those of the live view."""
    load = values.get("in_flight", 0) + values.get("waiting", 0) if complete else None
    rate = max(0.0, values.get("requests", 0.0) - values.get("errors", 0.0))
    up = sum(instance.state is ProcessState.UP for instance in instances)
    return LoadSample(now, load, rate, len(instances), up, busy, own)
