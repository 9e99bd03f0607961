"""``passerelle up`` on a real terminal (pty): colours, progress in place, Ctrl-C."""

from __future__ import annotations

import contextlib
import http.client
import os
import pty
import re
import select
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import FILE_SERVER, alive, until_now
from tests.supervisor.up import CLI

pytestmark = pytest.mark.slow

CONFIG = f"""
listen: 127.0.0.1:0
admin: 127.0.0.1:0
services:
  files: {{run: [sh, -c, "sleep 1.5; exec python -S '{FILE_SERVER}' {{port}}"], instances: 2}}
routes: [{{path: /, service: files}}]
"""


class Terminal:
    """``passerelle up`` on its own terminal, as the foreground job of its session."""

    def __init__(self, folder: Path, environ: dict[str, str], options: tuple[str, ...] = ()) -> None:
        (folder / "gateway.yaml").write_text(CONFIG)
        self.mark = f"PASSERELLE_TEST={uuid.uuid4()}"
        self.data = b""
        self.master, terminal = pty.openpty()
        name, value = self.mark.split("=")
        base = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        self.popen = subprocess.Popen(
            # As a shell does: a session with this controlling terminal.
            ["setsid", "--ctty", "--wait", *CLI, "up", *options],
            cwd=folder,
            env={**base, "TERM": "xterm", **environ, name: value},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        self._hung_up = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the last process on the terminal is gone
            while not self._hung_up.is_set():
                if select.select([self.master], [], [], 0.02)[0]:
                    self.data += os.read(self.master, 65536)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def says(self, text: bytes) -> None:
        until_now(lambda: text in self.data, 15, what=lambda: self.data)

    def get(self, path: str) -> None:
        """Send one request to the gateway."""
        self.says(b"listening on")
        port = re.search(rb"listening on (?:\x1b\[1m)?http://127\.0\.0\.1:(\d+)", self.data)
        assert port is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=10)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()

    def hang_up(self) -> None:
        """Close the terminal."""
        if not self._hung_up.is_set():
            self._hung_up.set()
            self._thread.join(5)
            os.close(self.master)

    def close(self) -> None:
        for pid in alive(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.popen.wait(10)
        self.hang_up()


@contextlib.contextmanager
def terminal(folder: Path, *options: str, **environ: str) -> Iterator[Terminal]:
    running = Terminal(folder, environ, options)
    try:
        yield running
    finally:
        running.close()


def test_colours_progress_in_place_and_one_ctrl_c(tmp_path: Path) -> None:
    with terminal(tmp_path) as running:
        running.says(b"listening on")
        assert b"\rstarting: 0 of 2, waiting for files-1, files-2 (1 s)" in running.data.replace(b"\r\x1b[K", b"\r")
        assert b"\x1b[36mfiles-1   \x1b[0m \x1b[2m|\x1b[0m Serving HTTP" in running.data
        assert b"\x1b[32mup      \x1b[0m" in running.data
        running.get("/")
        running.says(b"\x1b[32m200\x1b[0m GET    / ")
        running.press(b"\x03")
        assert running.popen.wait(10) == 0, "one Ctrl-C is one, though the whole foreground group gets it"
        assert alive(running.mark) == {}
        assert running.data.endswith(b"stopped\r\n")


@pytest.mark.long
def test_no_colour_with_no_color(tmp_path: Path) -> None:
    with terminal(tmp_path, NO_COLOR="1") as running:
        running.says(b"listening on")
        assert not re.search(rb"\x1b\[\d+m", running.data)
        running.press(b"\x03")
        assert running.popen.wait(10) == 0


def test_the_access_log_is_readable_on_a_terminal(tmp_path: Path) -> None:
    with terminal(tmp_path, NO_COLOR="1") as running:
        running.get("/")
        running.get("/missing%1b")
        until_now(lambda: re.search(rb"\ngateway    \| \d\d:\d\d:\d\d 200 GET    / ", running.data) is not None, 10)
        until_now(lambda: re.search(rb" 400 GET    /missing%1b .* bad_path: ", running.data) is not None, 10)
        assert b'"status":200' not in running.data


def test_the_access_log_is_json_on_a_terminal_if_that_is_chosen(tmp_path: Path) -> None:
    with terminal(tmp_path, "--log-format", "json") as running:
        running.get("/")
        running.says(b'"target":"/","status":200')


@pytest.mark.long
def test_two_ctrl_c_kill_at_once(tmp_path: Path) -> None:
    with terminal(tmp_path) as running:
        running.says(b"listening on")
        running.press(b"\x03")
        running.says(b"stopping")
        running.press(b"\x03")
        running.popen.wait(10)
        assert alive(running.mark) == {}


def test_a_terminal_that_is_closed_ends_everything(tmp_path: Path) -> None:
    with terminal(tmp_path) as running:
        running.says(b"listening on")
        running.hang_up()
        until_now(lambda: not alive(running.mark), 15, what=lambda: alive(running.mark))
