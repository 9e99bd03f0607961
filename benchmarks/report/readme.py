"""The table of figures in ``README.md``: each load as a user has it first, then as benchmarks usually publish it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report.write import insert

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_UNITS = {"us": ("µs", 1.0), "rps": ("requests/s", 1.0), "rss_bytes": ("KB", 1e-3)}


@dataclass(frozen=True)
class Row:
    """One row: what is measured, and which figures of ``latest.json`` show it, one for each of ``peers``."""

    work: str
    scenario: str
    variant: str
    peers: Sequence[str]


ROWS = (
    Row("**forward**, each request new, access log on both sides", "forward", "varying, both log", ("nginx", "envoy")),
    Row("the same request repeatedly, no access log", "forward", "10hdr", ("nginx", "envoy")),
    Row("**cache hit**, each request new, access log on both sides", "hit", "varying, both log", ("nginx",)),
    Row("the same request repeatedly, no access log", "hit", "10hdr", ("nginx", "varnish")),
    Row(
        "**compose two**, each request new, access log on both sides",
        "compose",
        "varying, both log",
        ("nginx",),
    ),
    Row("the same request repeatedly, no access log", "compose", "10hdr", ("nginx", "aiohttp")),
    Row("**JWT, rate limit, access log, forward**, each request new", "policy", "varying", ("haproxy", "envoy")),
    Row("the same request repeatedly", "policy", "10hdr", ("haproxy", "envoy")),
    Row("**the shop with its cache**, log on both sides", "crossing-cache", "hot-tenth, both log", ("shop-monolith",)),
    Row("**the textbook gateway** (Flask + requests), everything on one core", "crossing", "one-core", ("flask",)),
    Row("the same, its Flask services on a second core", "crossing", "services", ("flask",)),
    Row("the same, services that serve JSON from memory", "crossing", "memory", ("flask",)),
    Row("**ten thousand idle connections**, memory of each", "connections", "answered", ("nginx",)),
)
_SHOWN = {"nginx": "nginx", "envoy": "Envoy", "haproxy": "HAProxy", "varnish": "Varnish", "flask": "that gateway"}
_SHOWN["shop-monolith"] = "its monolith"


def update(content: Mapping[str, Any], page: Path) -> None:
    """Insert the table of ``content`` into ``page``. Raises ``ValueError`` if a marker is missing."""
    insert(page, BEGIN, END, markdown(content))


def markdown(content: Mapping[str, Any]) -> str:
    """Return the table, the machine and the days of the measurements. A row without its figure is left out."""
    here, scenarios = content["machine"], content["scenarios"]
    rows, used = [], set()
    for row in ROWS:
        lines = [line for peer in row.peers if (line := _find(scenarios, row, peer)) is not None]
        if lines:
            rows.append(_row(row, lines))
            used.add(row.scenario)
    days = sorted({scenarios[name]["date"] for name in used})
    measured = f"measured on {days[0]}" if len(days) == 1 else f"measured between {days[0]} and {days[-1]}"
    about = (
        f"CPU time of the server for each request (µs) or requests per second, ten header fields, {here['cpus']} CPUs "
        f"({here['cpu']}), {measured}; medians of paired runs. `make bench SCENARIO=…` with the name in the last "
        "column measures a row again."
    )
    head = "| work | passerelle | beside it | ratio | scenario |\n|---|---|---|---|---|"
    return "\n".join([about, "", head, *rows])


def _find(scenarios: Mapping[str, Any], row: Row, peer: str) -> Mapping[str, Any] | None:
    for line in scenarios.get(row.scenario, {}).get("figures", ()):
        if line["variant"] == row.variant and line["peer"] == peer and line["ratio"] is not None:
            return dict(line)
    return None


def _row(row: Row, lines: Sequence[Mapping[str, Any]]) -> str:
    unit = next(key for key in lines[0] if key.startswith("ours_")).removeprefix("ours_")
    beside = ", ".join(
        f"{_SHOWN.get(line['peer'], line['peer'])} {_value(line[f'peer_{unit}'], unit)}" for line in lines
    )
    ratios = ", ".join(_ratio(line["ratio"]) for line in lines)
    return f"| {row.work} | {_value(lines[0][f'ours_{unit}'], unit)} | {beside} | {ratios} | `{row.scenario}` |"


def _value(value: float, unit: str) -> str:
    name, factor = _UNITS[unit]
    scaled = value * factor
    return f"{scaled:,.0f} {name}" if scaled >= 100 else f"{scaled:.1f} {name}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f} ×" if ratio >= 10 else f"{ratio:.2f} ×" if ratio < 2 else f"{ratio:.1f} ×"
