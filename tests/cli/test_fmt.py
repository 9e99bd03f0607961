"""``passerelle fmt``: files, standard input, and what it leaves alone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.supervisor.up import invoke

BEFORE = "routes: []   # none\nlisten: 127.0.0.1:8080\n"
AFTER = "listen: 127.0.0.1:8080\nroutes: [] # none\n"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``fmt`` in a folder of its own: exit code and output."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: invoke(tmp_path, "fmt", *arguments)


def test_a_file_is_replaced_and_keeps_its_permissions(run: Run) -> None:
    Path("gateway.yaml").write_text(BEFORE)
    Path("gateway.yaml").chmod(0o640)
    assert run() == (0, "gateway.yaml formatted\n")
    assert Path("gateway.yaml").read_text() == AFTER
    assert Path("gateway.yaml").stat().st_mode & 0o777 == 0o640
    assert run() == (0, "")
    assert os.listdir() == ["gateway.yaml"]


def test_check_changes_nothing(run: Run) -> None:
    Path("gateway.yaml").write_text(BEFORE)
    Path("other.yaml").write_text(AFTER)
    assert run("--check", "gateway.yaml", "other.yaml") == (1, "gateway.yaml is not formatted\n")
    assert Path("gateway.yaml").read_text() == BEFORE
    assert run("--check", "other.yaml") == (0, "")


def test_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BEFORE.encode())))
    assert run("-") == (0, AFTER)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BEFORE.encode())))
    assert run("--check", "-") == (1, "<stdin> is not formatted\n")


def test_a_link_stays_a_link(run: Run) -> None:
    Path("real.yaml").write_text(BEFORE)
    Path("gateway.yaml").symlink_to("real.yaml")
    assert run()[0] == 0
    assert Path("gateway.yaml").is_symlink() and Path("real.yaml").read_text() == AFTER


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"a: [\n", 1, "gateway.yaml:2:1: "),
        (b"a: 1\na: 2\n", 1, "gateway.yaml:2:1: the key 'a' occurs twice"),
        (b"a: # b\n  c\n", 1, "gateway.yaml: line 1: a comment stands between a key and its value"),
        (b"\xff", 2, "gateway.yaml is not UTF-8 text"),
        (b"", 1, "gateway.yaml:1:1: the file is empty"),
    ],
)
def test_what_cannot_be_formatted_is_left_alone(run: Run, content: bytes, code: int, message: str) -> None:
    Path("gateway.yaml").write_bytes(content)
    found = run()
    assert found[0] == code and message in found[1]
    assert Path("gateway.yaml").read_bytes() == content


def test_a_missing_file(run: Run) -> None:
    assert run("no.yaml")[1].startswith("passerelle fmt: cannot read no.yaml: no such file or directory")
