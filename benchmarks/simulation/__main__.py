"""Command line ``python -m benchmarks.simulation``: exit 0 success, 2 usage."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.simulation import limit, spread, storm, tables

PAGE = Path("docs/reference/balancing.md")
PLOTS = Path("docs/reference/balancing")


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, and print tables (or JSON); with --write also update the documentation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description="Balancing in simulated time.")
    parser.add_argument("--quick", action="store_true", help="fewer requests: under a minute")
    parser.add_argument("--json", action="store_true", help="results as JSON instead of tables")
    parser.add_argument("--write", action="store_true", help=f"update the tables in {PAGE} and the plots in {PLOTS}/")
    options = parser.parse_args(argv)
    begun = time.monotonic()

    spreads: list[spread.Spread] = []
    for size in spread.SIZES:
        spreads += spread.by_size(size, quick=options.quick)
        print(f"{size} instances: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    gateways = spread.by_gateways(quick=options.quick)
    storms: list[storm.Storm] = []
    for variant in storm.VARIANTS:
        storms.append(storm.simulate(variant))
        print(f"{variant.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)

    limits = limit.all_of_them()
    print(f"limits: {time.monotonic() - begun:.0f} s", file=sys.stderr)

    if options.json:
        kinds = (("spread", spreads), ("gateways", gateways), ("storm", storms), ("limits", limits))
        print(json.dumps({name: [dataclasses.asdict(result) for result in results] for name, results in kinds}))
    else:
        found = tables.spread_table(spreads), tables.gateways_table(gateways), tables.storm_table(storms)
        print(*found, tables.limits_table(limits), sep="\n\n")
    if options.write:
        write(spreads, gateways, storms, limits)
    return 0


def write(
    spreads: Sequence[spread.Spread],
    gateways: Sequence[spread.Spread],
    storms: Sequence[storm.Storm],
    limits: Sequence[limit.Limited],
) -> None:
    """Update the documentation; only this needs matplotlib."""
    from benchmarks.simulation import plots

    PLOTS.mkdir(parents=True, exist_ok=True)
    plots.spread_plot(spreads, PLOTS / "spread.svg")
    plots.tail_plot(spreads, PLOTS / "tail.svg")
    plots.storm_plot(storms, PLOTS / "storm.svg")
    page = PAGE.read_text(encoding="utf-8")
    page = tables.put(page, "spread", tables.spread_table(spreads))
    page = tables.put(page, "gateways", tables.gateways_table(gateways))
    page = tables.put(page, "storm", tables.storm_table(storms))
    page = tables.put(page, "limits", tables.limits_table(limits))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
