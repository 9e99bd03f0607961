"""Bar charts, one SVG per scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OURS_COLOUR, PEER_COLOUR = "#c2410c", "#94a3b8"
_MATPLOTLIB = "pip install matplotlib"


def bars(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the data of the chart: by unit, the label and length of each bar, one bar per peer and variant."""
    drawn: dict[str, dict[str, float]] = {}
    for line in lines:
        unit = next(key for key in line if key.startswith("ours_")).removeprefix("ours_")
        group = drawn.setdefault(unit, {})
        group[f"{line['variant']}: ours"] = line[f"ours_{unit}"]
        if line["peer"] is not None:
            group[f"{line['variant']}: {line['peer']}"] = line[f"peer_{unit}"]
    return drawn


def draw(scenarios: Mapping[str, Any], folder: Path) -> str | None:
    """Write ``SCENARIO.svg`` for each scenario; return what to install if matplotlib is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return _MATPLOTLIB
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "passerelle"  # the same figures produce the same file
    for name, scenario in scenarios.items():
        groups = bars(scenario["figures"])
        if not groups:
            continue
        heights = [len(group) for group in groups.values()]
        figure, axes = pyplot.subplots(
            len(groups),
            figsize=(9, 0.32 * sum(heights) + 0.9 * len(groups)),
            gridspec_kw={"height_ratios": heights},
            squeeze=False,
            layout="constrained",
        )
        for axis, (unit, group) in zip(axes[:, 0], groups.items(), strict=True):
            colours = [OURS_COLOUR if label.endswith(": ours") else PEER_COLOUR for label in group]
            container = axis.barh(list(group), list(group.values()), color=colours)
            axis.bar_label(container, fmt="{:,.6g}", padding=3, fontsize=8)
            axis.invert_yaxis()
            axis.margins(x=0.12)
            axis.set_xlabel(unit, fontsize=8)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
        figure.suptitle(name, fontsize=10)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
    return None
