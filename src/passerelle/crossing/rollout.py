"""A rollout: steps from the old side of a split to the new one, taken only while the new side is not worse.

The state is a value; :func:`advance` returns the next one. It reads no clock: samples carry their time, in seconds
since 1970, because a state is kept over restarts.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from passerelle.crossing.evidence import Counts, is_worse, log_evidence, wilson

ALL: Final = 1000
"""The whole traffic, in per mille."""


class Status(enum.Enum):
    """What a rollout is doing. The value is its name in the status, in events and in metrics."""

    SHADOW = "shadow"  # clients receive the responses of the old side; the new side's are compared
    RUNNING = "running"
    PAUSED = "paused"  # by an operator
    DONE = "done"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"  # by an operator


ENDED: Final = frozenset({Status.DONE, Status.ROLLED_BACK, Status.ABORTED})


@dataclass(frozen=True, slots=True)
class ShadowStep:
    """The comparisons before any client receives a response of the new side."""

    comparisons: int = 1000
    difference_rate: float = 0.001  # the upper bound of the rate, at 95 %, must be below


@dataclass(frozen=True, slots=True)
class Step:
    """A share of the users: at least for ``seconds``, and for ``requests`` of the new side."""

    per_mille: int
    seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, and when the new side counts as worse.

    ``alpha`` is the probability that a rollout of a new side that is no worse is rolled back. ``most_failures`` is the
    absolute bound: the failed requests of the new side that end a rollout, if they are at least half of its requests
    and concern more than one user or minute.
    """

    steps: tuple[Step, ...]
    shadow: ShadowStep | None = None
    alpha: float = 0.05
    most_failures: int = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened since the step began.

    ``failed`` and ``slow`` requests are counted once per user and minute; ``failures`` are all failed requests.
    """

    now: float
    old_requests: int = 0
    new_requests: int = 0
    failed: Counts = field(default_factory=Counts)
    slow: Counts = field(default_factory=Counts)
    comparisons: int = 0
    differences: int = 0
    failures: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class State:
    """Where a rollout is. ``step`` is the number of the step, -1 for the shadow step."""

    status: Status
    step: int
    since: float
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the state as a JSON object."""
        return {
            "status": self.status.value,
            "step": self.step,
            "since": self.since,
            "reason": self.reason,
            "evidence": self.evidence,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> State:
        """Read what :meth:`to_json` wrote. :raises ValueError: KeyError or TypeError, if it is something else."""
        return cls(
            Status(value["status"]),
            int(value["step"]),
            float(value["since"]),
            str(value["reason"]),
            dict(value["evidence"]),
        )


def start(plan: Plan, now: float) -> State:
    """Return the state at the start of ``plan``."""
    if plan.shadow is not None:
        return State(Status.SHADOW, -1, now)
    return State(Status.RUNNING, 0, now)


def share(plan: Plan, state: State) -> int:
    """Return the share of the users on the new side, in per mille."""
    if state.status is Status.DONE:
        return ALL
    if state.status in ENDED or state.step < 0:
        return 0
    return plan.steps[state.step].per_mille


def advance(plan: Plan, state: State, sample: Sample) -> State:
    """Return the state after ``sample``: the same one, the next step, the end, or a rollback with its evidence.

    A paused rollout takes no further step, and is still rolled back if the new side is worse. Too few data change
    nothing: a rollout waits for them.
    """
    if state.status in ENDED:
        return state
    if state.step < 0:
        return _after_shadow(plan, state, sample)
    reason, evidence = _why_worse(plan, state, sample)
    if reason:
        return State(Status.ROLLED_BACK, state.step, sample.now, reason, evidence)
    step = plan.steps[state.step]
    complete = sample.now - state.since >= step.seconds and sample.new_requests >= step.requests
    if state.status is Status.PAUSED or not complete:
        return state
    return skip(plan, state, sample.now, "the step is complete")


def _after_shadow(plan: Plan, state: State, sample: Sample) -> State:
    shadow = plan.shadow
    if state.status is Status.PAUSED:
        return state
    if shadow is None:  # it was paused before its first step
        return skip(plan, state, sample.now, "resumed")
    if sample.comparisons < shadow.comparisons:
        return state
    low, high = wilson(sample.differences, sample.comparisons)
    evidence = {"comparisons": sample.comparisons, "differences": sample.differences, "rate": [low, high]}
    if high < shadow.difference_rate:
        return State(Status.RUNNING, 0, sample.now, "the responses are the same", evidence)
    if low > shadow.difference_rate:
        return State(Status.ROLLED_BACK, -1, sample.now, "the responses differ", evidence)
    return state


def _why_worse(plan: Plan, state: State, sample: Sample) -> tuple[str, dict[str, Any]]:
    """Return why the new side is worse, with the evidence; an empty reason if it is not known to be."""
    requests = sample.old_requests + sample.new_requests
    if not sample.new_requests:
        return "", {}
    theta = sample.new_requests / requests
    # Two tests in each step share the error probability.
    alpha = plan.alpha / (2 * len(plan.steps))
    for reason, counts in (("more requests fail", sample.failed), ("more requests are slow", sample.slow)):
        if is_worse(counts, theta, alpha):
            return reason, _evidence(sample, counts, theta)
    failures = sample.failures
    is_bound = failures.new >= plan.most_failures and failures.new * 2 >= sample.new_requests and sample.failed.new >= 2
    if is_bound and not _old_fails_too(sample):
        return "most requests fail", _evidence(sample, failures, theta)
    return "", {}


def _old_fails_too(sample: Sample) -> bool:
    """Return whether the old side fails as much: then the cause is not the new side."""
    return sample.failures.old * 2 >= sample.old_requests > 0


def _evidence(sample: Sample, counts: Counts, theta: float) -> dict[str, Any]:
    return {
        "old": {"requests": sample.old_requests, "events": counts.old},
        "new": {"requests": sample.new_requests, "events": counts.new},
        "share": round(theta, 4),
        "log_evidence": round(log_evidence(counts, theta), 2),
    }


# ---- what an operator does


def skip(plan: Plan, state: State, now: float, reason: str = "skipped") -> State:
    """Go on to the next step at once."""
    if state.status in ENDED:
        return state
    following = state.step + 1
    last = plan.steps[state.step].per_mille >= ALL if state.step >= 0 else False
    if last or following >= len(plan.steps):
        return State(Status.DONE, state.step, now, reason)
    return State(Status.RUNNING, following, now, reason)


def pause(state: State, reason: str = "paused") -> State:
    """Take no further step; the share stays as it is."""
    return state if state.status in ENDED else replace(state, status=Status.PAUSED, reason=reason)


def resume(state: State, now: float) -> State:
    """Continue a paused rollout; its step begins again."""
    if state.status is not Status.PAUSED:
        return state
    return State(Status.SHADOW if state.step < 0 else Status.RUNNING, state.step, now, "resumed")


def abort(state: State, now: float, reason: str = "aborted") -> State:
    """End the rollout; all users return to the old side."""
    return state if state.status in ENDED else State(Status.ABORTED, state.step, now, reason)


def adapt(plan: Plan, shares: Sequence[int], state: State, now: float) -> State:
    """Return ``state``, which a plan with steps of ``shares`` has reached, for ``plan``.

    If the plans differ, the rollout is paused at the greatest share of ``plan`` that does not exceed the present one.
    """
    if state.status in ENDED or tuple(shares) == tuple(step.per_mille for step in plan.steps):
        return state
    present = shares[state.step] if state.step >= 0 else 0
    fitting = [number for number, step in enumerate(plan.steps) if step.per_mille <= present]
    return State(Status.PAUSED, fitting[-1] if fitting else -1, now, "the plan has changed", state.evidence)
