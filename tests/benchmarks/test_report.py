"""Report: stored figures, tables, plots."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.__main__ import SCENARIOS
from benchmarks.figures import Figure, Target
from benchmarks.report import machine, plots, readme, write

HERE = {"cpu": "Some CPU", "cpus": 2, "memory_gib": 4.0, "kernel": "6.1", "python": "3.11"}
FIGURES = [
    Figure("forward", "10hdr", "us", 24.0, "nginx", 16.0, 1.5, 3, 0, False, Target(1.6), {"ours_rps": 40000.0}),
    Figure("forward", "10hdr", "us", 24.0, "envoy", 48.0, 0.5, 3, 2, True),
    Figure("forward", "10hdr", "rss_bytes", 4000.0),
]
LINES = [figure.line() for figure in FIGURES]


def scenario(**changes):
    return {
        "date": "2026-11-30",
        "seconds": 3,
        "pairs": 3,
        "load_average": [0.1, 0.1, 0.1],
        "load_average_high": False,
        "versions": {},
        "missing": {},
        "failure": None,
        "errors": 0,
        "figures": LINES,
        "runs": {},
    } | changes


def test_the_json_line_has_the_promised_names():
    assert {"scenario", "ours_us", "peer", "peer_us", "ratio", "pairs", "errors"} <= LINES[0].keys()
    assert json.loads(json.dumps(LINES[0])) == LINES[0]


def test_scenarios_that_were_not_run_keep_their_figures_on_the_same_machine_only():
    old = {"machine": HERE, "scenarios": {"forward": 1, "compose": 2}}
    assert write.merge(old, HERE, {"forward": 3}) == {"machine": HERE, "scenarios": {"forward": 3, "compose": 2}}
    other = HERE | {"cpu": "Another"}
    assert write.merge(old, other, {"forward": 3}) == {"machine": other, "scenarios": {"forward": 3}}
    assert write.merge({}, HERE, {"forward": 3}) == {"machine": HERE, "scenarios": {"forward": 3}}


def test_the_table_has_a_row_a_figure_and_every_row_all_columns():
    rows = write.table(LINES).splitlines()
    assert len(rows) == 2 + len(LINES)
    assert len({row.count("|") for row in rows}) == 1
    assert rows[2] == "| forward | 10hdr | us | 24.0 | nginx | 16.0 | 1.5 | <= 1.6 x | yes | 0 | no |"
    assert write.table([]) == ""


def test_the_remarks_name_what_spoils_the_figures():
    calm = write.remarks(scenario())
    assert "busy" not in calm and "failed" not in calm.lower()
    spoilt = write.remarks(
        scenario(load_average=[2.5, 1, 1], load_average_high=True, missing={"envoy": "pip install it"}, errors=4)
    )
    assert "load average 2.5" in spoilt and "envoy: pip install it" in spoilt and "4 errors: failed" in spoilt
    assert "Failed: nginx died" in write.remarks(scenario(failure="nginx died\nlog"))


def test_saving_writes_json_and_a_page(tmp_path):
    latest = write.save({"forward": scenario()}, tmp_path)
    write.save({"compose": scenario()}, tmp_path)
    content = json.loads(latest.read_text())
    assert list(content["scenarios"]) == ["forward", "compose"]
    assert content["machine"] == machine.describe()
    page = (tmp_path / "latest.md").read_text()
    assert page.startswith("# Figures\n") and "## forward" in page and "## compose" in page


def test_publishing_changes_what_stands_between_the_marks_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{write.BEGIN}\nold\n{write.END}\n\nafter\n")
    content = {"machine": HERE, "scenarios": {"forward": scenario()}}
    write.publish(content, page)
    first = page.read_text()
    assert first.startswith(f"# Title\n\n{write.BEGIN}\n\n### forward\n\n3 pairs, 3 s a run.")
    assert first.endswith(f"|\n\n{write.END}\n\nafter\n") and "old" not in first
    assert "Measured on 2026-11-30: Some CPU, 2 CPUs, 4.0 GiB, Linux 6.1, Python 3.11." in first
    write.publish(content, page)
    assert page.read_text() == first
    page.write_text(write.BEGIN)
    with pytest.raises(ValueError, match="both markers"):
        write.publish(content, page)


def test_publishing_keeps_the_section_of_a_scenario_that_was_not_measured_again(tmp_path):
    page = tmp_path / "page.md"
    earlier = "### routes\n\nMeasured earlier.\n\n| a table |"
    page.write_text(f"{write.BEGIN}\n\n{earlier}\n\n### forward\n\nold\n\n{write.END}\n")
    write.publish({"machine": HERE, "scenarios": {"forward": scenario(), "hit": scenario()}}, page)
    text = page.read_text()
    assert earlier in text and "old" not in text
    assert [line for line in text.splitlines() if line.startswith("### ")] == ["### routes", "### forward", "### hit"]


def readme_content(**figures):
    """Return the content of ``latest.json`` with these figures: by scenario, (variant, peer, ours, theirs) of each."""
    return {
        "machine": HERE,
        "scenarios": {
            name: scenario(
                figures=[Figure(name, variant, "us", ours, peer, theirs, ours / theirs).line()],
                date=date,
            )
            for name, (variant, peer, ours, theirs, date) in figures.items()
        },
    }


def test_the_readme_has_a_row_for_each_figure_and_none_without(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    readme.update(readme_content(forward=("varying, both log", "nginx", 30.0, 20.0, "2026-11-30")), page)
    text = page.read_text()
    assert text.startswith(f"before\n{readme.BEGIN}\n\nCPU time") and text.endswith(f"|\n\n{readme.END}\nafter\n")
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert rows == [
        "| **forward**, each request new, access log on both sides | 30.0 µs | nginx 20.0 µs | 1.50 × | `forward` |"
    ]
    assert "2 CPUs (Some CPU), measured on 2026-11-30" in text


def test_the_readme_states_that_its_figures_are_of_different_days():
    shown = readme.markdown(
        readme_content(
            forward=("10hdr", "nginx", 30.0, 20.0, "2026-11-28"),
            policy=("varying", "haproxy", 260.0, 20.0, "2026-11-30"),
        )
    )
    assert "measured between 2026-11-28 and 2026-11-30" in shown
    assert "| 260 µs | HAProxy 20.0 µs | 13 × |" in shown


def test_every_row_of_the_readme_names_a_scenario_that_can_be_run():
    assert {row.scenario for row in readme.ROWS} <= set(SCENARIOS)


def test_each_bar_is_drawn_once_by_unit():
    assert plots.bars(LINES) == {
        "us": {"10hdr: ours": 24.0, "10hdr: nginx": 16.0, "10hdr: envoy": 48.0},
        "rss_bytes": {"10hdr: ours": 4000.0},
    }


def test_the_plots_are_svg_and_the_same_for_the_same_figures(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        assert plots.draw({"forward": scenario(), "empty": scenario(figures=[])}, folder) is None
    assert [file.name for file in first.iterdir()] == ["forward.svg"]
    assert (first / "forward.svg").read_bytes() == (second / "forward.svg").read_bytes()
    assert ElementTree.parse(first / "forward.svg").getroot().tag.endswith("svg")


def test_the_cpu_is_named_where_the_kernel_names_it():
    assert machine.parse_cpu_model("processor\t: 0\nmodel name\t: Some: CPU\n") == "Some: CPU"
    assert machine.parse_cpu_model("processor\t: 0\n") == "unknown"
