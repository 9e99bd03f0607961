"""No spelling of a path reaches a handler that its route does not lead to, whatever serves the application."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "attacks" / "paths.py"
REQUESTS = 200  # of each server; the script alone tries thousands
SECONDS = 240


def attack(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_no_spelling_reaches_another_handler_behind_any_server() -> None:
    done = attack("--requests", str(REQUESTS))
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^(\S+) +(\d+) requests, [\d.]+ s, 0 faults;", done.stdout, re.MULTILINE)
    hosts = ["wsgi", "asgi", "flask", "uvicorn", "gunicorn", "waitress"]
    hosts += [f"keeping.{name}" for name in ("wsgi", "asgi", "flask")]
    assert counts == [(host, str(REQUESTS)) for host in hosts], done.stdout


def test_a_guarded_handler_and_another_route_are_faults() -> None:
    spec = importlib.util.spec_from_file_location("attack_paths", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attack_paths"] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["attack_paths"]
    result = module.Result()
    result.add(b"/a", 200, "open", b'{"handler": "open"}')
    result.add(b"/both/1", 200, "composed", b'{"one": {"handler": "internal"}}')
    result.add(b"/admin", 401, "key", b"{}")
    assert result.faults == []
    for route, body in [
        ("open", b'{"handler": "admin"}'),
        ("key", b'{"handler": "admin"}'),
        ("", b'{"handler": "open"}'),
        ("rewritten", b'{"handler": "internal/delete"}'),
        ("composed", b'{"one": {"handler": "verify"}}'),
    ]:
        result.add(b"/x", 200, route, body)
    result.add(b"/x", 500, "open", b"")
    assert len(result.faults) == 6
