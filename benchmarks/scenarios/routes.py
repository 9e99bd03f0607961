"""``routes``: the same work with 10, 100, 1,000 and 10,000 routes; each request takes the next route and a new id."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers import upstreams
from benchmarks.rig import timing
from benchmarks.rig.pairs import Cell, median_ratio
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench
from passerelle.routing import Router, Rule

SIZES = (10, 100, 1_000, 10_000)
FEWEST = SIZES[0]
TARGET = Target(1.3)
_LOOKUPS = 10_000
LOOKUP_NS = "lookup_ns"


class Routes:
    """Compared with itself: a whole request, then a lookup alone in this process."""

    name = "routes"
    about = "10 to 10,000 routes"
    peers = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        cells = []
        for size in SIZES:
            site = bench.site(f"routes-{size}", addresses)
            command = bench.ours().routes(site, size)
            server = bench.start(f"ours-{size}", site, command, f"/catalogue-{size}/item/1", upstreams.USER)
            load = Load("/catalogue-{}/item/{}", varying=True, spread=size)
            cells.append(Cell(_label(size), server, load, 2 * bench.brief))
        runs = bench.in_turn(cells)
        for size in SIZES[1:]:
            target = TARGET if size == SIZES[-1] else None
            yield cpu_figure(self.name, _label(size), runs[_label(size)], _label(FEWEST), runs[_label(FEWEST)], target)

        times = timing.in_turn({_label(size): lookups(size) for size in SIZES}, bench.pairs)
        bench.keep("lookup", [dict(zip(times, row, strict=True)) for row in zip(*times.values(), strict=True)])
        for size in SIZES[1:]:
            ours, theirs = times[_label(size)], times[_label(FEWEST)]
            yield Figure(
                self.name,
                _label(size),
                LOOKUP_NS,
                statistics.median(ours),
                _label(FEWEST),
                statistics.median(theirs),
                median_ratio(ours, theirs),
                bench.pairs,
                target=TARGET if size == SIZES[-1] else None,
            )


def _label(size: int) -> str:
    return f"{size:,} routes"


def lookups(size: int) -> Callable[[], int]:
    """Ten thousand lookups, each for a path of its own, over a table of ``size`` routes."""
    router = Router(Rule(None, None, f"/catalogue-{number}/item/{{item_id}}", number) for number in range(1, size + 1))
    drawn = random.Random(size)
    paths = [b"/catalogue-%d/item/%d" % (drawn.randint(1, size), number) for number in range(_LOOKUPS)]

    def work() -> int:
        match = router.match
        for path in paths:
            match(b"shop.example", b"GET", path)
        return len(paths)

    return work
