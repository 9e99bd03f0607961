"""``passerelle import``: what it prints and writes, and its exit codes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_main import Run, run

__all__ = ["run"]

KONG = "_format_version: '3.0'\nservices: [{name: s, url: 'http://127.0.0.1:5000', routes: [{paths: [/a]}]}]\n"


def test_everything_carried_over_is_0(run: Run) -> None:
    Path("kong.yaml").write_text(KONG)
    code, out, err = run("import", "kong", "kong.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("# Imported from kong.yaml.\nlisten: ")
    Path("imported.yaml").write_text(out)
    assert run("check", "imported.yaml")[0] == 0


def test_what_is_not_carried_over_is_listed_and_1(run: Run) -> None:
    Path("kong.yaml").write_text(f"{KONG}consumers: []\n")
    code, out, err = run("import", "kong", "kong.yaml")
    line = "kong.yaml:3: consumers: create their keys: passerelle keys create --owner NAME\n"
    assert (code, err) == (1, line)
    assert f"# Not carried over:\n#   {line}" in out


def test_a_file_is_written_and_not_replaced(run: Run) -> None:
    Path("kong.yaml").write_text(KONG)
    assert run("import", "kong", "kong.yaml", "-o", "new.yaml")[:2] == (0, "")
    assert run("check", "new.yaml")[0] == 0
    code, _, err = run("import", "kong", "kong.yaml", "-o", "new.yaml")
    assert (code, err.startswith("passerelle import kong: new.yaml exists; --force replaces it")) == (2, True)
    assert run("import", "kong", "kong.yaml", "-o", "new.yaml", "--force")[0] == 0


def test_a_file_that_cannot_be_read_is_2(run: Run) -> None:
    Path("odd").write_bytes(b"\xff\xfe\x00")
    for source in ("nginx", "traefik", "kong"):
        for name in ("odd", "none", "."):
            code, out, err = run("import", source, name)
            assert (code, out, err.count("\n")) == (2, "", 1), (source, name, err)
