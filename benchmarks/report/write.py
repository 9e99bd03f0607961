"""Write ``latest.json``, ``latest.md`` and the plots to ``benchmarks/results``."""

from __future__ import annotations

import datetime
import json
import re
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
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
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
    """Insert the figures between the two markers of ``page``, one section for each scenario.

    A scenario of ``page`` that is not in ``content`` keeps its section, which states its own day and machine. Raises
    ``ValueError`` if a marker is missing.
    """
    _, _, marked = page.read_text().partition(BEGIN)
    kept = sections(marked.partition(END)[0])
    insert(page, BEGIN, END, "\n\n".join({**kept, **sections(markdown(content, level=3))}.values()))


def sections(text: str, level: int = 3) -> dict[str, str]:
    """Split ``text`` at the headings of ``level``; return each section, heading included, by the heading's words."""
    _, *parts = re.split(rf"^(?={'#' * level} )", text, flags=re.MULTILINE)
    return {part.partition("\n")[0].lstrip("# "): part.strip() for part in parts}


def insert(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two markers of ``page``. Raises ``ValueError`` if a marker is missing."""
    before, opened, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{page} must have both markers: {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text.rstrip()}\n\n{end}{after}")


def markdown(content: Mapping[str, Any], level: int = 2) -> str:
    """Return one section for each scenario under a heading of ``level``: the conditions, and the table."""
    parts: list[str] = []
    for name, scenario in content["scenarios"].items():
        said = f"{remarks(scenario)} {measured(content['machine'], scenario)}"
        parts += [f"{'#' * level} {name}", said, table(scenario["figures"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def measured(here: Mapping[str, Any], scenario: Mapping[str, Any]) -> str:
    """Describe when and where a scenario was measured."""
    return (
        f"Measured on {scenario['date']}: {here['cpu']}, {here['cpus']} CPUs, {here['memory_gib']} GiB, "
        f"Linux {here['kernel']}, Python {here['python']}."
    )


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
