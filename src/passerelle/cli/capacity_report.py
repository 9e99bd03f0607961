"""What both kinds of ``passerelle capacity`` report: the prediction as text, as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from passerelle.cli.capacity_plot import svg_plot
from passerelle.scaling.usl import Capacity, Point


def verdict(found: Capacity | None, problem: str) -> list[str]:
    """Return the lines about the peak, the knee and the law, or why there is no prediction."""
    if found is None:
        return [f"no prediction: {problem}"]
    law, peak, knee = found.law, found.peak, found.comfortable
    at = law.peak_concurrency
    where = f"at {at:.0f} in flight" if at < float("inf") else "a limit that it approaches"
    if found.by_cpus:
        where += "; then all CPUs of this machine are busy"
    return [
        f"peak: {peak.value:.0f} requests/s ({peak.low:.0f} to {peak.high:.0f}), {where}",
        f"knee: {knee.value:.0f} requests/s ({knee.low:.0f} to {knee.high:.0f}) at {law.knee:.0f} in flight; beyond,"
        " requests mostly wait for each other",
        f"law: λ = {law.rate:.4g}/s, σ = {law.contention:.3g}, κ = {law.coherency:.3g}; intervals of 90 %",
    ]


def needed(found: Capacity | None, rate: float | None, instances: tuple[str, int] | None) -> list[str]:
    """Return the line about the instances that ``rate`` needs; ``instances`` has the service and how many there are."""
    if found is None or rate is None:
        return []
    if instances is None:
        return [f"{rate:g} requests/s: the number of instances is not known; give it with --instances"]
    name, number = instances
    wanted = found.instances_for(rate, number)
    return [
        f"{rate:g} requests/s need {wanted.value:.0f} instances of {name} ({wanted.low:.0f} to {wanted.high:.0f}) at"
        f" the knee, if capacity is proportional to their number ({number} were measured)"
    ]


def found_as_json(found: Capacity | None, rate: float | None, instances: tuple[str, int] | None) -> dict[str, Any]:
    """Return the prediction as JSON values; empty without one."""
    if found is None:
        return {}
    at = found.law.peak_concurrency
    result: dict[str, Any] = {
        "law": {"rate": found.law.rate, "contention": found.law.contention, "coherency": found.law.coherency},
        "peak": {**found.peak._asdict(), "in_flight": at if at < float("inf") else None},
        "knee": {**found.comfortable._asdict(), "in_flight": found.law.knee},
    }
    if rate is not None and instances is not None:
        name, number = instances
        result["needed"] = {"service": name, "measured": number, **found.instances_for(rate, number)._asdict()}
    return result


def write_plot(file: str, points: Sequence[Point], found: Capacity | None, title: str) -> None:
    """Write the plot. :raises click.UsageError: if that is not possible."""
    try:
        Path(file).write_text(svg_plot(points, found, title), "utf-8")
    except OSError as error:
        raise click.UsageError(f"cannot write {file}: {(error.strerror or str(error)).lower()}") from None
