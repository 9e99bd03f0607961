"""``passerelle init``: what it finds, what it writes, and that it overwrites nothing."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from passerelle.config import load
from passerelle.migration.found_applications import find_applications
from tests.supervisor.up import CLI, command, invoke

FLASK = "from flask import Flask\n\napp = Flask(__name__)\n"
FASTAPI = "import fastapi as f\n\ndef create_app(debug=False):\n    api = f.FastAPI()\n    return api\n"
DJANGO = "from django.core.wsgi import get_wsgi_application\n\napplication = get_wsgi_application()\n"
ASGI = DJANGO.replace("wsgi", "asgi")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in a folder of its own: exit code and output."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: invoke(tmp_path, *arguments)


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"app.py": FLASK}, [("app:app", "Flask", ".")]),
        ({"main.py": FASTAPI}, [("main:create_app()", "FastAPI", ".")]),
        ({"backend/app.py": FLASK}, [("app:app", "Flask", "backend")]),
        ({"shop/__init__.py": "", "shop/web.py": FLASK}, [("shop.web:app", "Flask", ".")]),
        ({"shop/__init__.py": FLASK}, [("shop:app", "Flask", ".")]),
        (
            {"site/one/__init__.py": "", "site/one/asgi.py": ASGI, "site/one/wsgi.py": DJANGO},
            [("one.wsgi:application", "Django", "site"), ("one.asgi:application", "Django", "site")],
        ),
        ({"tool.py": FLASK, "main.py": FLASK}, [("main:app", "Flask", "."), ("tool:app", "Flask", ".")]),
        ({"app.py": "from mine import Flask\napp = Flask()\n"}, []),
        ({"app.py": "app = (\n", "b.py": "x" * 10, "c.py": "\0"}, []),
        ({"tests/app.py": FLASK, ".venv/app.py": FLASK, "e/pyvenv.cfg": "", "e/app.py": FLASK}, []),
        ({"app.py": "from flask import Flask\ndef create_app(config):\n    return Flask('x')\n"}, []),
        ({"has-dash.py": FLASK}, []),
    ],
)
def test_applications_are_found_without_an_import(
    files: dict[str, str], found: list[tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(files)
    assert [(each.app, each.framework, each.folder) for each in find_applications(tmp_path)] == found


def test_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "again").symlink_to(tmp_path)
    assert find_applications(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "options", "service"),
    [
        ({"app.py": FLASK}, ["--yes"], 'app: "app:app"'),
        ({"b/main.py": FASTAPI}, ["--yes"], 'app: "main:create_app()"\n    cwd: "b"'),
        ({"b/main.py": ""}, ["--app", "main:app", "--folder", "b"], 'app: "main:app"\n    cwd: "b"'),
        ({"app.py": FLASK}, ["--url", "http://localhost:5000"], 'targets: ["http://localhost:5000"]'),
    ],
)
def test_the_file_passes_check_and_is_formatted(
    run: Run, files: dict[str, str], options: list[str], service: str
) -> None:
    write(files)
    assert run("init", *options, "--listen", "127.0.0.1:8081") == (
        0,
        "gateway.yaml written; start it with: passerelle up\n",
    )
    assert Path("gateway.yaml").read_text() == (
        "# yaml-language-server: $schema=gateway.schema.json\nlisten: 127.0.0.1:8081\n\n"
        f'services:\n  web:\n    {service}\n\nroutes:\n  - {{path: "/{{rest*}}", service: web}}\n'
    )
    assert load("gateway.yaml").address.port == 8081
    assert run("check")[0] == 0
    assert run("fmt", "--check")[0] == 0
    assert Path("gateway.schema.json").read_text() == run("schema")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "found no application in this folder; give --app or --url"),
        (["--app", "a.py:app"], 2, "found 'a.py:app'; a module is named without .py: a:app"),
        (["--app", "a:b", "--url", "http://h:1"], 2, "--app and --url exclude each other"),
        (["--url", "http://h:1", "--folder", "."], 2, "--folder is for an application"),
        (["--url", "ftp://h"], 2, "found scheme 'ftp'"),
        (["--url", "http://127.0.0.1:8080"], 1, "the gateway's own address"),
        (["--url", "http://h:1", "--output", "no/such/g.yaml"], 1, "cannot write no/such/g.yaml: no such file"),
    ],
)
def test_what_is_wrong_is_reported(run: Run, arguments: list[str], code: int, message: str) -> None:
    found = run("init", *arguments)
    assert found[0] == code and message in found[1]
    assert os.listdir() == []


@pytest.mark.parametrize("name", ["gateway.yaml", "passerelle.yaml"])
def test_nothing_is_overwritten(run: Run, name: str) -> None:
    Path(name).symlink_to("nowhere")
    code, errors = run("init", "--url", "http://localhost:5000")
    assert (code, errors) == (
        1,
        f"passerelle: {name} exists and is left as it is; --output writes another file\n",
    )
    assert not Path("nowhere").exists()
    assert run("init", "--url", "http://localhost:5000", "--output", "other.yaml")[0] == 0


def test_the_file_starts(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hello']\n"
    )
    assert invoke(tmp_path, "init", "--app", "web:app", "--no-schema", "--listen", "127.0.0.1:0")[0] == 0
    with command(tmp_path, "up", "--admin", "127.0.0.1:0") as running:
        running.listening()
        assert running.get("/anything") == (200, b"hello")
        assert running.stop() == 0


def test_several_applications_of_one_module_are_not_guessed(run: Run) -> None:
    write({"app.py": FLASK + "admin = Flask('x')\n"})
    code, errors = run("init", "--yes")
    assert code == 2 and "found several applications; give --app: app:admin, app:app" in errors


def test_the_three_questions(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(FLASK)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"\n\n9123\n")
        done = subprocess.run(
            [*CLI, "init", "--no-schema"], cwd=tmp_path, stdin=theirs, capture_output=True, text=True, check=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "found app:app (Flask)" in done.stdout
    assert done.stdout.index("What runs") < done.stdout.index("Where is it") < done.stdout.index("On which port")
    assert load(tmp_path / "gateway.yaml").address.port == 9123
