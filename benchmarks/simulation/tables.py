"""Tables of the results, as Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.simulation.limit import Limited
from benchmarks.simulation.spread import Spread
from benchmarks.simulation.storm import Storm


def spread_table(results: Iterable[Spread]) -> str:
    """Format latencies in milliseconds, one row per size and policy."""
    rows = [
        (
            str(result.instances),
            f"`{result.policy}`",
            f"{result.p50 * 1000:.1f}",
            f"{result.p99 * 1000:.0f}",
            f"{result.p999 * 1000:.0f}",
            f"{result.slow_zone * 100:.1f} %",
        )
        for result in results
    ]
    return table(("instances", "policy", "p50 ms", "p99 ms", "p99.9 ms", "to the slow zone"), rows)


def gateways_table(results: Sequence[Spread]) -> str:
    """Format p99 in milliseconds, one row per policy and one column per number of gateways."""
    numbers = sorted({result.gateways for result in results})
    found = {(result.policy, result.gateways): f"{result.p99 * 1000:.0f}" for result in results}
    policies = dict.fromkeys(result.policy for result in results)
    rows = [(f"`{policy}`", *(found[policy, number] for number in numbers)) for policy in policies]
    return table(("p99 ms", *(f"{number} gateways" if number > 1 else "1 gateway" for number in numbers)), rows)


def storm_table(results: Iterable[Storm]) -> str:
    """Format one row per way of retrying."""
    rows = [
        (
            result.variant,
            f"{result.failed * 100:.1f} %",
            f"{result.failed_after * 100:.1f} %",
            f"{result.most_load:.2f}",
            "never" if result.recovered is None else f"{result.recovered:.1f} s",
        )
        for result in results
    ]
    return table(("variant", "failed", "failed afterwards", "most load", "itself again after"), rows)


def limits_table(results: Iterable[Limited]) -> str:
    """Format one row per kind of work and load, with the limit and without."""
    rows = [
        (
            result.work,
            f"{result.load:g}",
            f"{result.least} to {result.most}" if result.adaptive else "none",
            f"{result.served * 100:.0f} %",
            f"{result.refused * 100:.1f} %",
            f"{result.p50 * 1000:.0f}",
            f"{result.p99 * 1000:.0f}",
        )
        for result in results
    ]
    return table(("work", "load", "limit", "of what it can do", "refused", "p50 ms", "p99 ms"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put(text: str, name: str, content: str) -> str:
    """Replace the text between the markers of ``name``. Raises ValueError without markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no markers {begin} ... {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"
