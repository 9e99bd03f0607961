"""What is kept about a split over restarts: weights that were set at run time, and the state of its rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from passerelle.crossing.rollout import ALL, ENDED, State, Status


@dataclass(frozen=True, slots=True)
class Tally:
    """What happened on both sides since a step of a rollout began.

    Failed and slow requests are counted once per user and minute; ``…_failures`` are all failed requests.
    """

    old_requests: int = 0
    new_requests: int = 0
    old_failed: int = 0
    new_failed: int = 0
    old_slow: int = 0
    new_slow: int = 0
    comparisons: int = 0
    differences: int = 0
    old_failures: int = 0
    new_failures: int = 0

    def numbers(self) -> list[int]:
        """Return the counts in the order of the fields."""
        return [getattr(self, each.name) for each in fields(self)]

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(one + two for one, two in zip(self.numbers(), other.numbers(), strict=True)))

    def __sub__(self, other: Tally) -> Tally:
        return Tally(*(one - two for one, two in zip(self.numbers(), other.numbers(), strict=True)))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a rollout is. ``shares`` are those of the steps of its plan, in per mille.

    ``epoch`` grows whenever its counts begin again. ``slow_after`` is the time from which requests count as slow, in
    seconds; None as long as the latency of the old side is not known.
    """

    shares: tuple[int, ...]
    state: State
    epoch: int = 1
    slow_after: float | None = None

    @property
    def is_active(self) -> bool:
        """Whether the rollout has not ended."""
        return self.state.status not in ENDED

    @property
    def share(self) -> int:
        """The share of the users on the new side, in per mille."""
        if self.state.status is Status.DONE:
            return ALL
        return self.shares[self.state.step] if self.is_active and self.state.step >= 0 else 0


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept about a split. Each write gives it the next ``revision``.

    ``file`` are the weights that the file had then. ``weights`` are those in force, or None for those of the file.
    """

    file: Mapping[str, int]
    weights: Mapping[str, int] | None = None
    rollout: Progress | None = None
    revision: int = 0
    by: str = ""
    reason: str = ""

    @property
    def active(self) -> Progress | None:
        """The rollout, if it has not ended."""
        return self.rollout if self.rollout is not None and self.rollout.is_active else None

    def following(self, **changes: Any) -> Record:
        """Return the record with ``changes``, to be written over this one."""
        return replace(self, revision=self.revision + 1, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        found: dict[str, Any] = {
            "revision": self.revision,
            "file": dict(self.file),
            "weights": None if self.weights is None else dict(self.weights),
            "by": self.by,
            "reason": self.reason,
            "rollout": None,
        }
        if (rollout := self.rollout) is not None:
            found["rollout"] = {
                "shares": list(rollout.shares),
                "state": rollout.state.to_json(),
                "epoch": rollout.epoch,
                "slow_after": rollout.slow_after,
            }
        return found

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Read what :meth:`to_json` wrote. :raises ValueError: if it is something else."""
        try:
            weights, rollout = value["weights"], value["rollout"]
            record = cls(
                _weights(value["file"]),
                None if weights is None else _weights(weights),
                None if rollout is None else _progress(rollout),
                _whole(value["revision"]),
                str(value["by"]),
                str(value["reason"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the record of a split: {error}") from None
        active = record.active
        if active is not None and (record.weights is None or [*record.weights.values()][1:] != [active.share]):
            raise ValueError("the weights are not those of the step of the rollout")
        return record


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it was found at a start; ``problem`` is why there is none, although there should be."""

    record: Record | None = None
    tally: Tally = field(default_factory=Tally)
    problem: str = ""


def _whole(found: Any) -> int:
    if type(found) is not int or not 0 <= found <= 1 << 53:
        raise ValueError(f"found {str(found)[:40]!r} in place of a number")
    return found


def _weights(found: Any) -> dict[str, int]:
    weights = {str(side): _whole(weight) for side, weight in found.items()}
    if not 2 <= len(weights) <= 8 or sum(weights.values()) != ALL:
        raise ValueError(f"found weights with the sum {sum(weights.values())}")
    return weights


def _progress(found: Any) -> Progress:
    shares = tuple(_whole(share) for share in found["shares"])
    state, slow = State.from_json(found["state"]), found["slow_after"]
    if not shares or list(shares) != sorted(set(shares)) or shares[-1] != ALL or shares[0] < 1 or len(shares) > 50:
        raise ValueError("found shares that are no plan")
    if not -1 <= state.step < len(shares):
        raise ValueError(f"found step {state.step} of {len(shares)}")
    if slow is not None and (type(slow) is not float or not 0 < slow < 1e6):
        raise ValueError(f"found {str(slow)[:40]!r} as a time")
    return Progress(shares, state, _whole(found["epoch"]), slow)
