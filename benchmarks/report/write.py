"""Write ``latest.json``, ``latest.md`` and the plots to ``benchmarks/results``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.report import machine
from benchmarks.scenarios.base import Bench

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
RESULTS = Path(__file__).parents[1] / "results"


def entry(bench: Bench, figures: Iterable[Figure], load: Mapping[str, Any], failure: str | None) -> dict[str, Any]:
    """Return one scenario's part of ``latest.json``: its figures, all runs, and the conditions of the measurement."""
    lines = [figure.line() for figure in figures]
    return {
        "seconds": bench.seconds,
        "pairs": bench.pairs,
        **load,
        "versions": bench.versions,
        "missing": bench.missing,
        "failure": failure,
        "errors": sum(line["errors"] for line in lines),
        "figures": lines,
        "runs": bench.runs,
    }


def merge(old: Mapping[str, Any], here: Mapping[str, Any], scenarios: Mapping[str, Any]) -> dict[str, Any]:
    """Update the content of ``latest.json``; on the same machine, other scenarios keep their figures."""
    kept = old.get("scenarios", {}) if old.get("machine") == here else {}
    return {"machine": here, "scenarios": {**kept, **scenarios}}


def save(scenarios: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write all files; return the path of ``latest.json``."""
    folder.mkdir(exist_ok=True)
    latest = folder / "latest.json"
    old = json.loads(latest.read_text()) if latest.exists() else {}
    content = merge(old, machine.describe(), scenarios)
    fresh = latest.with_suffix(".new")  # replaced atomically: another run may be reading it
    fresh.write_text(json.dumps(content, indent=1) + "\n")
    fresh.replace(latest)
    (folder / "latest.md").write_text("# Figures\n\n" + markdown(content))
    return latest


def publish(content: Mapping[str, Any], page: Path) -> None:
    """Insert the figures between the two markers of ``page``. Raises ``ValueError`` if a marker is missing."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} must have both markers: {BEGIN} and {END}")
    page.write_text(f"{before}{begin}\n\n{markdown(content, level=3)}\n{end}{after}")


def markdown(content: Mapping[str, Any], level: int = 2) -> str:
    """Describe the machine, followed by one table per scenario, each under a heading of ``level``."""
    here = content["machine"]
    parts = [
        f"{here['cpu']}, {here['cpus']} CPUs, {here['memory_gib']} GiB, Linux {here['kernel']}, "
        f"Python {here['python']}.",
    ]
    for name, scenario in content["scenarios"].items():
        parts += [f"{'#' * level} {name}", remarks(scenario), table(scenario["figures"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def remarks(scenario: Mapping[str, Any]) -> str:
    """Describe the conditions of the measurement."""
    starts = scenario.get("starts", 1)
    each = f" at each of {starts} starts" if starts > 1 else ""
    said = [f"{scenario['pairs']} pairs{each}, {scenario['seconds']} s a run."]
    if scenario["load_average_high"]:
        said.append(f"The machine was busy before (load average {scenario['load_average'][0]}).")
    said += [f"Missing: {peer}: {what}." for peer, what in scenario["missing"].items()]
    if scenario["errors"]:
        said.append(f"**{scenario['errors']} errors: failed.**")
    if scenario["failure"]:
        said.append("**Failed: " + scenario["failure"].split("\n", 1)[0] + "**")
    return " ".join(said)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Format the figures as a Markdown table; empty without figures."""
    if not lines:
        return ""
    rows = [
        "| scenario | variant | unit | ours | peer | peer's | ratio | target | met | errors | noisy |",
        "|---|---|---|---:|---|---:|---:|---|---|---:|---|",
    ]
    for line in lines:
        unit = next(key for key in line if key.startswith("ours_")).removeprefix("ours_")
        cells = [line["scenario"], line["variant"], unit, line[f"ours_{unit}"], line["peer"], line[f"peer_{unit}"]]
        cells += [line["ratio"], line.get("target"), line.get("met"), line["errors"], line["noisy"]]
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
