"""``passerelle top``: its screen, and the command on a real terminal (pty) and in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.cli.top import merge, pressed
from passerelle.cli.top_screen import SORTS, View, printable, screen
from passerelle.config.models.addresses import Address
from passerelle.config.models.admin import AdminPort
from passerelle.observability.live import merge_patch
from tests.supervisor.dashboard.system import Served, System
from tests.supervisor.helpers import until_now
from tests.supervisor.up import CLI

TOKEN = "a-token-of-32-visible-characters"
VALUES = {
    "requests": 120.0,
    "errors": 0.0,
    "limited": 0.0,
    "hits": 60.0,
    "lookups": 100.0,
    "in_flight": 3,
    "p95": 0.0093,
}
SAMPLE: dict[str, Any] = {
    "time": 1796040171.0,
    "total": {**VALUES, "connections": 12, "p50": 0.00061, "p99": 1.25},
    "routes": {"/user/{user_id}": VALUES, "/product": {**VALUES, "requests": 300.0, "errors": 30.0}},
    "services": {
        "user": {**VALUES, "up": 1, "breaker": "half_open", "instances": {
            "user-1": {"state": "up", "requests": 120.0, "errors": 0.0, "latency": 0.002, "restarts": 0},
            "user-2": {"state": "waiting", "requests": 0.0, "errors": 0.0, "in_flight": 0, "restarts": 4},
        }},
    },
    "workers": {"gateway-1": {"state": "up", "cpu": 0.41}},
}  # fmt: skip


def plain(sample: dict[str, Any] = SAMPLE, width: int = 80, height: int | None = None, **view: Any) -> list[str]:
    return screen(sample, "gateway.yaml", "live", View(**view), width, height, colour=False)


def test_the_screen_shows_all_numbers_in_80_columns() -> None:
    text = "\n".join(plain())
    for part in ("120 requests/s", "p50 0.61ms", "p95 9.30ms", "p99 1.2s", "60% cache hits", "12 connections",
                 "41% CPU", "half-open", "user-2", "waiting", "/product", "10%"):  # fmt: skip
        assert part in text
    assert "\x1b" not in text


def test_rows_are_sorted() -> None:
    def routes(sort: str) -> list[str]:
        return [line.split()[0] for line in plain(sort=sort) if line.startswith("/")]

    assert routes("c") == routes("l") == ["/user/{user_id}", "/product"]
    assert routes("r") == routes("e") == routes("n") == ["/product", "/user/{user_id}"]


def test_the_screen_scrolls_and_states_how_much_is_left() -> None:
    sample = {**SAMPLE, "routes": {f"/r{number:03}": VALUES for number in range(100)}}
    first, last = plain(sample, height=24), plain(sample, height=24, offset=10_000)
    assert len(first) == len(last) == 24
    assert re.match(r"\d+ more below", first[-1]) and "/r000" not in "\n".join(last)
    assert "/r099" in "\n".join(last) and "more" not in last[-1]


def test_before_the_first_sample_and_without_requests() -> None:
    assert plain({})[-1] == "There is no sample yet."
    assert plain({"time": 1.0, "total": {}, "services": {}, "routes": {}})[-1] == "No request has arrived yet."


@given(st.text(max_size=200), st.integers(1, 200), st.integers(1, 60), st.sampled_from(sorted(SORTS)))
def test_no_name_breaks_the_screen(name: str, width: int, height: int, sort: str) -> None:
    sample = {
        **SAMPLE,
        "routes": {name: VALUES},
        "services": {name: {"instances": {name: {"state": name}}, "up": 0}},
    }
    lines = screen(sample, name, "live", View(sort), width, height, colour=False)
    assert len(lines) <= height and all(len(line) <= width and printable(line) == line for line in lines)


JSON = st.recursive(st.none() | st.integers(), lambda part: st.dictionaries(st.text(max_size=2), part, max_size=3))


@given(*[st.dictionaries(st.text(max_size=2), JSON.filter(lambda value: value is not None), max_size=3)] * 2)
def test_patches_of_the_stream_are_applied(before: dict[str, Any], after: dict[str, Any]) -> None:
    without_null = merge({}, after)
    assert merge(before, merge_patch(before, without_null)) == without_null


def test_keys() -> None:
    assert pressed(View("c", 5), b"r", 24) == View("r", 0)
    assert pressed(View("c", 5), b"\x1b[A", 24) == View("c", 4)
    assert pressed(View("c", 0), b"k", 24) == View("c", 0)
    assert pressed(View("c", 5), b"\x1b[6~", 24) == View("c", 23)
    assert pressed(View("c", 5), b"\xff\x00", 24) == View("c", 5)


class Terminal:
    """A command on its own terminal."""

    def __init__(self, folder: Path, *arguments: str, lines: int = 24, columns: int = 80, **environ: str) -> None:
        self.data = b""
        self.master, terminal = pty.openpty()
        self.before = termios.tcgetattr(terminal)
        self.resize(lines, columns)
        base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "LINES", "COLUMNS")}
        self.popen = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *CLI, *arguments],
            cwd=folder, env={**base, "TERM": "xterm", **environ}, stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        self.terminal = terminal
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopped.is_set():
            if select.select([self.master], [], [], 0.02)[0]:
                self.data += os.read(self.master, 65536)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    @property
    def screen(self) -> list[str]:
        """The last complete screen, without colours."""
        found = self.data.decode("utf-8", "replace").split("\x1b[H")
        last = next((each for each in reversed(found) if each.endswith("\x1b[J") or "\x1b[J" in each), "")
        return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line) for line in last.partition("\x1b[J")[0].split("\n")]

    def shows(self, text: str, limit: float = 15.0) -> None:
        until_now(lambda: text in "\n".join(self.screen), limit, lambda: self.data[-3000:])

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)
        self._stopped.set()
        self._thread.join(5)
        os.close(self.master)
        os.close(self.terminal)


@pytest.fixture
def served() -> Iterator[Served]:
    system = System()
    system.local("user")
    made = Served(system, AdminPort(token=TOKEN))
    made.seconds(3)
    yield made
    made.close()


@pytest.mark.slow
def test_top_on_a_terminal(served: Served, tmp_path: Path) -> None:
    running = Terminal(tmp_path, "top", "--admin", f"127.0.0.1:{served.port}", lines=40)
    try:
        running.shows("/user/{user_id}")
        assert all(len(line) <= 79 for line in running.screen) and len(running.screen) == 40
        assert b"\x1b[?1049h" in running.data and b"\x1b[7m" in running.data
        served.system.states["user"]["user-2"]["state"] = "waiting"
        served.seconds(1)
        running.shows("waiting")
        running.press(b"n")
        until_now(
            lambda: [line.split()[0] for line in running.screen if line.startswith("/")][:1] == ["/home/{user_id}"]
        )
        running.resize(12, 60)
        until_now(lambda: len(running.screen) == 12 and all(len(line) <= 59 for line in running.screen))
        served.drop_streams()
        running.shows("retrying")
        served.seconds(1)
        running.shows("live")
        running.press(b"q")
        assert running.popen.wait(10) == 0
        until_now(lambda: running.data.endswith(b"\x1b[?25h\x1b[?1049l"))
        assert termios.tcgetattr(running.terminal) == running.before
    finally:
        running.close()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_signals_restore_the_terminal(served: Served, tmp_path: Path, end: signal.Signals) -> None:
    running = Terminal(tmp_path, "top", "--admin", f"127.0.0.1:{served.port}", NO_COLOR="1")
    try:
        running.shows("user-1")
        if end is signal.SIGINT:
            running.press(b"\x03")
        else:
            (child,) = Path(f"/proc/{running.popen.pid}/task/{running.popen.pid}/children").read_text().split() or [""]
            os.kill(int(child or running.popen.pid), end)
        running.popen.wait(10)
        until_now(lambda: running.data.endswith(b"\x1b[?25h\x1b[?1049l"))
        assert termios.tcgetattr(running.terminal) == running.before
        assert not re.search(rb"\x1b\[[0-9;]*m", running.data), "colours in spite of NO_COLOR"
    finally:
        running.close()


def once(served: Served, folder: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "top", "--admin", f"127.0.0.1:{served.port}", *options]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
def test_in_a_pipe_top_prints_one_screen(served: Served, tmp_path: Path) -> None:
    result = once(served, tmp_path, "--sort", "name")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout and "more below" not in result.stdout
    for name in ("user-3", "product-2", "search-1", "/search", "/home/{user_id}"):
        assert name in result.stdout


@pytest.mark.slow
def test_a_port_beyond_loopback_needs_the_token(tmp_path: Path) -> None:
    made = Served(System(), AdminPort(listen=Address(host="0.0.0.0", port=9900), token=TOKEN), host="0.0.0.0")
    try:
        made.seconds(2)
        refused = once(made, tmp_path, "--once")
        assert refused.returncode == 1 and "it needs a token" in refused.stderr and refused.stdout == ""
        result = once(made, tmp_path, "--once", PASSERELLE_ADMIN_TOKEN=TOKEN)
        assert result.returncode == 0 and "user-1" in result.stdout
    finally:
        made.close()
    gone = once(made, tmp_path, "--once")
    assert gone.returncode == 1 and "no response from a gateway" in gone.stderr
