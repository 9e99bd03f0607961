"""Server controlled by the rig: pinned to a CPU, awaited, accounted for, and reliably stopped."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from benchmarks.rig import procfs
from benchmarks.rig.ports import LOOPBACK

STOP_SECONDS = 5.0
_POLL_SECONDS = 0.02


class RigError(Exception):
    """The benchmark cannot continue: a server did not start or exited, a tool is missing or failed."""


class Server:
    """Running server, with all processes that it has started.

    It leads its own session, so a Ctrl-C in the terminal reaches only the rig, which then stops the server. If the rig
    is killed, the kernel sends SIGTERM to the server (prctl(2), PR_SET_PDEATHSIG).
    """

    def __init__(self, name: str, argv: Sequence[str], port: int, cpu: int | str, folder: Path, env: Mapping[str, str]):
        """Start ``argv``, with output to ``folder/NAME.log``. ``port`` is the port on which the server is expected to
        listen.

        ``cpu`` is a CPU number, or several separated by commas.
        """
        self.name = name
        self.port = port
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(cpu), *argv],
                cwd=folder,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, path: str, headers: Mapping[str, str], seconds: float) -> bytes:
        """Wait until a request for ``path`` gets 200; return the body of the response.

        Raises ``RigError`` with the end of the server's log if the server exits or is not ready within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        seen = "no connection"
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                status, body = fetch(self.port, path, headers)
            except (OSError, http.client.HTTPException) as error:
                seen = str(error)
            else:
                if status == 200:
                    return body
                seen = f"status {status}: {body[:200]!r}"
            time.sleep(_POLL_SECONDS)
        raise RigError(f"{self.name} was not ready in {seconds:.0f} s: {seen}\n{self._log_end()}")

    def check_alive(self) -> None:
        """Raise ``RigError`` if the server has exited."""
        if self._process.poll() is not None:
            raise RigError(f"{self.name} exited with {self._process.returncode}\n{self._log_end()}")

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition. Raises ``RigError`` if it does not hold within ``seconds``."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check_alive()
            if time.monotonic() > deadline:
                raise RigError(f"{self.name}: {what} did not happen in {seconds:.0f} s\n{self._log_end()}")
            time.sleep(_POLL_SECONDS)

    def cpu_seconds(self) -> float:
        return procfs.cpu_seconds(self.pid)

    def terminate(self) -> None:
        """Ask the server to stop, without waiting."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop the server and all processes it has started; kill those that remain after ``seconds``."""
        members = [stat.pid for stat in procfs.tree(self.pid, procfs.processes())]
        self.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Only processes still in the session, or earlier members: a pid may have been reused meanwhile.
        left = {stat.pid for stat in procfs.processes() if stat.session == self.pid}
        for pid in left.union(pid for pid in members if _parent_is_init(pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _parent_is_init(pid: int) -> bool:
    try:
        return procfs.parse_stat((procfs.PROC / str(pid) / "stat").read_text()).parent == 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def fetch(port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """GET ``path`` once from the loopback ``port``. Raises ``OSError`` or ``http.client.HTTPException``."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
