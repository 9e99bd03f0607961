"""The report about the shadow requests of a route: the counts of all workers, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from passerelle.crossing.evidence import wilson
from passerelle.crossing.latency import LatencyHistogram
from passerelle.crossing.ledger import MIN_CONTROLS, Ledger

SLOWER: Final = 1.5
"""From this ratio of the medians on, the new side is reported as slower."""
_ENOUGH: Final = 30  # responses before their times are judged


def merge_reports(parts: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the report of each route, of the counts of all workers.

    Each part is what one worker counted: route to the JSON object of
    :meth:`passerelle.upstream.shadow.ShadowResults.to_json`.
    """
    routes: dict[str, list[Mapping[str, Any]]] = {}
    for part in parts:
        for route, counts in part.items():
            routes.setdefault(route, []).append(counts)
    return {route: _report(counts) for route, counts in sorted(routes.items())}


def _report(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    ledger = Ledger(b"")
    old, new = LatencyHistogram(), LatencyHistogram()
    for part in parts:
        ledger.merge(part["ledger"])
        old.merge(LatencyHistogram(part["old_latency"]))
        new.merge(LatencyHistogram(part["new_latency"]))
    differing = ledger.differing
    low, high = wilson(differing, ledger.comparisons)
    report: dict[str, Any] = {
        "sent": sum(part["sent"] for part in parts),
        "compared": ledger.comparisons,
        "differing": differing,
        "rate": [round(low, 6), round(high, 6)],
        "controls": ledger.controls,
        "noise_is_known": ledger.is_settled,
        "not_compared": dict(sorted(ledger.incomparable.items())),
        "dropped": _sums(part["dropped"] for part in parts),
        "failed": _sums(part["failed"] for part in parts),
        "latency": {"old": _quantiles(old), "new": _quantiles(new)},
        "findings": [finding.to_json() for finding in ledger.findings()],
    }
    report["verdict"] = _verdict(report, old.total)
    return report


def _sums(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.items():
            sums[name] = sums.get(name, 0) + count
    return dict(sorted(sums.items()))


def _quantiles(times: LatencyHistogram) -> dict[str, float | None]:
    return {f"p{percent}": _rounded(times.quantile(percent / 100)) for percent in (50, 95, 99)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _verdict(report: Mapping[str, Any], timed: int) -> str:
    """Return the first line of the report."""
    compared, differing = report["compared"], report["differing"]
    failed = sum(report["failed"].values())
    if not report["sent"]:
        return "no request was sent to the second service yet"
    if not compared:
        return "no response was compared" + (f": {failed} of {report['sent']} requests failed" if failed else "")
    problems = []
    if failed:
        problems.append(f"{failed} of {report['sent']} requests failed")
    if differing and not report["noise_is_known"]:
        problems.append(
            f"{differing} of {compared} responses differ; which of it is noise is known after {MIN_CONTROLS} controls"
        )
    elif differing:
        low, high = report["rate"]
        problems.append(f"{differing} of {compared} responses differ ({low:.2%} to {high:.2%} at 95 %)")
    old, new = report["latency"]["old"]["p50"], report["latency"]["new"]["p50"]
    if timed >= _ENOUGH and old and new >= SLOWER * old:
        problems.append(f"the second service is {new / old:.1f} times as slow")
    return "; ".join(problems) if problems else f"{compared} responses are the same"
