"""Command line ``python -m benchmarks.simulation.costs``: the cost of a pick in microseconds, as a Markdown table.

The minimum of many short runs is largely independent of other work on the machine. "pick" is the choice alone;
"request" is the choice with both counters, as in the gateway.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from time import perf_counter

from benchmarks.simulation.tables import table
from passerelle.balancing.group import Group
from passerelle.balancing.instance import Instance
from passerelle.balancing.policies import PickerNode, PowerOfTwo
from passerelle.balancing.registry import REGISTRY, make

SIZES = (3, 10, 100, 1000, 5000)
CALLS = 500
RUNS = 200
KEYS = [b"user-%d" % number for number in range(CALLS)]


def nodes(number: int) -> Iterator[tuple[str, PickerNode]]:
    """Yield every policy over ``number`` instances, p2c with unequal weights, and p2c in two zones."""
    chance = random.Random(1).random

    def members(weights: tuple[float, ...] = (1.0,)) -> list[Instance]:
        return [Instance(f"i{n}", f"10.0.0.{n}", weights[n % len(weights)]) for n in range(number)]

    for name in REGISTRY:
        yield name, make(name, members(), random=chance)
    yield "p2c, unequal weights", PowerOfTwo(members((1.0, 2.0, 3.0)), random=chance)
    zones = [(PowerOfTwo(members(), random=chance), weight) for weight in (3.0, 1.0)]
    yield "p2c in two zones", Group(zones, random=chance)


def pick(node: PickerNode, key: bytes | None) -> None:
    """Pick an instance."""
    node.pick((), key)


def request(node: PickerNode, key: bytes | None) -> None:
    """Pick an instance and update its counters."""
    chosen = node.pick((), key)
    if chosen is not None:
        node.acquire(chosen)
        node.release(chosen, True, 0.01)


def microseconds(call: Callable[[PickerNode, bytes | None], None], node: PickerNode, *, keyed: bool) -> float:
    """Return the time of one call, without the time of an empty call."""

    def least(call: Callable[[PickerNode, bytes | None], None]) -> float:
        best = float("inf")
        for _ in range(RUNS):
            begun = perf_counter()
            for key in KEYS:
                call(node, key if keyed else None)
            best = min(best, perf_counter() - begun)
        return best / CALLS * 1e6

    return least(call) - least(lambda node, key: None)


def main() -> None:
    """Measure and print."""
    rows: dict[str, list[str]] = {}
    for number in SIZES:
        for name, node in nodes(number):
            node.pick()
            for what, call in (("pick", pick), ("request", request)):
                took = microseconds(call, node, keyed=name == "hash")
                rows.setdefault(f"`{name}`, {what}", []).append(f"{took:.2f}")
    print(table(("µs", *map(str, SIZES)), [(name, *values) for name, values in rows.items()]))
    for number in (100, 1000, 5000):
        members = [Instance(f"i{n}", f"10.0.0.{n}") for n in range(number)]
        times = []
        for _ in range(5):
            node = make("hash", members)
            begun = perf_counter()
            node.pick(key=b"")
            times.append(perf_counter() - begun)
        print(f"\nhash: the ring of {number} instances takes {min(times) * 1e3:.1f} ms", end="")
    print()


if __name__ == "__main__":
    main()
