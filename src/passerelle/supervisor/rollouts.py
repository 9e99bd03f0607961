"""The rollouts of a running gateway: they judge what the splits count, and change the weights step by step.

What decides is :mod:`passerelle.crossing.rollout`. This module gives it samples, keeps the state in a store, applies
the share that follows from it, and reports each change. Gateways that share a Redis judge the sum of what all count:
one of them leads, and the others follow the record that it writes. Only what the store has is applied, with one
exception: a return of all users to the old side does not wait for a store.

The file is longer than 400 lines because what leaders, followers and operators write is one protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from passerelle.config.models.config import Config
from passerelle.config.models.rollout import Rollout
from passerelle.crossing.evidence import Counts
from passerelle.crossing.latency import LatencyHistogram
from passerelle.crossing.report import merge_reports
from passerelle.crossing.rollout import (
    ALL,
    ENDED,
    Plan,
    Sample,
    State,
    Status,
    abort,
    adapt,
    advance,
    pause,
    resume,
    share,
    skip,
    start,
)
from passerelle.observability.events import EventLog
from passerelle.supervisor.errors import ChangeRefused, InvalidChange, NotFound
from passerelle.supervisor.rollout_status import describe, flat, in_one_line
from passerelle.supervisor.split_groups import SplitGroups
from passerelle.supervisor.split_record import Kept, Progress, Record, Tally
from passerelle.supervisor.split_store import SplitStore, StoreUnavailable, Turn
from passerelle.supervisor.splits import ROLLOUT, SideCounts, Splits

ACTIONS: Final = ("start", "pause", "resume", "skip", "abort")
SHARED: Final = "shared"
"""The actor of changes of weights that another gateway has made."""
INTERVAL: Final = 1.0
"""Seconds between checks."""
_SHADOW_INTERVAL: Final = 10.0
"""Seconds between two readings of comparisons: merging them is work."""
_MEDIAN_OF: Final = 100
"""Responses of the old side before its median latency is used."""
_ATTEMPTS: Final = 5
"""Attempts of a change while other gateways change the same record."""


@dataclass(slots=True)
class _Split:
    """What this gateway knows about one split."""

    is_loaded: bool = False
    record: Record | None = None
    tally: Tally = field(default_factory=Tally)  # over all gateways, since the step began
    leads: bool = False
    epoch: int = 0  # of the own counts
    base: Tally = field(default_factory=Tally)  # the own counts when the epoch began
    slow_after: float | None = None  # as the workers have it
    wanted: tuple[Mapping[str, int] | None, str, str] | None = None  # weights that the store does not have yet
    forced: State | None = None  # an end without users on the new side that the store does not have yet
    reported: tuple[Status, int] | None = None
    changes: Counter[str] = field(default_factory=Counter)


class Rollouts:
    """The rollouts of the splits of ``config()``.

    ``shadows()`` returns what the shadow requests of each worker found. ``make_store()`` is called when the first split
    needs it. ``clock`` is monotonic, in seconds; the time of steps is that of the store.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        splits: Splits,
        shadows: Callable[[], Awaitable[list[dict[str, Any]]]],
        make_store: Callable[[], SplitStore],
        events: EventLog,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._splits = SplitGroups(splits, config)
        self._shadows = shadows
        self._make_store = make_store
        self._made: SplitStore | None = None
        self._events = events
        self._log = log
        self._clock = clock
        self._known: dict[str, _Split] = {}
        self._compared: dict[str, tuple[int, int]] = {}  # comparisons and differences, by route
        self._compared_at = -_SHADOW_INTERVAL
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._problem = ""
        self.on_done: Callable[[], object] = lambda: None  # called when a rollout has ended with all users
        self._splits.on_change.append(self._on_change)

    # Life

    async def load(self) -> None:
        """Put in force what the store has, before workers start."""
        await self._load(self._splits.routes(), running=False)

    async def _load(self, names: Collection[str], *, running: bool) -> None:
        """Read what the store has about splits that are new here."""
        if not names:
            return
        kept_of = await self._store.load(names)
        for name in names:
            split, kept = self._split(name), kept_of.get(name, Kept())
            split.is_loaded = True
            record = self._after_damage(name, kept.problem) if kept.problem else kept.record
            if record is None:
                continue
            file = self._splits.file_weights(name)
            if record.active is None and dict(record.file) != file:
                # The file has been changed since: it has the last word.
                record = record.following(
                    file=file, weights=None, rollout=None, by="file", reason="the file was changed"
                )
            split.record, split.tally = record, kept.tally
            split.epoch = record.rollout.epoch if record.rollout is not None else 0
            weights = self._weights(name, record)
            if not running and weights is not None and not self._splits.is_applied(name, weights):
                self._splits.restore(name, weights)
            if weights is None and record.active is None:
                continue  # about services that the split no longer has
            self._hold(name, record)
            if record.active is not None:
                self._report(name, split, "continued")
            elif record.rollout is not None:
                split.reported = record.rollout.state.status, record.rollout.state.step

    async def run(self) -> None:
        """Look at all splits each second, until cancelled."""
        while True:
            if self._splits.routes():
                await self.tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._wake.wait()
            self._wake.clear()

    async def close(self) -> None:
        """Save the last counts, and give up the lead."""
        async with self._lock:
            if self._made is not None:
                await self._made.close()

    async def tick(self) -> None:
        """Look at all splits once."""
        async with self._lock:
            known = self._splits.routes()
            await self._load([name for name in known if not self._split(name).is_loaded], running=True)
            names = [name for name in known if self._concerns(name)]
            if any(self._is_active(name) for name in names):
                await self._read(names)
            try:
                for name in names:
                    await self._look(name)
            except StoreUnavailable as error:
                self._on_lost(str(error))
            else:
                self._on_found()

    # What is shown

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the state of each rollout in the configuration, as JSON-able values."""
        return {name: self._status(name) for name in self._settings()}

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the part of the metrics."""
        found = {}
        for name in self._settings():
            split = self._split(name)
            rollout = self._rollout(name)
            found[name] = {
                "status": rollout.state.status.value if rollout is not None else "idle",
                "leads": split.leads,
                "changes": dict(split.changes),
            }
        return found

    def ended_versions(self, config: Config) -> set[str]:
        """Return the services of old versions that no user has any more, because their rollout is done."""
        found = set()
        for name, pair in config.versions.items():
            record = self._split(name).record
            done = record is not None and record.rollout is not None and record.rollout.state.status is Status.DONE
            if done and record is not None and record.weights == {pair.old: 0, pair.new: ALL}:
                found.add(pair.old)
        return found

    # Changes by operators

    async def change(self, arguments: Mapping[str, str], by: str) -> dict[str, Any]:
        """Start, pause, resume, skip a step of, or abort a rollout. :raises ChangeRefused: if it cannot be done."""
        action, name = arguments.get("action", ""), arguments.get("route", "")
        settings = self._settings()
        if action not in ACTIONS:
            raise InvalidChange(f"found the action {action!r}; allowed are {', '.join(ACTIONS)}")
        if not settings:
            raise NotFound("no route has a rollout")
        if not name and len(settings) == 1:
            (name,) = settings
        if name not in settings:
            raise NotFound(f"no rollout on route {name!r}; routes with a rollout: {', '.join(settings)}")
        async with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    if await self._try(name, action, by, settings[name].plan):
                        break
                except StoreUnavailable as error:
                    self._abort_without_store(name, action, by, error)
                    await self._follow(name)
                    break
            else:
                raise ChangeRefused("other gateways change this rollout at the same time; try again")
            status = self._status(name)
        return {"message": status["text"], "rollout": status}

    async def _try(self, name: str, action: str, by: str, plan: Plan) -> bool:
        """Make a change. Returns False if another gateway has changed the record meanwhile."""
        split = self._split(name)
        turn = await self._turn(name)
        if (lost := _lost(turn.record, split.record)) is not None:
            await self._store.restore(name, lost)
            return False
        split.record = turn.record
        record = turn.record or Record(self._splits.file_weights(name))
        active = record.active
        if action == "start":
            self._check_start(name, plan, active)
            state = replace(start(plan, turn.now), reason=f"started by {by}")
        elif active is None:
            raise ChangeRefused(f"{name}: no rollout is in progress; begin with start")
        else:
            before = adapt(plan, active.shares, active.state, turn.now)
            if action == "resume" and before.status is not Status.PAUSED:
                raise ChangeRefused(f"{name}: the rollout is not paused")
            state = _changed(plan, before, action, turn.now, by)
        written = self._next(name, record, plan, state, by)
        if not await self._store.write(name, written, leading=False):
            return False
        split.record, split.wanted, split.forced = written, None, None
        await self._follow(name)
        return True

    def _check_start(self, name: str, plan: Plan, active: Progress | None) -> None:
        if active is not None:
            raise ChangeRefused(f"{name}: a rollout is in progress; abort it first")
        _, new = self._sides(name)
        present = self._splits.weights(name)[new]
        first = 0 if plan.shadow is not None else plan.steps[0].per_mille
        if present > first:
            raise ChangeRefused(
                f"{name}: {new} has {present} per mille of the users, and the rollout begins with {first}: users would "
                f"return to the old service; begin with `passerelle split {name} {new}={first}`"
            )

    def _abort_without_store(self, name: str, action: str, by: str, error: StoreUnavailable) -> None:
        """Return all users to the old side at once; anything else needs the store."""
        split = self._split(name)
        if action != "abort" or split.record is None or split.record.active is None:
            raise ChangeRefused(f"{name}: the state cannot be kept: {error}") from error
        split.forced = abort(split.record.active.state, time.time(), f"aborted by {by}")

    # One look

    def _concerns(self, name: str) -> bool:
        split = self._split(name)
        return self._store.is_shared or self._is_active(name) or split.wanted is not None or split.forced is not None

    def _is_active(self, name: str) -> bool:
        record = self._split(name).record
        return record is not None and record.active is not None

    async def _read(self, names: list[str]) -> None:
        """Read what the workers have counted."""
        await self._splits.read()
        records = [self._split(name).record for name in names]
        in_shadow = any(r is not None and r.active is not None and r.active.state.step < 0 for r in records)
        if in_shadow and self._clock() - self._compared_at >= _SHADOW_INTERVAL:
            self._compared_at = self._clock()
            for route, report in merge_reports(await self._shadows()).items():
                failed = sum(report["failed"].values())
                self._compared[route] = report["compared"] + failed, report["differing"] + failed

    async def _turn(self, name: str) -> Turn:
        """Publish the own counts, and return the state in the store."""
        split = self._split(name)
        wants_lead = name in self._settings() and self._is_active(name)
        turn = await self._store.turn(name, split.epoch, self._counted(name) - split.base, wants_lead=wants_lead)
        split.leads = turn.leads and wants_lead
        return turn

    async def _look(self, name: str) -> None:
        split, counted = self._split(name), self._split(name).epoch
        turn = await self._turn(name)
        record = turn.record
        if (lost := _lost(record, split.record)) is not None:
            await self._store.restore(name, lost)
            return
        if record is not None:
            split.record = record
            if record.active is not None and await self._end_if_needed(name, record, record.active, turn.now):
                return
        if split.wanted is not None and not await self._write_weights(name, record):
            return
        await self._follow(name)
        active = record.active if record is not None else None
        if record is not None and active is not None and active.epoch == counted:
            split.tally = turn.tally
            if split.leads:
                await self._lead(name, record, active, turn)

    async def _end_if_needed(self, name: str, record: Record, active: Progress, now: float) -> bool:
        """Write an end that the store does not have yet. Returns False if the rollout goes on."""
        split = self._split(name)
        old, new = self._sides(name)
        weights: dict[str, int] | None = {old: ALL, new: 0}
        if split.forced is not None:
            state = replace(split.forced, step=active.state.step)
        elif name not in self._settings():
            state, weights = abort(active.state, now, "the rollout was removed from the file"), None
        elif self._weights(name, record) is None:
            state, weights = abort(active.state, now, "the services of the split have changed"), None
        else:
            return False
        ended = replace(active, state=state, epoch=record.revision + 1, slow_after=None)
        written = record.following(
            file=self._splits.file_weights(name), weights=weights, rollout=ended, by=ROLLOUT, reason=state.reason
        )
        if await self._store.write(name, written, leading=False):
            split.record, split.forced = written, None
            await self._follow(name)
        return True

    async def _write_weights(self, name: str, record: Record | None) -> bool:
        """Write weights that an operator has set, or those of a changed file. Returns False if the store changed."""
        split = self._split(name)
        assert split.wanted is not None
        weights, by, reason = split.wanted
        record = record or Record(self._splits.file_weights(name))
        if record.active is not None:
            split.wanted = None  # the rollout began meanwhile on another gateway
            return True
        file = self._splits.file_weights(name)
        changed = record.following(file=file, weights=weights, rollout=None, by=by, reason=reason)
        if not await self._store.write(name, changed, leading=False):
            return False
        split.record, split.wanted = changed, None
        return True

    async def _lead(self, name: str, record: Record, active: Progress, turn: Turn) -> None:
        """Judge, and write what follows."""
        split, settings = self._split(name), self._settings()[name]
        plan = settings.plan
        state = adapt(plan, active.shares, active.state, turn.now)
        if state == active.state:
            state = advance(plan, state, _sample(turn))
        if state != active.state or active.shares != _shares(plan):
            written = self._next(name, record, plan, state, ROLLOUT)
        elif active.slow_after is None and state.step >= 0:
            slow_after = self._slow_after(name, settings.slower)
            if slow_after is None:
                return
            written = record.following(rollout=replace(active, slow_after=slow_after))
        else:
            return
        try:
            if not await self._store.write(name, written, leading=True):
                return
        except StoreUnavailable:
            if state.status is Status.ROLLED_BACK:
                split.forced = state
                await self._follow(name)
            raise
        split.record = written
        await self._follow(name)

    def _next(self, name: str, record: Record, plan: Plan, state: State, by: str) -> Record:
        """Return the record for ``state``, with the share that ``plan`` has there."""
        before = record.active
        if before is None or (state.step, state.since) != (before.state.step, before.state.since):
            epoch = record.revision + 1  # no record has had it before
        else:
            epoch = before.epoch
        slow_after = before.slow_after if before is not None and state.status not in ENDED else None
        old, new = self._sides(name)
        on_new = share(plan, state)
        return record.following(
            file=self._splits.file_weights(name),
            weights={old: ALL - on_new, new: on_new},
            rollout=Progress(_shares(plan), state, epoch, slow_after),
            by=by,
            reason=state.reason,
        )

    # What follows from a record

    async def _follow(self, name: str) -> None:
        """Apply the record: weights, threshold of slow requests, and the counts of a new epoch."""
        split = self._split(name)
        record = split.record
        if record is None:
            return
        weights = self._weights(name, record)
        if weights is None:
            return
        self._hold(name, record)
        if split.wanted is None and not self._splits.is_applied(name, weights):
            actor = ROLLOUT if record.rollout is not None else SHARED
            await self._splits.set(name, weights, actor=actor, reason=record.reason)
        rollout = record.rollout
        if rollout is None:
            return
        if rollout.slow_after != split.slow_after:
            await self._splits.set_slow_after(name, rollout.slow_after)
            split.slow_after = rollout.slow_after
        if rollout.epoch != split.epoch:
            await self._splits.read()
            split.epoch, split.tally = rollout.epoch, Tally()
            # The comparisons of a shadow step may be older than it.
            split.base = replace(self._counted(name), comparisons=0, differences=0)
        self._report(name, split)

    def _weights(self, name: str, record: Record) -> dict[str, int] | None:
        """Return the weights that this gateway applies. None if the record is about other services."""
        file = self._splits.file_weights(name)
        if record.weights is None:
            return file
        if list(record.weights) != list(file):
            return None
        weights = dict(record.weights)
        settings, active = self._settings().get(name), record.active
        if active is None:
            return weights
        old, new = self._sides(name)
        on_new = 0 if self._split(name).forced is not None else weights[new]
        if settings is not None:
            # Another gateway may lead with another plan: only shares of the own one are applied.
            on_new = max(planned for planned in (0, *_shares(settings.plan)) if planned <= on_new)
        return {old: ALL - on_new, new: on_new}

    def _hold(self, name: str, record: Record) -> None:
        """Keep others from changing weights while a rollout is in progress."""
        text, config = None, self._config()
        if record.active is not None and self._split(name).forced is None:
            text = f"{name}: a rollout is in progress; abort it first"
        elif name in config.versions and config.versions[name].old in self.ended_versions(config):
            text = f"{name}: the old version has ended; to return to it, make it the second version in the file"
        self._splits.hold(name, text)

    def _on_change(self, route: str, weights: Mapping[str, int], actor: str, reason: str) -> None:
        """Note weights that an operator or the file has set, for the store."""
        if actor in (ROLLOUT, SHARED):
            return
        record = self._split(route).record
        if actor == "file" and (record is None or (record.weights is None and record.rollout is None)):
            return  # nothing is kept that the file would replace
        self._split(route).wanted = None if actor == "file" else weights, actor, reason
        self._wake.set()

    def _after_damage(self, name: str, problem: str) -> Record | None:
        """Return the record of a rollout that is paused, because its state cannot be read."""
        settings = self._settings().get(name)
        if settings is None:
            return None
        plan = settings.plan
        file = self._splits.file_weights(name)
        old, new = self._sides(name)
        # The share of the file is the last one that is known.
        present = State(Status.PAUSED, 0, time.time())
        state = replace(adapt(plan, (file[new], ALL + 1), present, time.time()), reason=problem)
        on_new = share(plan, state)
        progress = Progress(_shares(plan), state)
        return Record(file, {old: ALL - on_new, new: on_new}, progress, 1, ROLLOUT, problem)

    # Helpers

    @property
    def _store(self) -> SplitStore:
        if self._made is None:
            self._made = self._make_store()
        return self._made

    def _settings(self) -> dict[str, Rollout]:
        known = self._splits.routes()
        return {name: rollout for name, rollout in self._config().rollouts.items() if name in known}

    def _split(self, name: str) -> _Split:
        return self._known.setdefault(name, _Split())

    def _rollout(self, name: str) -> Progress | None:
        """Return the rollout of a split; None if it has none between its present services."""
        record = self._split(name).record
        return record.rollout if record is not None and self._weights(name, record) is not None else None

    def _sides(self, name: str) -> tuple[str, str]:
        old, new, *_ = self._splits.file_weights(name)
        return old, new

    def _counted(self, name: str) -> Tally:
        """Return what the workers have counted on the two sides."""
        old, new = list(self._splits.counts(name).values())[:2]
        comparisons, differences = self._compared.get(name, (0, 0))
        return Tally(
            old.requests,
            new.requests,
            old.failed_users,
            new.failed_users,
            old.slow_users,
            new.slow_users,
            comparisons,
            differences,
            old.failed,
            new.failed,
        )

    def _slow_after(self, name: str, factor: float) -> float | None:
        old: SideCounts = next(iter(self._splits.counts(name).values()))
        if not old.latency:
            return None
        times = LatencyHistogram(old.latency)
        median = times.quantile(0.5)
        return factor * median if median is not None and times.total >= _MEDIAN_OF else None

    # Reports

    def _status(self, name: str) -> dict[str, Any]:
        split, (old, new) = self._split(name), self._sides(name)
        rollout = self._rollout(name)
        state = split.forced or (rollout.state if rollout is not None else None)
        found = {
            "old": old,
            "new": new,
            "share": self._splits.weights(name)[new],
            "leads": split.leads,
            "shared": self._store.is_shared,
            "problem": self._problem,
            **describe(self._settings()[name].plan, state, split.tally),
        }
        return found | {"text": in_one_line(name, found)}

    def _report(self, name: str, split: _Split, again: str = "") -> None:
        """Record the state of a rollout as an event and in the log, if it has changed."""
        assert split.record is not None and split.record.rollout is not None
        state = split.forced or split.record.rollout.state
        if (state.status, state.step) == split.reported:
            return
        split.reported = state.status, state.step
        if state.status is Status.DONE:
            self.on_done()
        split.changes[state.status.value] += 1
        if name not in self._settings():
            return
        status = self._status(name)
        text = f"rollout of {status['text']}" + (f"; {again}" if again else "")
        self._log(text)
        self._events.record(
            "rollout",
            text,
            route=name,
            **flat(state.evidence)
            | {
                "status": state.status.value,
                "step": state.step,
                "share": status["share"],
                "reason": state.reason,
            },
        )

    def _on_lost(self, why: str) -> None:
        if self._problem != why:
            self._problem = why
            text = f"rollouts: {why}; shares stay as they are, and steps wait"
            self._log(text)
            self._events.record("store", text)

    def _on_found(self) -> None:
        if self._problem:
            self._problem = ""
            text = "rollouts: their state can be kept again"
            self._log(text)
            self._events.record("store", text)


def _lost(found: Record | None, known: Record | None) -> Record | None:
    """Return the known record if the store has an earlier one: it has lost data."""
    return known if known is not None and (found is None or found.revision < known.revision) else None


def _changed(plan: Plan, state: State, action: str, now: float, by: str) -> State:
    """Return the state after what an operator does."""
    if action == "pause":
        return pause(state, f"paused by {by}")
    if action == "resume":
        return replace(resume(state, now), reason=f"resumed by {by}")
    if action == "skip":
        return skip(plan, state, now, f"skipped by {by}")
    return abort(state, now, f"aborted by {by}")


def _shares(plan: Plan) -> tuple[int, ...]:
    return tuple(step.per_mille for step in plan.steps)


def _sample(turn: Turn) -> Sample:
    tally = turn.tally
    return Sample(
        turn.now,
        tally.old_requests,
        tally.new_requests,
        Counts(tally.old_failed, tally.new_failed),
        Counts(tally.old_slow, tally.new_slow),
        tally.comparisons,
        tally.differences,
        Counts(tally.old_failures, tally.new_failures),
    )
