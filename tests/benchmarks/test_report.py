"""Report: stored figures, tables, plots."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.figures import Figure, Target
from benchmarks.report import machine, plots, write

HERE = {"cpu": "Some CPU", "cpus": 2, "memory_gib": 4.0, "kernel": "6.1", "python": "3.11"}
FIGURES = [
    Figure("forward", "10hdr", "us", 24.0, "nginx", 16.0, 1.5, 3, 0, False, Target(1.6), {"ours_rps": 40000.0}),
    Figure("forward", "10hdr", "us", 24.0, "envoy", 48.0, 0.5, 3, 2, True),
    Figure("forward", "10hdr", "rss_bytes", 4000.0),
]
LINES = [figure.line() for figure in FIGURES]


def scenario(**changes):
    return {
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


def test_the_remarks_tell_what_spoils_the_figures():
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
    assert first.startswith(f"# Title\n\n{write.BEGIN}\n\nSome CPU, 2 CPUs")
    assert first.endswith(f"|\n\n{write.END}\n\nafter\n") and "old" not in first and "\n### forward\n" in first
    write.publish(content, page)
    assert page.read_text() == first
    page.write_text(write.BEGIN)
    with pytest.raises(ValueError, match="both markers"):
        write.publish(content, page)


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
