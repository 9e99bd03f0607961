"""Command line ``python -m benchmarks`` (see ``docs/benchmarks.md``). Exit 0 success, 1 failure, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from benchmarks.figures import Figure, pooled
from benchmarks.report import machine, plots, write
from benchmarks.rig.core import Rig
from benchmarks.rig.server import RigError
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.scenarios.bodies import Bodies
from benchmarks.scenarios.chaos import Chaos
from benchmarks.scenarios.compose import Compose
from benchmarks.scenarios.connections import Connections
from benchmarks.scenarios.crossing import Crossing
from benchmarks.scenarios.crossing_cache import CrossingCache
from benchmarks.scenarios.forward import Forward
from benchmarks.scenarios.hit import Entries, Hit
from benchmarks.scenarios.instances import Instances
from benchmarks.scenarios.many import Many
from benchmarks.scenarios.observed import Observed
from benchmarks.scenarios.overload import Overload
from benchmarks.scenarios.plugins import Plugins
from benchmarks.scenarios.policy import Policy
from benchmarks.scenarios.routes import Routes
from benchmarks.scenarios.shadowed import Shadowed
from benchmarks.scenarios.slow_clients import Slow
from benchmarks.scenarios.static import Static

ALL: tuple[Scenario, ...] = (
    Forward(),
    Compose(),
    Hit(),
    Entries(),
    Policy(),
    Routes(),
    Instances(),
    Bodies(),
    Static(),
    Connections(),
    Slow(),
    Observed(),
    Shadowed(),
    Plugins(),
    Overload(),
    Many(),
    Chaos(),
    Crossing(),
    CrossingCache(),
)
SCENARIOS = {scenario.name: scenario for scenario in ALL}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; wrong usage exits with 2."""
    peers = sorted({peer for scenario in SCENARIOS.values() for peer in scenario.peers})
    about = "\n".join(f"  {scenario.name:14} {scenario.about}" for scenario in SCENARIOS.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure passerelle and its peers.",
        epilog=f"scenarios:\n{about}\n\npeers: {', '.join(peers)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="scenarios to measure (default: all)")
    parser.add_argument("--peers", default="", metavar="NAME,...", help="peers to compare with (default: all)")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="seconds per run of a headline (default 3)")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="number of measurements (default 3)")
    parser.add_argument(
        "--starts", type=int, default=1, metavar="N", help="number of starts of the servers (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON per figure instead of a table")
    chosen = parser.parse_args(argv)
    chosen.scenarios = chosen.scenarios or list(SCENARIOS)
    chosen.peers = frozenset(filter(None, chosen.peers.split(",")))
    for what, given, known in (("scenario", chosen.scenarios, SCENARIOS), ("peer", chosen.peers, peers)):
        for name in given:
            if name not in known:
                parser.error(f"unknown {what} {name!r}: choose from {', '.join(known)}")
    if min(chosen.seconds, chosen.pairs, chosen.starts) < 1:
        parser.error("--seconds, --pairs and --starts must be at least 1")
    return chosen


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def run(scenario: Scenario, chosen: argparse.Namespace, load: Mapping[str, Any]) -> dict[str, Any]:
    """Run one scenario and print its figures, each start on a new rig; return its part of the report.

    ``load`` is the machine's load before the first scenario, since later scenarios would see their predecessor's.
    """
    starts: list[list[Figure]] = []
    began = time.monotonic()
    print(f"{scenario.name}: {scenario.about}", file=sys.stderr)

    def show(line: Mapping[str, Any]) -> None:
        if chosen.json:
            print(json.dumps(line), flush=True)

    def tell(figure: Figure) -> None:
        show({**figure.line(), **load})

    kept: dict[str, Any] = {"runs": {}, "versions": {}, "missing": {}}
    for number in range(1, chosen.starts + 1):
        if chosen.starts > 1:
            progress(f"start {number} of {chosen.starts}")
        with Rig.on_this_machine() as rig:
            bench = Bench(rig, chosen.seconds, chosen.pairs, chosen.peers, progress, **kept)
            figures, failure = _start(scenario, bench, tell if chosen.starts == 1 else None)
        starts.append(figures)
        if failure is not None:
            print(f"{scenario.name} failed: {failure}", file=sys.stderr)
            break
    if chosen.starts > 1:
        figures = pooled(starts)
        for figure in figures:
            tell(figure)
    if failure is not None:
        show({"scenario": scenario.name, "failure": failure, "errors": 1})
    found = {**write.entry(bench, figures, load, failure), "starts": chosen.starts}
    if found["errors"]:
        print(f"errors: {found['errors']} in {scenario.name}: the scenario counts as failed", file=sys.stderr)
    if not chosen.json:
        print(f"{write.remarks(found)}\n\n{write.table(found['figures'])}\n", flush=True)
    progress(f"{scenario.name} took {time.monotonic() - began:.0f} s")
    return found


def _start(scenario: Scenario, bench: Bench, tell: Callable[[Figure], None] | None) -> tuple[list[Figure], str | None]:
    """Return the figures of one start (each also passed to ``tell``), and the error that ended it early, if any."""
    figures: list[Figure] = []
    try:
        for figure in scenario.run(bench):
            figures.append(figure)
            if tell is not None:
                tell(figure)
    except (RigError, OSError) as error:  # OSError: the connection to a server under test broke
        return figures, str(error)
    return figures, None


def main(argv: Sequence[str] | None = None) -> int:
    chosen = arguments(argv)
    found: dict[str, Any] = {}
    load = machine.load()
    try:
        for name in chosen.scenarios:
            found[name] = run(SCENARIOS[name], chosen, load)
    except RigError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: all servers were stopped", file=sys.stderr)
        return 130
    finally:
        if found:
            latest = write.save(found)
            lacking = plots.draw(found, latest.parent)
            progress(f"written: {latest.parent}" + (f"; no plots: {lacking}" if lacking else ""))
    return 1 if any(entry["errors"] or entry["failure"] for entry in found.values()) else 0


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """Exit in an orderly way, so that every server is stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT too: background jobs of a shell ignore it
        signal.signal(number, _leave)
    sys.exit(main())
