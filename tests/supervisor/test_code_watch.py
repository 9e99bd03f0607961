"""``up --reload-code``: which files count, and what a change does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from passerelle.supervisor.code_watch import differences, scan, syntax_problem
from tests.supervisor.helpers import FILE_SERVER, until_now
from tests.supervisor.up import command

CONFIG = f"""
listen: 127.0.0.1:0
admin: 127.0.0.1:0
access_log: 'off'
services:
  s: {{app: "greeting:app", instances: 2, cwd: code}}
  other: {{run: [python, -S, "{FILE_SERVER}", "{{port}}"]}}
routes:
  - {{path: /, service: s}}
  - {{path: /other, service: other}}
"""
APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "{length}")])
    return [b"{text}"]
"""


def write(path: Path, text: str) -> None:
    path.write_text(APP.format(text=text, length=len(text)))


@pytest.mark.slow
def test_a_change_restarts_the_instances_and_a_broken_file_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    source = tmp_path / "code" / "greeting.py"
    write(source, "one")
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    with command(tmp_path, "up", "--reload-code") as running:
        running.listening()
        assert running.get("/") == (200, b"one")
        others = [one["pid"] for one in running.instances("other")]

        write(source, "second")
        running.says(r"greeting\.py changed: restarting s\n")
        running.says(r"s: replaced 2 instances\n")
        assert {running.get("/") for _ in range(4)} == {(200, b"second")}
        assert [one["pid"] for one in running.instances("other")] == others

        pids = [one["pid"] for one in running.instances("s")]
        source.write_text("def app(:\n")
        running.says(r"greeting\.py changed: greeting\.py:1: invalid syntax; the instances of s keep running\n")
        assert [one["pid"] for one in running.instances("s")] == pids

        # An error that only the import finds: the new instance fails, and its last lines are shown.
        source.write_text("import nothing_of_this_name\n")
        running.says(r"ModuleNotFoundError: No module named .nothing_of_this_name")
        running.says(r"s: replaced 0 of 2 instances; the others keep running, because the new instance s-\d did not")
        until_now(lambda: [one["pid"] for one in running.instances("s")] == pids, 10)
        assert running.get("/") == (200, b"second")

        write(source, "third one")
        until_now(lambda: running.get("/") == (200, b"third one"), 20)
        assert running.stop() == 0


def test_reload_code_needs_an_application(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        "services:\n  a: {targets: ['http://127.0.0.1:1']}\nroutes: [{path: /, service: a}]\n"
    )
    with command(tmp_path, "up", "--reload-code") as running:
        assert running.ended() == 2
        assert "--reload-code needs a service with app" in running.text


def test_environments_hidden_folders_and_caches_are_left_out(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "notes.txt",
        "package/b.py",
        "package/__pycache__/c.py",
        ".hidden/d.py",
        ".e.py",
        "venv/pyvenv.cfg",
        "venv/lib/f.py",
        "lib/site-packages/g.py",
        "node_modules/h.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nothing")
    assert sorted(os.path.relpath(path, tmp_path) for path in scan(tmp_path)) == ["a.py", "package/b.py"]


def test_a_project_that_is_its_own_environment_is_watched(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("")
    (tmp_path / "a.py").write_text("")
    assert len(scan(tmp_path)) == 1


def test_the_number_of_files_is_bounded_and_a_missing_folder_has_none(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"m{number}.py").write_text("")
    assert len(scan(tmp_path, most=3)) == 3
    assert scan(tmp_path / "missing") == {}


def test_differences_are_written_added_and_removed_files() -> None:
    before = {"a": (1, 1), "b": (1, 1), "c": (1, 1)}
    now = {"b": (1, 1), "c": (2, 1), "d": (1, 1)}
    assert differences(before, now) == ["a", "c", "d"]


def test_a_syntax_problem_has_its_place(tmp_path: Path) -> None:
    good, bad, binary = tmp_path / "good.py", tmp_path / "bad.py", tmp_path / "binary.py"
    good.write_text("x = 1\n")
    bad.write_text("x = 1\nif x\n")
    binary.write_bytes(b"\0")
    paths = [str(good), str(tmp_path / "removed.py")]
    assert syntax_problem(paths) == ""
    assert syntax_problem([*paths, str(bad)]) == f"{bad}:2: expected ':'"
    assert syntax_problem([str(binary)]) in ("", f"{binary}:1: source code string cannot contain null bytes")
