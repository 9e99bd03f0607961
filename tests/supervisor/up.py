"""Run ``passerelle`` commands as processes, with access to their output, admin port and process tree."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from passerelle.cli.main import main
from tests.supervisor.helpers import alive, until_now

# -P: as the installed command, which does not import from the current folder.
CLI = [sys.executable, "-P", "-c", "from passerelle.cli.main import main; main()"]


class Up:
    """A started command. ``mark`` is in the environment of all its processes."""

    def __init__(
        self, folder: Path, *arguments: str, env: dict[str, str] | None = None, before: Sequence[str] = ()
    ) -> None:
        self.mark = f"PASSERELLE_TEST={uuid.uuid4()}"
        self._output = folder / f"output-{uuid.uuid4().hex[:6]}"
        name, value = self.mark.split("=")
        with open(self._output, "wb") as file:
            self.popen = subprocess.Popen(
                [*before, *CLI, *arguments],
                cwd=folder,
                env={**os.environ, **(env or {}), name: value},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """The output so far."""
        return self._output.read_text(errors="replace")

    def says(self, pattern: str, limit: float = 15.0) -> re.Match[str]:
        """Wait until the output matches ``pattern``."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = re.search(pattern, self.text)
            if match:
                found.append(match)
            # The first process may have ended while others of its tree still write.
            return bool(match) or (self.popen.poll() is not None and not self.alive())

        with contextlib.suppress(AssertionError):
            until_now(look, limit)
        found or look()
        assert found, f"never said {pattern!r}:\n{self.text}"
        return found[0]

    def listening(self) -> tuple[int, int]:
        """Wait until the gateway is ready, and return its port and the admin port."""
        match = self.says(r"listening on http://127\.0\.0\.1:(\d+) · admin http://127\.0\.0\.1:(\d+)")
        self.port, self.admin = int(match[1]), int(match[2])
        return self.port, self.admin

    def get(self, path: str, port: int | None = None, **headers: str) -> tuple[int, bytes]:
        """Send one request to the gateway (or to ``port``)."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """Return ``/status``."""
        code, body = self.get("/status", self.admin)
        assert code == 200
        value: dict[str, Any] = json.loads(body)
        return value

    def instances(self, service: str) -> list[dict[str, Any]]:
        """Return the instances of ``service`` in ``/status``."""
        value: list[dict[str, Any]] = self.status()["services"][service]["instances"]
        return value

    def alive(self) -> dict[int, str]:
        """Return pid and command line of the live processes of the command, including itself."""
        return alive(self.mark)

    def named(self, part: str) -> list[int]:
        """Return the pids of the processes whose command line contains ``part``."""
        return [pid for pid, command in self.alive().items() if part in command]

    def stop(self, sig: signal.Signals = signal.SIGTERM, limit: float = 15.0) -> int:
        """Send a signal, wait for the end, and check that no process is left."""
        self.popen.send_signal(sig)
        return self.ended(limit)

    def ended(self, limit: float = 15.0) -> int:
        """Wait for the end, and check that no process is left. Returns the exit code."""
        try:
            code = self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit} s:\n{self.text}\n{self.alive()}") from None
        assert self.alive() == {}, f"left behind:\n{self.text}"
        return code

    def gone(self, limit: float = 5.0) -> None:
        """Wait until no process is left."""
        with contextlib.suppress(AssertionError):
            until_now(lambda: not self.alive(), limit)
        assert self.alive() == {}, self.text
        self.popen.wait(5)


@contextlib.contextmanager
def up(
    folder: Path, config: str, *options: str, env: dict[str, str] | None = None, before: Sequence[str] = ()
) -> Iterator[Up]:
    """Run ``passerelle up`` with ``config`` (services and routes; ports are chosen) until the end of the test."""
    (folder / "gateway.yaml").write_text("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n" + config)
    with command(folder, "up", *options, env=env, before=before) as running:
        yield running


@contextlib.contextmanager
def command(
    folder: Path, *arguments: str, env: dict[str, str] | None = None, before: Sequence[str] = ()
) -> Iterator[Up]:
    """Run any command of passerelle, and end all its processes at the end of the test.

    ``before`` is a command that starts it, such as nohup.
    """
    running = Up(folder, *arguments, env=env, before=before)
    try:
        yield running
    finally:
        for pid in running.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.popen.wait(10)


def invoke(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a client command to its end, in this process because a new one imports for half a second.

    Returns its exit code and its output.
    """
    output = io.StringIO()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(folder)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        end = stack.enter_context(pytest.raises(SystemExit))
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code, output.getvalue()
