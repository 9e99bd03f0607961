"""Measuring servers in turn, A B A B ..., and comparing the pairs.

A machine's speed drifts (other work, frequency, caches) over seconds. Two runs next to each other share most of
that, so the ratio of a pair holds still where the figures of each do not; the median drops the pair that was hit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.rig import procfs, wrk
from benchmarks.rig.core import Rig
from benchmarks.rig.server import Server
from benchmarks.rig.wrk import Load

FOREIGN_LIMIT = 0.15  # of one CPU; above it a run counts as noisy


@dataclass(frozen=True)
class Run:
    """One server under load for a while: ``cpu`` seconds of its process tree, and what it answered."""

    label: str
    cpu: float
    requests: int
    seconds: float
    bytes: int
    p50_us: float
    p99_us: float
    errors: int
    foreign: float  # CPUs' worth of work, on the whole machine, of processes that are not the rig's

    @property
    def us(self) -> float:
        """CPU microseconds a request."""
        return self.cpu / self.requests * 1e6

    @property
    def rps(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def noisy(self) -> bool:
        return self.foreign > FOREIGN_LIMIT


@dataclass(frozen=True)
class Cell:
    """One thing that is measured again each round."""

    label: str
    server: Server
    load: Load
    seconds: int

    def warm_up(self, rig: Rig) -> None:
        """One second of the load, not counted: connections open, caches and memory reach their size."""
        wrk.run(self.load, self.server.port, 1, rig.load_cpu, rig.folder)

    def measure(self, rig: Rig) -> Run:
        """Load the server once and account for it. Raises ``RigError`` if it died of it."""
        busy, known, began = procfs.busy_seconds(), rig.known_cpu_seconds(), time.monotonic()
        before = self.server.cpu_seconds()
        answers = wrk.run(self.load, self.server.port, self.seconds, rig.load_cpu, rig.folder)
        cpu = self.server.cpu_seconds() - before
        self.server.check_alive()
        foreign = (procfs.busy_seconds() - busy) - (rig.known_cpu_seconds() - known)
        return Run(
            self.label,
            cpu,
            answers.requests,
            answers.seconds,
            answers.bytes,
            answers.p50_us,
            answers.p99_us,
            answers.errors,
            max(0.0, foreign / (time.monotonic() - began)),
        )


def in_turn(rig: Rig, cells: Sequence[Cell], rounds: int, progress: Callable[[str], None]) -> Mapping[str, list[Run]]:
    """Warm each cell up once, then measure all of them one after the other, ``rounds`` times; by label."""
    runs: dict[str, list[Run]] = {cell.label: [] for cell in cells}
    for cell in cells:
        cell.warm_up(rig)
    for number in range(1, rounds + 1):
        for cell in cells:
            run = cell.measure(rig)
            runs[cell.label].append(run)
            failed = f", {run.errors} errors" if run.errors else ""
            progress(f"{number}/{rounds} {cell.label}: {run.us:.1f} us, {run.rps:,.0f} requests/s{failed}")
    return runs


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the pairwise ratios. Raises ``ValueError`` unless both are equally long and not empty."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
