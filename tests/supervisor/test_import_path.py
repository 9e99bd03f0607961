"""Files of the current folder never take the place of modules of Python, of the packages in use, or of passerelle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.supervisor.up import up

SHADOWS = (
    "argparse",
    "email",
    "httptools",
    "inspect",
    "json",
    "logging",
    "passerelle",
    "queue",
    "random",
    "select",
    "signal",
    "token",
    "uvicorn",
    "uvloop",
)

APPS = """
import helper

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [helper.BODY]

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": helper.BODY})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose files are called like modules that the processes need; each leaves a trace when it is imported."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"open('imported-{name}', 'w').close()\nraise ImportError('shadowed')\n")
    (tmp_path / "apps.py").write_text(APPS)
    (tmp_path / "helper.py").write_text("BODY = b'served'\n")
    return tmp_path


@pytest.mark.parametrize("app", ["apps:wsgi", pytest.param("apps:asgi", marks=pytest.mark.long)])
def test_files_called_like_modules_are_not_imported(folder: Path, app: str) -> None:
    config = f"services: {{s: {{app: '{app}'}}}}\nroutes: [{{path: /, service: s}}]\n"
    with up(folder, config) as running:
        running.listening()
        assert running.get("/") == (200, b"served")
        assert running.stop() == 0
    assert sorted(file.name for file in folder.glob("imported-*")) == []
