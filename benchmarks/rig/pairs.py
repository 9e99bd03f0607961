"""Measure servers in turn, A B A B ..., and compare the pairs.

A machine's speed drifts over seconds (other work, CPU frequency, caches). Two consecutive runs share most of the drift,
so the ratio of a pair is stable even if the figures of each are not, and the median drops an affected pair.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.rig import wrk
from benchmarks.rig.core import Rig
from benchmarks.rig.server import RigError, Server
from benchmarks.rig.wrk import Load

FOREIGN_LIMIT = 0.15  # of one CPU; above it a run counts as noisy
_ENOUGH_CPU = 0.2  # seconds: 20 ticks, so that the resolution is about 5 %
_MOST_TRIES = 4


@dataclass(frozen=True)
class Run:
    """One server under load for a while: the ``cpu`` seconds of its process tree, and its responses."""

    label: str
    cpu: float
    requests: int
    seconds: float
    bytes: int
    p50_us: float
    p99_us: float
    errors: int
    foreign: float  # average number of CPUs used on the whole machine by processes outside the rig

    @property
    def us(self) -> float:
        """Return CPU microseconds per request."""
        return self.cpu / self.requests * 1e6

    @property
    def rps(self) -> float:
        """Return requests per second."""
        return self.requests / self.seconds

    @property
    def noisy(self) -> bool:
        return self.foreign > FOREIGN_LIMIT


@dataclass(frozen=True)
class Cell:
    """One measured server and load, repeated each round for ``seconds``.

    The same load precedes each measurement for ``before`` seconds without being counted, to restore state that aged
    while the other servers were measured.
    """

    label: str
    server: Server
    load: Load
    seconds: int
    before: int = 0

    def warm_up(self, rig: Rig, seconds: int = 1) -> None:
        """Apply the load without counting it: connections open, caches and memory reach their size."""
        wrk.run(self.load, self.server.port, seconds, rig.load_cpu, rig.folder)

    def measure(self, rig: Rig) -> Run:
        """Load the server and account for it. Raises ``RigError`` if the server exited or never responded.

        If other processes take the CPU, or the server waits, a short run may contain too few CPU ticks; it is then
        extended by another run, at most three times.
        """
        watch = rig.watch()
        before = self.server.cpu_seconds()
        parts = [self._load(rig)]
        while (cpu := self.server.cpu_seconds() - before) < _ENOUGH_CPU and len(parts) < _MOST_TRIES:
            parts.append(self._load(rig))
        self.server.check_alive()
        requests = sum(part.requests for part in parts)
        if not requests:
            raise RigError(f"{self.label}: no answer in {watch.seconds:.0f} s: {parts}")
        return Run(
            self.label,
            cpu,
            requests,
            sum(part.seconds for part in parts),
            sum(part.bytes for part in parts),
            statistics.median(part.p50_us for part in parts),
            max(part.p99_us for part in parts),
            sum(part.errors for part in parts),
            watch.foreign(),
        )

    def _load(self, rig: Rig) -> wrk.Answers:
        return wrk.run(self.load, self.server.port, self.seconds, rig.load_cpu, rig.folder)


def in_turn(rig: Rig, cells: Sequence[Cell], rounds: int, progress: Callable[[str], None]) -> Mapping[str, list[Run]]:
    """Warm each server up once, then measure all cells in turn, ``rounds`` times; return the runs by label."""
    runs: dict[str, list[Run]] = {cell.label: [] for cell in cells}
    warm = set()
    for cell in cells:
        if cell.server not in warm:
            cell.warm_up(rig)
            warm.add(cell.server)
    for number in range(1, rounds + 1):
        for cell in cells:
            if cell.before:
                cell.warm_up(rig, cell.before)
            run = cell.measure(rig)
            runs[cell.label].append(run)
            failed = f", {run.errors} errors" if run.errors else ""
            progress(f"{number}/{rounds} {cell.label}: {run.us:.1f} us, {run.rps:,.0f} requests/s{failed}")
    return runs


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the pairwise ratios.

    Raises ``ValueError`` unless both sequences have the same non-zero length, and ``RigError`` for a figure of zero:
    the run was too short for the clock.
    """
    if 0 in theirs:
        raise RigError("a run was too short for the CPU clock: use more --seconds, or a quieter machine")
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
