"""What a scenario finds out, and what is judged by it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.rig.pairs import Run, median_ratio

CPU_US = "us"  # CPU microseconds of the server a request
RPS = "rps"  # requests per second
P99 = "p99_us"  # microseconds that one request in a hundred took longer than


@dataclass(frozen=True)
class Target:
    """A bound on a figure's ratio, or on our own value where there is nothing to compare it with."""

    bound: float
    at_most: bool = True
    absolute: bool = False

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}{'' if self.absolute else ' x'}"


@dataclass(frozen=True)
class Figure:
    """One comparison: medians of ours and of the peer's in ``unit``, and the median of the pairwise ratios."""

    scenario: str
    variant: str
    unit: str
    ours: float
    peer: str | None = None
    theirs: float | None = None
    ratio: float | None = None
    pairs: int = 1
    errors: int = 0
    noisy: bool = False
    target: Target | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; ``None`` without one, or when there was nothing to compare with."""
        value = self.ours if self.target and self.target.absolute else self.ratio
        return None if self.target is None or value is None else self.target.met(value)

    def line(self) -> dict[str, Any]:
        """As the report and ``--json`` show it."""
        shown: dict[str, Any] = {
            "scenario": self.scenario,
            "variant": self.variant,
            f"ours_{self.unit}": rounded(self.ours),
            "peer": self.peer,
            f"peer_{self.unit}": rounded(self.theirs),
            "ratio": rounded(self.ratio),
            "pairs": self.pairs,
            "errors": self.errors,
            "noisy": self.noisy,
        }
        if self.target is not None:
            shown |= {"target": str(self.target), "met": self.met}
        return shown | {key: rounded(value) for key, value in self.more.items()}


def pooled(starts: Sequence[Sequence[Figure]]) -> list[Figure]:
    """One figure of each comparison from those of several starts of the servers: the medians of theirs.

    From one start to the next a server's speed differs by more than from run to run. A comparison that a start lacks is
    made of the others.
    """
    found: dict[tuple[str, str, str | None], list[Figure]] = {}
    for figures in starts:
        for figure in figures:
            found.setdefault((figure.variant, figure.unit, figure.peer), []).append(figure)
    return [_pool(figures) for figures in found.values()]


def _pool(figures: Sequence[Figure]) -> Figure:
    def middle(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return replace(
        figures[-1],
        ours=statistics.median(each.ours for each in figures),
        theirs=middle(each.theirs for each in figures),
        ratio=middle(each.ratio for each in figures),
        pairs=sum(each.pairs for each in figures),
        errors=sum(each.errors for each in figures),
        noisy=any(each.noisy for each in figures),
    )


def rounded(value: Any) -> Any:
    """Four significant digits of a small float, none after the point of a large one; anything else as it is."""
    if not isinstance(value, float):
        return value
    return round(value) if abs(value) >= 10_000 else float(f"{value:.4g}")


def _figure(
    unit: str,
    scenario: str,
    variant: str,
    ours: Sequence[Run],
    peer: str | None = None,
    theirs: Sequence[Run] = (),
    target: Target | None = None,
) -> Figure:
    """Compare what runs have in ``unit``; their other medians are shown beside it."""
    own, others = [getattr(run, unit) for run in ours], [getattr(run, unit) for run in theirs]
    return Figure(
        scenario,
        variant,
        unit,
        statistics.median(own),
        peer,
        statistics.median(others) if others else None,
        median_ratio(own, others) if others else None,
        len(ours),
        sum(run.errors for run in [*ours, *theirs]),
        any(run.noisy for run in [*ours, *theirs]),
        target,
        _beside("ours", unit, ours) | _beside("peer", unit, theirs),
    )


cpu_figure = partial(_figure, CPU_US)
rps_figure = partial(_figure, RPS)
p99_figure = partial(_figure, P99)


def _beside(side: str, unit: str, runs: Sequence[Run]) -> dict[str, float]:
    """The medians of what is not compared itself."""
    if not runs:
        return {}
    kinds = [kind for kind in (CPU_US, RPS, "p50_us", "p99_us") if kind != unit]
    return {f"{side}_{kind}": statistics.median(getattr(run, kind) for run in runs) for kind in kinds}
