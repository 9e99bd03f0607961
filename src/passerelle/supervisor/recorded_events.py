"""Records what happens to processes and instances in the event log, in addition to the console report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from passerelle.balancing.health import HealthChange, HealthEvent, HealthState
from passerelle.observability.events import EventLog
from passerelle.supervisor.supervised import ProcessEvents, SupervisedProcess


class RecordedProcesses:
    """The receiver of the events of processes: passes them to ``report`` and records them in ``events``."""

    def __init__(self, report: ProcessEvents, events: EventLog) -> None:
        self._report = report
        self._events = events

    def up(self, member: SupervisedProcess) -> None:
        """Record that ``member`` is up for the first time since its start."""
        self._report.up(member)
        pid = member.process.pid if member.process is not None else None
        kind, again = ("restart", " again") if member.restarts else ("start", "")
        self._events.record(kind, f"{member.name} is up{again}", **_place(member), pid=pid, starts=member.starts)

    def ended(
        self, member: SupervisedProcess, reason: str, after: float, again_in: float, tail: Sequence[bytes]
    ) -> None:
        """Record that ``member`` has ended or could not be started."""
        self._report.ended(member, reason, after, again_in, tail)
        text = f"{member.name} {reason} after {after:.1f} s; next start in {again_in:.1f} s"
        # Without its last lines: the output of a service is not for all who may read events.
        self._events.record("end", text, **_place(member), reason=reason, again_in=round(again_in, 3))


def _place(member: SupervisedProcess) -> dict[str, str]:
    service = member.service_name
    if service is None:
        return {"worker": member.name}
    return {"service": service, "instance": member.name}


def health_recorder(events: EventLog, has_process: Callable[[str], bool]) -> Callable[[str, HealthChange], None]:
    """Return a function that records changes of the health of instances: ``record(service, change)``.

    ``has_process(service)`` states whether the instances of the service are processes of this supervisor, whose first
    successful probe is their start.
    """

    def record(service: str, change: HealthChange) -> None:
        name, _, address = change.key.rpartition("@")
        place = {"service": service, "instance": name}
        if change.event is HealthEvent.MISBEHAVED:
            events.record("ejection", f"{name} was ejected: requests to it failed", **place, address=address)
        elif change.event is HealthEvent.SERVED:
            events.record("return", f"the ejection of {name} is over", **place, address=address)
        elif change.event is HealthEvent.DRAIN:
            events.record("drain", f"{name} receives no new requests", **place, address=address)
        elif change.event is HealthEvent.RESUME:
            events.record("drain", f"{name} is resumed", **place, address=address)
        elif change.after is HealthState.UP:
            if change.before is not HealthState.JOINING or not has_process(service):
                events.record("up", f"{name} passes its probes", **place, address=address)
        elif change.after is HealthState.DOWN:
            events.record("down", f"{name} fails its probes", **place, address=address)

    return record
