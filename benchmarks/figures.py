"""Figures: the results of a scenario, and their targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.rig.pairs import Run, median_ratio

CPU_US = "us"  # server CPU microseconds per request
RPS = "rps"  # requests per second
P99 = "p99_us"  # 99th percentile of the latency, in microseconds


@dataclass(frozen=True)
class Target:
    """Bound on a figure's ratio, or on passerelle's own value if there is no peer."""

    bound: float
    at_most: bool = True
    absolute: bool = False

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}{'' if self.absolute else ' x'}"


@dataclass(frozen=True)
class Figure:
    """One comparison: medians of passerelle's and the peer's runs in ``unit``, and the median pairwise ratios."""

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
        """Return whether the target is met; ``None`` without a target or a value."""
        value = self.ours if self.target and self.target.absolute else self.ratio
        return None if self.target is None or value is None else self.target.met(value)

    def line(self) -> dict[str, Any]:
        """Return the figure as shown in the report and by ``--json``."""
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
    """Combine the figures of several starts of the servers: for each comparison, the medians of the starts.

    A server's speed differs more between starts than between runs. A comparison that is missing in one start is
    computed from the others.
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
    """Round small floats to four significant digits and large ones to integers; return other values unchanged."""
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
    """Compare runs in ``unit``, and add the medians of the other units."""
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
    """Return the medians of the units that are not compared."""
    if not runs:
        return {}
    kinds = [kind for kind in (CPU_US, RPS, "p50_us", "p99_us") if kind != unit]
    return {f"{side}_{kind}": statistics.median(getattr(run, kind) for run in runs) for kind in kinds}
