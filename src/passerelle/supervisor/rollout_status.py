"""The state of a rollout as JSON-able values and in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passerelle.crossing.rollout import ENDED, Plan, State, Status
from passerelle.supervisor.split_record import Tally


def describe(plan: Plan, state: State | None, tally: Tally) -> dict[str, Any]:
    """Return the state of a rollout by ``plan``, with what was counted in its step; None if it was never started."""
    steps = [step.per_mille for step in plan.steps]
    if state is None:
        return {"status": "idle", "steps": steps, "step": None, "since": None, "reason": "", "evidence": {}} | _NOTHING
    found = {
        "status": state.status.value,
        "steps": steps,
        "step": state.step,
        "since": round(state.since, 3),
        "reason": state.reason,
        "evidence": state.evidence,
    }
    if state.status in ENDED:
        return found | _NOTHING
    return found | {
        "counts": {
            "old": {"requests": tally.old_requests, "failed": tally.old_failures, "slow": tally.old_slow},
            "new": {"requests": tally.new_requests, "failed": tally.new_failures, "slow": tally.new_slow},
            "comparisons": tally.comparisons,
            "differences": tally.differences,
        },
        "waits_for": _waits_for(plan, state, tally),
    }


_NOTHING: dict[str, Any] = {"counts": {}, "waits_for": ""}


def _waits_for(plan: Plan, state: State, tally: Tally) -> str:
    """Return what the next step needs."""
    if state.status is Status.PAUSED:
        return "an operator"
    if state.step < 0:
        needed = plan.shadow.comparisons if plan.shadow is not None else 0
        missing = needed - tally.comparisons
        return _more(missing, "comparison") if missing > 0 else "a rate of differences that is clear"
    missing = plan.steps[state.step].requests - tally.new_requests
    return _more(missing, "request") if missing > 0 else "the end of its time"


def _more(number: int, what: str) -> str:
    return f"{number} more {what}{'s' if number > 1 else ''}"


def in_one_line(name: str, status: Mapping[str, Any]) -> str:
    """Return the status of the rollout ``name`` in one line."""
    words = {"idle": "not started", "shadow": "responses are compared", "rolled_back": "rolled back"}
    word, steps = words.get(status["status"], status["status"]), status["steps"]
    text = f"{name}: {word}, {status['share'] / 10:g} % of the users on {status['new']}"
    if status["status"] in ("running", "paused") and status["step"] >= 0:
        text += f" (step {status['step'] + 1} of {len(steps)})"
    if status["reason"]:
        text += f": {status['reason']}"
    evidence = status["evidence"]
    if status["status"] == "rolled_back" and "new" in evidence:
        old, new = evidence["old"], evidence["new"]
        text += f" (old: {old['events']} of {old['requests']} requests, new: {new['events']} of {new['requests']})"
    elif status["status"] == "rolled_back" and "differences" in evidence:
        text += f" ({evidence['differences']} of {evidence['comparisons']})"
    return text


def flat(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return evidence without nested objects, for the detail of an event."""
    found: dict[str, Any] = {}
    for name, value in evidence.items():
        found |= {f"{name}_{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return found
