"""Plots of the results as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.simulation.spread import POLICIES, Spread
from benchmarks.simulation.storm import BEGIN, END, STEP, Storm

# Reproducible output: text as text, ids from a fixed salt, no date.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "passerelle", "font.size": 9})


def spread_plot(results: Sequence[Spread], path: Path) -> None:
    """Plot p50 and p99 against the number of instances, one line per policy."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("p50", "p99"), strict=True):
        for policy in POLICIES:
            own = [result for result in results if result.policy == policy]
            values = [getattr(result, name) * 1000 for result in own]
            axes.plot([result.instances for result in own], values, marker="o", markersize=3, label=policy)
        axes.set(title=name, xscale="log", xlabel="instances", ylabel="ms")
        if name == "p99":
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, None)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save(figure, path)


def tail_plot(results: Sequence[Spread], path: Path) -> None:
    """Plot the distribution of latencies at the largest number of instances."""
    most = max(result.instances for result in results)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for result in results:
        if result.instances == most:
            longer = [1 - (place + 1) / 1000 for place in range(999)]
            axes.plot([value * 1000 for value in result.latencies[:999]], longer, label=result.policy)
    axes.set(xscale="log", yscale="log", xlim=(1, None), xlabel="ms", ylabel="part of the requests that took longer")
    axes.set_title(f"{most} instances")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save(figure, path)


def storm_plot(results: Sequence[Storm], path: Path) -> None:
    """Plot goodput and load over time, one line per variant; the outage is shaded."""
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for result in results:
        times = [step * STEP for step in range(len(result.goodput))]
        upper.plot(times, result.goodput, label=result.variant, linewidth=1)
        lower.plot(times, result.load, linewidth=1)
    upper.set(ylabel="answered in time", ylim=(-0.02, 1.05))
    lower.set(ylabel="attempts / capacity", xlabel="seconds", ylim=(0, None))
    for axes in (upper, lower):
        axes.axvspan(BEGIN, END, color="0.9")
        axes.grid(alpha=0.3)
    upper.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write an SVG that is the same for the same figures."""
    figure.savefig(path, format="svg", metadata={"Date": None})
