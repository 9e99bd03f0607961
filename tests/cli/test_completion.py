"""Completion of commands, options and names, as the shells ask for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from passerelle.cli.main import passerelle
from tests.supervisor.up import invoke

CONFIG = """\
services:
  users: {targets: ["http://127.0.0.1:1"]}
  products: {targets: ["http://127.0.0.1:2"]}
routes:
  - {path: "/user/{id}", methods: [GET], service: users}
  - {path: /product, service: products}
"""


def complete(words: list[str], incomplete: str) -> list[str]:
    found = BashComplete(passerelle, {}, "passerelle", "_PASSERELLE_COMPLETE").get_completions(words, incomplete)
    return [item.value for item in found]


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        (["restart"], "u", ["users"]),
        (["instances", "list"], "", ["users", "products"]),
        (["scale"], "p", ["products="]),
        (["maintenance", "on"], "/", ["/product"]),
        (["split"], "GET", ["GET /user/{id}"]),
        (["split", "/product"], "us", ["users="]),
        (["shadow", "report"], "", ["GET /user/{id}", "/product"]),
        (["rollout"], "/p", ["/product"]),
        (["completion"], "", ["bash", "zsh", "fish"]),
        (["fmt"], "--ch", ["--check"]),
    ],
)
def test_names_of_the_file(
    words: list[str], incomplete: str, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text(CONFIG)
    assert complete(words, incomplete) == found


@pytest.mark.parametrize("text", [None, "a: [", "routes: []\n"])
def test_without_a_valid_file_there_are_no_names(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("gateway.yaml").write_text(text)
    assert complete(["restart"], "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_its_script(shell: str, tmp_path: Path) -> None:
    code, script = invoke(tmp_path, "completion", shell)
    assert code == 0 and "_PASSERELLE_COMPLETE" in script
    program = shutil.which(shell)
    if program is None:
        assert script.startswith("#compdef passerelle" if shell == "zsh" else "function _passerelle_completion")
        return
    subprocess.run([program, "-n"], input=script, text=True, check=True, capture_output=True)


def test_an_unknown_shell(tmp_path: Path) -> None:
    code, output = invoke(tmp_path, "completion", "csh")
    assert code == 2 and "'csh' is not one of" in output
