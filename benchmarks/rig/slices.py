"""Compare two states of servers in short slices, A B B A A B B A ..., by CPU time to the nanosecond.

A difference of one microsecond is one or two percent of a request, less than the drift of a machine within seconds. In
neighbouring slices the drift is nearly the same, the order removes what is left of a steady one, and the median of many
differences drops the pairs that something else has disturbed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from benchmarks.rig import procfs, wrk
from benchmarks.rig.core import Rig
from benchmarks.rig.pairs import FOREIGN_LIMIT
from benchmarks.rig.server import RigError, Server
from benchmarks.rig.wrk import Load

SECONDS = 1  # of a slice: the shortest that wrk can measure
FEWEST = 6  # undisturbed pairs; with fewer, all pairs count and the result is noisy


@dataclass(frozen=True)
class State:
    """A server, and what is done with it beside the load: ``beside`` is entered for the time of each slice."""

    name: str
    server: Server
    beside: Callable[[], AbstractContextManager[object]] = nullcontext


class Slice(NamedTuple):
    """One slice: CPU microseconds a request, failed requests, and whether other processes took much of the machine."""

    us: float
    errors: int
    noisy: bool


class Comparison(NamedTuple):
    """The second state minus the first one, in CPU microseconds a request, with an interval of 95 %."""

    difference: float
    low: float
    high: float
    first: float
    second: float
    pairs: int
    errors: int
    noisy: bool


def compare(
    rig: Rig, first: State, second: State, load: Load, pairs: int, progress: Callable[[str], None]
) -> Comparison:
    """Measure both states ``pairs`` times in neighbouring slices."""
    for state in (first, second):
        _measure(rig, state, load)  # connections open, caches and memory reach their size
    found: list[tuple[Slice, Slice]] = []
    for number in range(pairs):
        order = (first, second) if number % 2 == 0 else (second, first)
        measured = {state.name: _measure(rig, state, load) for state in order}
        a, b = measured[first.name], measured[second.name]
        found.append((a, b))
        progress(f"{number + 1}/{pairs} {first.name} {a.us:.2f} us, {second.name} {b.us:.2f} us: {b.us - a.us:+.2f} us")
    return summarized(found)


def summarized(pairs: Sequence[tuple[Slice, Slice]]) -> Comparison:
    """Return the median difference of the undisturbed pairs, and its interval by the sign test."""
    quiet = [pair for pair in pairs if not (pair[0].noisy or pair[1].noisy)]
    noisy = len(quiet) < FEWEST
    used = pairs if noisy else quiet
    differences = sorted(b.us - a.us for a, b in used)
    count = len(differences)
    reach = 1.96 * sqrt(count) / 2
    low, high = max(0, round(count / 2 - reach) - 1), min(count - 1, round(count / 2 + reach))
    return Comparison(
        statistics.median(differences),
        differences[low],
        differences[high],
        statistics.median(a.us for a, _ in used),
        statistics.median(b.us for _, b in used),
        count,
        sum(part.errors for pair in pairs for part in pair),
        noisy,
    )


def _measure(rig: Rig, state: State, load: Load) -> Slice:
    with state.beside():
        watch = rig.watch()
        before = procfs.run_nanoseconds(state.server.pid)
        answers = wrk.run(load, state.server.port, SECONDS, rig.load_cpu, rig.folder)
        used = procfs.run_nanoseconds(state.server.pid) - before
        foreign = watch.foreign()
    state.server.check_alive()
    if not answers.requests:
        raise RigError(f"{state.name}: no response in {SECONDS} s")
    return Slice(used / answers.requests / 1000.0, answers.errors, foreign > FOREIGN_LIMIT)
