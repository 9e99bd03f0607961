"""Command line ``python -m benchmarks.simulation.sizing``: gateways per Redis, from the results of scenario ``many``.

With ``--write``, update the tables and the plot of the documentation. Exit 0 success, 1 no results, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report.write import RESULTS, measured
from benchmarks.simulation.shared_redis import (
    BOTH,
    CACHE,
    FULL,
    LIMITS,
    Costs,
    Shared,
    Use,
    costs_of,
    cpu_of_redis,
    most_gateways,
    rate_of_worker,
    simulate,
)
from benchmarks.simulation.tables import put, table

PAGE = Path("docs/explanation/many-gateways.md")
PLOT = Path("docs/images/many-gateways.svg")
GATEWAYS = (3, 5, 10, 20, 50, 100)
WORKERS = (1, 4)
ZONES = 3
LEASE, PAUSE = 10, 0.001


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation.sizing", description="Gateways per Redis.")
    parser.add_argument("--results", type=Path, default=RESULTS / "latest.json", help="results of `many`")
    parser.add_argument("--write", action="store_true", help=f"update the tables in {PAGE} and the plot {PLOT}")
    options = parser.parse_args(argv)
    try:
        content = json.loads(options.results.read_text())
        scenario = content["scenarios"]["many"]
        costs = costs_of(scenario)
    except (OSError, KeyError, ValueError) as error:
        print(f"no usable results in {options.results}: {error}; run python -m benchmarks many", file=sys.stderr)
        return 1
    found = {use.name: [simulate(costs, use, count, workers) for workers in WORKERS for count in GATEWAYS]
             for use in (LIMITS, CACHE, BOTH)}  # fmt: skip
    texts = {
        "throughput": throughput_table(scenario),
        "costs": f"{measured(content['machine'], scenario)}{_disturbed(scenario)}\n\n{costs_table(costs)}",
        "gateways": gateways_table(found),
        "remedies": remedies_table(costs),
    }
    if not options.write:
        print(*texts.values(), sep="\n\n")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    for name, text in texts.items():
        page = put(page, name, f"\n{text}\n")
    PAGE.write_text(page, encoding="utf-8")
    plot(costs, PLOT)
    return 0


def _disturbed(scenario: dict[str, Any]) -> str:
    if any(line["noisy"] for line in scenario["figures"]):
        return " Other processes used the machine meanwhile, so the figures are too high."
    return ""


def throughput_table(scenario: dict[str, Any]) -> str:
    """Format the throughput on two CPUs, with what each kind of process takes of them."""
    kinds = ("gateway", "nginx", "upstream", "load")
    rows = []
    for line in scenario["figures"]:
        if "load_share" in line:
            shares = [f"{line[f'{kind}_share'] * 100:.0f} %" if f"{kind}_share" in line else "" for kind in kinds]
            ratio = f"{line['ratio']:.2f} × {line['peer']}" if line["ratio"] is not None else ""
            rows.append((line["variant"], f"{line['ours_rps']:,.0f}", ratio, *shares))
    return table(("system", "requests/s", "beside", "gateway", "nginx", "upstream", "load"), rows)


def costs_table(costs: Costs) -> str:
    """Format the costs in microseconds of CPU."""
    rows = [
        ("a request that is forwarded", _us(costs.worker["forward"]), ""),
        ("… with a limit in Redis", _us(costs.worker["limit"]), _us(costs.limit)),
        ("… of that for the turn of the connection", "", _us(costs.turn)),
        ("a response that Redis has", _us(costs.worker["found in redis"]), _us(costs.read)),
        ("a response that is stored in Redis", _us(costs.worker["stored in redis"]), _us(costs.write)),
        ("an invalidation", "", _us(costs.invalidation)),
        ("… for each worker that receives it", "", _us(costs.receiver)),
    ]
    return table(("µs of CPU", "worker", "Redis"), rows)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def gateways_table(found: dict[str, list[Shared]]) -> str:
    """Format the CPU of Redis and the waits, one row for each use and number of gateways."""
    rows = []
    for name, results in found.items():
        for result in results:
            cpu = f"{result.cpu * 100:.0f} %" if result.cpu <= 1 else f"**{result.cpu * 100:,.0f} %**"
            busy = f"{result.busy * 100:.0f} %" if result.busy is not None else ""
            times = [f"{time * 1000:.2f}" if time is not None else "" for time in (result.p50, result.p99)]
            rows.append((name, str(result.gateways), str(result.workers), f"{result.rps:,.0f}", cpu, busy, *times))
    head = ("use", "gateways", "workers of each", "requests/s", "CPU of Redis", "simulated", "p50 ms", "p99 ms")
    return table(head, rows)


def remedies(costs: Costs, workers: int) -> list[tuple[str, str, int]]:
    """Return what moves the limit: its name, whether it is configuration, and the gateways that it allows."""
    together = replace(BOTH, pause=PAUSE)
    leased = replace(BOTH, lease=LEASE)
    warm = replace(BOTH, reads=BOTH.reads / 5, writes=BOTH.writes / 5)
    now, change = "configuration", "not available"

    def most(use: Use) -> int:
        return most_gateways(costs, use, workers)

    return [
        ("one Redis for both", now, most(BOTH)),
        ("limits on a tenth of the requests: routes that need none have none", now, most(replace(BOTH, checks=0.1))),
        ("a fifth of the misses: more `cache.memory` in each worker", now, most(warm)),
        (f"a Redis for each of {ZONES} zones, with a share of each limit", now, ZONES * most(BOTH)),
        ("another Redis for the cache", change, min(most(LIMITS), most(CACHE))),
        (f"checks of {PAUSE * 1000:.0f} ms sent together by each worker", change, most(together)),
        (f"leases: a worker takes {LEASE} requests of a client at a time", change, most(leased)),
    ]


def remedies_table(costs: Costs) -> str:
    """Format the number of gateways below :data:`FULL` of the CPU of Redis."""
    columns = [remedies(costs, workers) for workers in WORKERS]
    rows = [
        (name, how, *(f"{column[index][2]:,}" for column in columns)) for index, (name, how, _) in enumerate(columns[0])
    ]
    return table(("what", "how", *(f"gateways of {_workers(count)}" for count in WORKERS)), rows)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def plot(costs: Costs, path: Path) -> None:
    """Plot the CPU of Redis against the number of workers; only this needs matplotlib."""
    from matplotlib.figure import Figure

    from benchmarks.simulation import plots

    uses = {
        "limits": LIMITS,
        "cache": CACHE,
        "both": BOTH,
        f"both, checks of {PAUSE * 1000:.0f} ms together": replace(BOTH, pause=PAUSE),
        f"both, leases of {LEASE}": replace(BOTH, lease=LEASE),
    }
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = range(1, 401)
    for name, use in uses.items():
        axes.plot(counts, [cpu_of_redis(costs, use, count, 1) * 100 for count in counts], label=name)
    axes.axhline(FULL * 100, color="0.5", linestyle="--", linewidth=1)
    rate = rate_of_worker(costs, LIMITS)
    axes.set(xscale="log", ylim=(0, 200), xlabel=f"workers, {rate:,.0f} or more requests/s each", ylabel="% of one CPU")
    axes.set_title("CPU that one Redis would need")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    plots.save(figure, path)


if __name__ == "__main__":
    raise SystemExit(main())
