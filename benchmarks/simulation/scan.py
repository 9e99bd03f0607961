"""Command line ``python -m benchmarks.simulation.scan``: the effect of a scan of a million keys on a cache's hot set.

Compares the gateway's memory store with one that evicts the least recently used item (LRU), both of the same size in
bytes: room for twice the hot set. Requests for the hot set continue while every key of the scan is requested once; a
miss is stored. Exit 0 success, 1 too much lost, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.simulation.tables import put, table
from passerelle.caching.entry import Entry, StoredItem
from passerelle.caching.memory_store import MemoryStore

HOT = 1_000  # keys
ROOM = 2_000  # capacity of a store in entries
SCANNED = 1_000_000  # keys
PACES = (1, 4, 16)  # keys of the scan per request of the hot set
STEPS = 100  # points of a line in the plot
MOST_LOST = 5.0  # maximum loss of passerelle's store in points of hit ratio

PAGE = Path("docs/reference/caching.md")
PLOT = Path("docs/reference/caching/scan.svg")

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


class Store(Protocol):
    """Interface of the compared stores."""

    def get(self, key: bytes) -> StoredItem | None: ...
    def put(self, item: StoredItem) -> bool: ...


class Lru:
    """Store that evicts the least recently used item; its size in bytes is limited and counted like the gateway's."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._items: OrderedDict[bytes, StoredItem] = OrderedDict()

    def get(self, key: bytes) -> StoredItem | None:
        item = self._items.get(key)
        if item is not None:
            self._items.move_to_end(key)
        return item

    def put(self, item: StoredItem) -> bool:
        old = self._items.pop(item.key, None)
        if old is not None:
            self._held -= old.size
        item.size = item.measure()
        self._items[item.key] = item
        self._held += item.size
        while self._held > self._capacity:
            self._held -= self._items.popitem(last=False)[1].size
        return item.key in self._items


STORES: dict[str, Callable[[int], Store]] = {"ours": MemoryStore, "LRU": Lru}


@dataclass(frozen=True)
class Result:
    """Hit ratios of the hot set. ``pace``: keys of the scan per request of the hot set; None: no requests during the
    scan.

    ``before`` is the hit ratio of 10 requests per key before the scan; ``during`` that of all requests during the scan
    or, without such requests, of one request per key right after it. ``course`` is ``during`` in steps.
    """

    store: str
    pace: int | None
    before: float
    during: float
    course: list[float]

    @property
    def lost(self) -> float:
        """Return the loss in points of hit ratio."""
        return (self.before - self.during) * 100


def entry(key: bytes) -> Entry:
    """Return a stored response that shares no object with others."""
    return Entry(key, 200, _HEAD + b"X: %b\r\n" % key, bytes(100), born=1.5, fresh_until=61.5)


def ask(store: Store, key: bytes) -> bool:
    """Request a key and store it after a miss; return whether it was a hit."""
    if store.get(key) is not None:
        return True
    store.put(entry(key))
    return False


def scan(name: str, pace: int | None, scanned: int = SCANNED, hot: int = HOT, room: int = ROOM) -> Result:
    """Subject a store called ``name`` to a scan of ``scanned`` keys."""
    chance = random.Random(1)
    keys = [b"gw /hot/%06d" % number for number in range(hot)]
    size = entry(b"gw /scan/%07d" % 0).measure()
    store = STORES[name](room * size)

    def hits(requests: int) -> float:
        return sum(ask(store, chance.choice(keys)) for _ in range(requests)) / requests

    hits(20 * hot)
    before = hits(10 * hot)
    if pace is None:
        for number in range(scanned):
            ask(store, b"gw /scan/%07d" % number)
        after = sum(ask(store, key) for key in keys) / hot
        return Result(name, pace, before, after, [after])
    course = []
    for step in range(STEPS):
        found = asked = 0
        for number in range(step * scanned // STEPS, (step + 1) * scanned // STEPS):
            ask(store, b"gw /scan/%07d" % number)
            if number % pace == 0:
                asked += 1
                found += ask(store, chance.choice(keys))
        course.append(found / asked)
    return Result(name, pace, before, sum(course) / len(course), course)


def results_table(results: Sequence[Result]) -> str:
    """Format one row per pace and store."""
    rows = [
        (
            "all of the scan first" if result.pace is None else f"{result.pace}",
            result.store,
            f"{result.before:.3f}",
            f"{result.during:.3f}",
            f"{result.lost:.1f}",
        )
        for result in results
    ]
    return table(("keys of the scan for each hot request", "store", "before", "during the scan", "points lost"), rows)


def plot(results: Sequence[Result], path: Path) -> None:
    """Plot the hot set's hit ratio during the scan; only this needs matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "passerelle", "font.size": 9})
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for result in results:
        if result.pace is None:
            continue
        along = [(step + 0.5) / len(result.course) * SCANNED / 1000 for step in range(len(result.course))]
        style = "-" if result.store == "ours" else "--"
        # the lines of passerelle's store coincide
        width = 4.5 - 1.5 * PACES.index(result.pace) if result.store == "ours" else 1.0
        axes.plot(along, result.course, style, linewidth=width, label=f"{result.store}, {result.pace} to 1")
    axes.set(xlabel="thousand keys scanned", ylabel="hit ratio of the hot set", ylim=(-0.02, 1.05), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Scan, and print a table (or JSON); return 1 if passerelle's store lost too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation.scan", description="A scan over a hot set.")
    parser.add_argument("--json", action="store_true", help="results as JSON instead of a table")
    parser.add_argument("--write", action="store_true", help=f"update the table in {PAGE} and {PLOT}")
    options = parser.parse_args(argv)
    results = []
    for pace in (*PACES, None):
        for name in STORES:
            results.append(scan(name, pace))
            print(f"{name}, {pace}: {results[-1].lost:.1f} points lost", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(result) | {"lost": result.lost} for result in results]))
    else:
        print(results_table(results))
    if options.write:
        plot(results, PLOT)
        PAGE.write_text(put(PAGE.read_text("utf-8"), "scan", results_table(results)), "utf-8")
    return int(any(result.lost >= MOST_LOST for result in results if result.store == "ours"))


if __name__ == "__main__":
    raise SystemExit(main())
