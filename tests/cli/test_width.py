"""Tables on a narrow terminal: 80 columns suffice, and nothing is lost in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from passerelle.cli.support import print_parts, print_table
from tests.supervisor.up import CLI, up

CONFIG = """
services:
  user: {targets: ["http://127.0.0.1:5001"]}
  product: {targets: ["http://127.0.0.1:5002"]}
routes:
  - {path: "/user/{user_id}", service: user, timeout: 2s}
  - {path: "/product/{rest*}", service: product, rewrite: "/internal/{rest}"}
  - path: /api/{user_id}/{product_id}
    compose:
      user: {service: user, path: "/user/{user_id}"}
      product: {service: product, path: "/product/{product_id}"}
"""


def on_terminal(folder: Path, columns: int, *arguments: str) -> str:
    """Run a command on a terminal of ``columns`` columns, and return its output without colours."""
    master, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen([*CLI, *arguments], cwd=folder, env=environ, stdout=terminal, stderr=terminal)
    os.close(terminal)
    data = b""
    try:
        while piece := os.read(master, 65536):
            data += piece
    except OSError:  # EIO: the end of the process
        pass
    os.close(master)
    process.wait(10)
    return re.sub(r"\x1b\[\d*m", "", data.decode()).replace("\r\n", "\n")


def test_the_route_table_fits_80_columns(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    text = on_terminal(tmp_path, 80, "routes")
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[0].split() == ["METHODS", "PATH", "SERVICE", "REWRITE"]
    # What is wrapped is complete.
    for part in ("/api/{user_id}/{product_id}", "user: user +", "product: product", "/internal/{rest}"):
        assert part in text
    assert "left out (narrow terminal; --json has all): HOST, ATTEMPTS, BODY, KEY, TIMEOUT\n" in text


def test_the_route_table_is_complete_on_a_wide_terminal_and_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    piped = subprocess.run([*CLI, "routes"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert on_terminal(tmp_path, 200, "routes") == piped
    assert "KEY" in piped and "user: user + product: product" in piped


@pytest.mark.slow
def test_the_status_fits_80_columns(tmp_path: Path) -> None:
    config = (
        "services:\n  recommendations:\n    targets: ['http://127.0.0.1:9', 'http://127.0.0.1:13']\n"
        "    health: {path: /healthz}\nroutes: [{path: /, service: recommendations}]\n"
    )
    with up(tmp_path, config) as running:
        _, admin = running.listening()
        text = on_terminal(tmp_path, 80, "status", "--admin", f":{admin}")
        assert max(map(len, text.splitlines())) <= 80
        assert "recommendations-1" in text and "connection refused" in text and "up for" in text
        assert json.loads(on_terminal(tmp_path, 80, "status", "--json", "--admin", f":{admin}"))["state"] == "running"


def test_what_cannot_be_narrower_is_wider(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    print_table(("A", "B", ""), [("a" * 12, "b", "one two three four five six")], drop=("B",), wrap="")
    print_parts(["one", "two", "three"])
    text = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    assert text.splitlines() == [
        "A",
        "aaaaaaaaaaaa  one two three four",
        "              five six",
        "",
        "left out (narrow terminal; --json has all): B",
        "one · two",
        "three",
    ]
