"""Scenario ``routes``: 10, 100, 1,000 and 10,000 routes; each request takes the next route and a new id."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Mapping

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers import upstreams
from benchmarks.rig import timing
from benchmarks.rig.pairs import Cell, median_ratio
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench
from passerelle.routing.router import Router, RouteRule

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

        for asked in ("any", "one"):
            times = timing.in_turn({_label(size): lookups(size, asked) for size in SIZES}, bench.pairs)
            rows = zip(*times.values(), strict=True)
            bench.keep(f"lookup, {asked} asked for", [dict(zip(times, row, strict=True)) for row in rows])
            for size in SIZES[1:]:
                yield self._lookup_figure(size, asked, times)

    def _lookup_figure(self, size: int, asked: str, times: Mapping[str, list[float]]) -> Figure:
        ours, theirs = times[_label(size)], times[_label(FEWEST)]
        return Figure(
            self.name,
            f"{_label(size)}, {asked} asked for",
            LOOKUP_NS,
            statistics.median(ours),
            _label(FEWEST),
            statistics.median(theirs),
            median_ratio(ours, theirs),
            len(ours),
            target=TARGET if size == SIZES[-1] else None,
        )


def _label(size: int) -> str:
    return f"{size:,} routes"


def lookups(size: int, asked: str) -> Callable[[], int]:
    """Return a function that does ten thousand lookups, each for its own path, in a table of ``size`` routes.

    ``asked`` is ``any``, a different random route each time, or ``one``, always the same. The difference is not due to
    the table but to the CPU: ten thousand routes do not fit its caches.
    """
    router = Router(
        RouteRule(None, None, f"/catalogue-{number}/item/{{item_id}}", number) for number in range(1, size + 1)
    )
    drawn = random.Random(size)
    routes = [drawn.randint(1, size) if asked == "any" else size for _ in range(_LOOKUPS)]
    paths = [b"/catalogue-%d/item/%d" % (route, number) for number, route in enumerate(routes)]

    def work() -> int:
        match = router.match
        for path in paths:
            match(b"shop.example", b"GET", path)
        return len(paths)

    return work
