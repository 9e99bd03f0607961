"""Health of the instances of a service: active probes, passive ejection, slow start and panic, as one state machine.

One :class:`ServiceHealth` decides for all workers. The workers get its :meth:`~ServiceHealth.snapshot`, which
:func:`apply_snapshot` applies. The state machine is pure: the caller does the probes, timers and messages, and ``now``
is in seconds of any monotonic clock. The states of an instance and all transitions (:data:`TABLE`; a dot means no
change):

========  =======  ========  ========  ==========  ========  =======
state     passed   failed    misbehvd  served      drain     resume
========  =======  ========  ========  ==========  ========  =======
joining   up       .         .         .           draining  .
up        .        down      ejected   .           draining  .
down      up       .         .         .           draining  .
ejected   .        down      .         up          draining  .
draining  .        .         .         .           .         joining
========  =======  ========  ========  ==========  ========  =======

passed      ``rise`` successful probes in a row (1)
failed      ``fall`` failed probes in a row (3)
misbehaved  ``failures`` (5) requests in a row failed in a worker. Ignored if the instance is the last one up, or if
            more than ``ejected_part`` (half) of the service would be ejected
served      the ejection is over: after 30 s, doubled for each further ejection up to 5 min; each 30 s up take one
            doubling back. At once if no other instance is up, or if after scaling down more than half is ejected; and
            one instance each second while requests are refused because the instances that are up are full
            (:meth:`~ServiceHealth.report_overload`): an instance that may fail is better than a refusal
drain       the instance takes no new requests; ``resume`` reverts that

Slow start: when an instance comes up, the effective part of its weight grows from a tenth to all of it within
``slow_start`` seconds (10).

Panic: when at most ``panic`` of the instances are up (default 0: none), the others that have been up before are used as
if they were up, unless they drain, because a try is no worse than a refusal. With None there is no panic. An instance
that has never passed a probe is not used even then.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import floor, inf
from typing import Any, NamedTuple

from passerelle.balancing.instance import Instance, Status, set_status, set_weight

VERSION = 1  # of the snapshot
FAILURES = 5  # requests in a row
RELIEF_INTERVAL = 1.0  # seconds between two ejections that end because of overload
SLOW_START_STEPS = 10  # of slow start: each one rebuilds the tuples of the policies


class HealthState(enum.Enum):
    """The health of one instance. The value is the name of the state in snapshots."""

    JOINING = "joining"
    UP = "up"
    DOWN = "down"
    EJECTED = "ejected"
    DRAINING = "draining"


class HealthEvent(enum.Enum):
    """An event in the life of one instance."""

    PASSED = "passed"
    FAILED = "failed"
    MISBEHAVED = "misbehaved"
    SERVED = "served"
    DRAIN = "drain"
    RESUME = "resume"


TABLE: dict[tuple[HealthState, HealthEvent], HealthState] = {
    (HealthState.JOINING, HealthEvent.PASSED): HealthState.UP,
    (HealthState.JOINING, HealthEvent.DRAIN): HealthState.DRAINING,
    (HealthState.UP, HealthEvent.FAILED): HealthState.DOWN,
    (HealthState.UP, HealthEvent.MISBEHAVED): HealthState.EJECTED,
    (HealthState.UP, HealthEvent.DRAIN): HealthState.DRAINING,
    (HealthState.DOWN, HealthEvent.PASSED): HealthState.UP,
    (HealthState.DOWN, HealthEvent.DRAIN): HealthState.DRAINING,
    (HealthState.EJECTED, HealthEvent.FAILED): HealthState.DOWN,
    (HealthState.EJECTED, HealthEvent.SERVED): HealthState.UP,
    (HealthState.EJECTED, HealthEvent.DRAIN): HealthState.DRAINING,
    (HealthState.DRAINING, HealthEvent.RESUME): HealthState.JOINING,
}

_STATUS = {
    HealthState.JOINING: Status.DOWN,
    HealthState.UP: Status.UP,
    HealthState.DOWN: Status.DOWN,
    HealthState.EJECTED: Status.EJECTED,
    HealthState.DRAINING: Status.DRAINING,
}

# In panic, instances in these states are used if they have been up before.
_USED_IN_PANIC = frozenset({HealthState.JOINING, HealthState.DOWN, HealthState.EJECTED})


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """The health settings of one service. Times are in seconds, parts are from 0 to 1."""

    probed: bool = True  # False without active probes: instances join as up
    rise: int = 1
    fall: int = 3
    failures: int = FAILURES
    ejection: float = 30.0
    ejection_max: float = 300.0
    ejected_part: float = 0.5
    slow_start: float = 10.0
    panic: float | None = 0.0


class HealthChange(NamedTuple):
    """A transition of one instance, for the log."""

    key: str
    before: HealthState
    event: HealthEvent
    after: HealthState


class _HealthRecord:
    __slots__ = ("bad", "ejected_until", "ejections", "good", "known", "since", "state")

    def __init__(self, now: float) -> None:
        self.state = HealthState.JOINING
        self.since = now  # the start of the state
        self.good = 0  # successful probes in a row
        self.bad = 0  # failed probes in a row
        self.known = False  # whether the instance has been up
        self.ejections = 0  # ejections that still lengthen the next one
        self.ejected_until = 0.0


class ServiceHealth:
    """The health of all instances of one service, by key (:attr:`.instance.Instance.identity`)."""

    __slots__ = ("_last_relief", "_records", "_settings")

    def __init__(self, settings: HealthSettings | None = None) -> None:
        self._settings = settings or HealthSettings()
        self._last_relief = -inf  # when report_overload() last ended an ejection
        self._records: dict[str, _HealthRecord] = {}

    def replace(self, keys: Iterable[str], now: float) -> list[HealthChange]:
        """Replace the instances. Instances that stay keep their state. The other methods ignore unknown keys."""
        old = self._records
        self._records = {key: old.get(key) or _HealthRecord(now) for key in keys}
        changes: list[HealthChange] = []
        if not self._settings.probed:
            for key, record in self._records.items():
                if record.state is HealthState.JOINING:
                    self._transition(key, HealthEvent.PASSED, now, changes)
        return self._end_ejections(now, changes)

    def probed(self, key: str, ok: bool, now: float) -> list[HealthChange]:
        """Record the result of an active probe of ``key``."""
        changes: list[HealthChange] = []
        record = self._records.get(key)
        if record is not None:
            record.good, record.bad = (record.good + 1, 0) if ok else (0, record.bad + 1)
            if record.good >= self._settings.rise:
                self._transition(key, HealthEvent.PASSED, now, changes)
            elif record.bad >= self._settings.fall:
                self._transition(key, HealthEvent.FAILED, now, changes)
        return self._end_ejections(now, changes)

    def report_failing(self, key: str, now: float) -> list[HealthChange]:
        """Eject ``key`` if allowed: too many requests in a row failed in a worker (:func:`reached_failure_limit`)."""
        changes: list[HealthChange] = []
        record = self._records.get(key)
        if record is not None and record.state is HealthState.UP and self._may_eject():
            settings = self._settings
            # each period of `ejection` seconds up takes back one ejection
            forgotten = floor((now - record.since) / settings.ejection)
            record.ejections = max(0, record.ejections - forgotten) + 1
            # 2**32 times the length is over any maximum, and the float stays finite
            length = settings.ejection * 2.0 ** min(record.ejections - 1, 32)
            record.ejected_until = now + min(length, settings.ejection_max)
            self._transition(key, HealthEvent.MISBEHAVED, now, changes)
        return self._end_ejections(now, changes)

    def report_overload(self, now: float) -> list[HealthChange]:
        """End the ejection that is due first: a request was refused because all instances that are up are full."""
        changes: list[HealthChange] = []
        ejected = [(record.ejected_until, key) for key, record in self._records.items() if self._ejected(record)]
        if ejected and now >= self._last_relief + RELIEF_INTERVAL:
            self._last_relief = now
            self._transition(min(ejected)[1], HealthEvent.SERVED, now, changes)
        return self._end_ejections(now, changes)

    def drain(self, key: str, now: float) -> list[HealthChange]:
        """Send no new requests to ``key``, which no longer counts as a part of the service."""
        changes: list[HealthChange] = []
        self._transition(key, HealthEvent.DRAIN, now, changes)
        return self._end_ejections(now, changes)

    def resume(self, key: str, now: float) -> list[HealthChange]:
        """Revert :meth:`drain`: the instance joins again."""
        changes: list[HealthChange] = []
        self._transition(key, HealthEvent.RESUME, now, changes)
        if not self._settings.probed:
            self._transition(key, HealthEvent.PASSED, now, changes)
        return self._end_ejections(now, changes)

    def tick(self, now: float) -> list[HealthChange]:
        """End the ejections that are over. To be called at the time of :meth:`next_change`, or at any time."""
        return self._end_ejections(now, [])

    def next_change(self, now: float) -> float | None:
        """Return the time (``>= now``) at which the snapshot next changes without an event, or None."""
        settings = self._settings
        times = []
        for record in self._records.values():
            if record.state is HealthState.EJECTED:
                times.append(record.ejected_until)
            elif record.state is HealthState.UP and self._share(record, now) < 1.0:
                times.append(
                    record.since + (self._slow_start_steps(record, now) + 1) * settings.slow_start / SLOW_START_STEPS
                )
        return max(now, min(times)) if times else None

    def state(self, key: str) -> HealthState | None:
        """Return the state of ``key``, or None if this service has no such instance."""
        record = self._records.get(key)
        return record.state if record is not None else None

    @property
    def in_panic_mode(self) -> bool:
        """Whether so few instances are up that others are used too."""
        part = self._settings.panic
        members = self._members()
        if part is None or not any(record.known and record.state is not HealthState.UP for record in members):
            return False
        return sum(record.state is HealthState.UP for record in members) <= part * len(members)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the state as a JSON-serializable dict, for workers (:func:`apply_snapshot`), the admin API, and
        :meth:`restore`.

        Times are relative to ``now``, in seconds, so that the snapshot is valid in a process with another clock.
        """
        panicking = self.in_panic_mode
        instances: dict[str, Any] = {}
        for key, record in self._records.items():
            panicked = panicking and record.known and record.state in _USED_IN_PANIC
            instances[key] = {
                "state": record.state.value,
                "status": (Status.UP if panicked else _STATUS[record.state]).name,
                "share": 1.0 if panicked else self._share(record, now),
                "age": now - record.since,
                "good": record.good,
                "bad": record.bad,
                "known": record.known,
                "ejections": record.ejections,
                "ejected_for": max(0.0, record.ejected_until - now) if record.state is HealthState.EJECTED else 0.0,
            }
        return {"version": VERSION, "panic": panicking, "instances": instances}

    def restore(self, snapshot: Mapping[str, Any], now: float) -> None:
        """Restore the states of known instances from a snapshot. Raises ValueError for another version."""
        if snapshot.get("version") != VERSION:
            raise ValueError(f"a health snapshot of version {snapshot.get('version')!r}, not {VERSION}")
        for key, values in snapshot["instances"].items():
            record = self._records.get(key)
            if record is not None:
                record.state = HealthState(values["state"])
                record.since = now - values["age"]
                record.good = values["good"]
                record.bad = values["bad"]
                record.known = values["known"]
                record.ejections = values["ejections"]
                record.ejected_until = now + values["ejected_for"]

    @staticmethod
    def _ejected(record: _HealthRecord) -> bool:
        return record.state is HealthState.EJECTED

    def _members(self) -> list[_HealthRecord]:
        return [record for record in self._records.values() if record.state is not HealthState.DRAINING]

    def _share(self, record: _HealthRecord, now: float) -> float:
        if record.state is not HealthState.UP or self._settings.slow_start <= 0:
            return 1.0
        return min(max(self._slow_start_steps(record, now), 1), SLOW_START_STEPS) / SLOW_START_STEPS

    def _slow_start_steps(self, record: _HealthRecord, now: float) -> int:
        """Return the completed steps of slow start. A step is complete at the very time that next_change() returned."""
        return floor((now - record.since) / self._settings.slow_start * SLOW_START_STEPS + 1e-6)

    def _may_eject(self) -> bool:
        members = self._members()
        up = sum(record.state is HealthState.UP for record in members)
        ejected = sum(record.state is HealthState.EJECTED for record in members)
        return up > 1 and ejected + 1 <= self._settings.ejected_part * len(members)

    def _end_ejections(self, now: float, changes: list[HealthChange]) -> list[HealthChange]:
        """End ejections that are over or no longer allowed, those that are due first before the others."""
        ejected = [(record.ejected_until, key) for key, record in self._records.items() if self._ejected(record)]
        if ejected:
            members = self._members()
            allowed = floor(self._settings.ejected_part * len(members))
            up = sum(record.state is HealthState.UP for record in members)
            for number, (until, key) in enumerate(sorted(ejected)):
                if until <= now or up == 0 or len(ejected) - number > allowed:
                    self._transition(key, HealthEvent.SERVED, now, changes)
                    up += 1
        return changes

    def _transition(self, key: str, event: HealthEvent, now: float, changes: list[HealthChange]) -> None:
        record = self._records.get(key)
        after = TABLE.get((record.state, event)) if record is not None else None
        if record is None or after is None:
            return
        changes.append(HealthChange(key, record.state, event, after))
        record.state = after
        record.since = now
        if after is HealthState.JOINING:
            record.good = record.bad = 0
        record.known = record.known or after is HealthState.UP


def reached_failure_limit(instance: Instance, failures: int = FAILURES) -> bool:
    """Whether the failure just counted on ``instance`` is a reason to call :meth:`ServiceHealth.report_failing`.

    True at every ``failures``-th failure in a row, so that an ejection that was not allowed is requested again later,
    but not at each failure.
    """
    return instance.streak > 0 and instance.streak % failures == 0


def apply_snapshot(snapshot: Mapping[str, Any], instances: Iterable[Instance]) -> None:
    """Apply a snapshot to ``instances``. Instances that are not in the snapshot are unchanged.

    Raises ValueError for a snapshot of another version.
    """
    if snapshot.get("version") != VERSION:
        raise ValueError(f"a health snapshot of version {snapshot.get('version')!r}, not {VERSION}")
    for instance in instances:
        values = snapshot["instances"].get(instance.identity)
        if values is not None:
            set_status(instance, Status[values["status"]])
            set_weight(instance, share=values["share"])
