"""The reference pages state what the code does. ``tests/machinery/test_reference_tables.py`` checks their tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from passerelle.cli.main import main
from passerelle.config import load_text, rules
from passerelle.config.models import config as models
from passerelle.config.problems import allowed_keys
from passerelle.config.reading import substitute, yaml_tree
from passerelle.errors import Failure
from passerelle.routing.paths import MAX_SEGMENTS, canonical_path
from passerelle.routing.router import MAX_STEPS, Router, RouteRule

DOCS = Path(__file__).parents[2] / "docs" / "reference"
ROUTING = (DOCS / "routing.md").read_text("utf-8")
REFERENCE = (DOCS / "configuration.md").read_text("utf-8")


def test_the_numbers_of_the_pages_are_those_of_the_code() -> None:
    assert (yaml_tree.MAX_BYTES, yaml_tree.MAX_DEPTH, yaml_tree.MAX_ALIASED) == (2**20, 32, 10_000)
    assert "1 MiB" in REFERENCE and "32 levels" in REFERENCE and "10,000 values" in REFERENCE
    assert substitute.MAX_SECRET_BYTES == 64 * 1024
    assert "64 KiB" in REFERENCE
    assert f"{MAX_SEGMENTS} segments" in ROUTING
    assert f"{MAX_STEPS:,} steps" in ROUTING


def test_the_examples_of_the_page_are_the_real_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run every `$ passerelle …` of the page about the command line on the file that the page shows before it."""
    page = (DOCS / "cli.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    good = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert good is not None
    shown = re.findall(r"(?:```text\n([^`]*)```[^`]*)?```console\n\$ passerelle ([^\n>]*)\n(.*?)```", page, re.DOTALL)
    assert [command.split()[0] for _, command, _ in shown] == ["check", "check", "routes", "explain", "explain"]
    for bad, command, output in shown:
        Path("gateway.yaml").write_text(bad or good[1])
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command))
        assert capsys.readouterr().out == output
        assert ended.value.code == (1 if bad or "\nstatus " in output else 0)


def test_the_allowed_keys_of_a_message_are_those_of_the_model() -> None:
    assert allowed_keys(("routes", 0)) == list(models.Route.model_fields)


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table whose head is ``heading``."""
    start = ROUTING.index(f"| {heading} |")
    lines = ROUTING[start : ROUTING.index("\n\n", start)].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_routing_page_states_which_route_wins() -> None:
    example = re.search(r"```yaml\n(services.*?)```", ROUTING, re.DOTALL)
    assert example is not None
    router = Router(rules(load_text(example[1])))
    table = rows("request | route | why")
    assert len(table) == 5
    for request, route, _ in table:
        asked, *host = codes(request)
        method, path = asked.encode().split(b" ")
        value = router.match(host[0].encode() if host else b"", method, path).value
        assert isinstance(value, models.Route)
        assert codes(route) == [value.path, *(value.host or ())]


def test_the_routing_page_states_what_patterns_match() -> None:
    table = rows("pattern | matches | not")
    assert len(table) == 6
    for pattern, matches, misses in table:
        (text,) = codes(pattern)
        router = Router([RouteRule(None, None, text, text)])
        for path in codes(matches.split(" (")[0]):
            assert router.match(b"", b"GET", path.encode()).value == text
        for path in codes(misses):
            assert router.match(b"", b"GET", path.encode()).value is None


def test_the_routing_page_states_which_paths_are_refused() -> None:
    table = rows("refused | such as")
    assert len(table) == 8
    for _, such in table:
        for path in (code for code in codes(such) if code.startswith("/")):
            with pytest.raises(Failure):
                canonical_path(path.encode())
    for before, after in re.findall(r"`(/[^`]+)` is `(/[^`]+)`", ROUTING):
        assert canonical_path(before.encode()) == after.encode()
    assert canonical_path(b"/%C3%A9") == b"/%C3%A9"
