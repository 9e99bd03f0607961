"""Rig: a temporary folder, two CPUs, and the servers that run on them; everything is removed on exit."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from benchmarks.rig import procfs, wrk
from benchmarks.rig.ports import LOOPBACK, free_ports
from benchmarks.rig.server import STOP_SECONDS, RigError, Server

_READY_SECONDS = 60.0
_FILES = 32_768  # open files that servers may need, if the machine allows it
_TOOLS = ("taskset", "setpriv")


class Rig:
    """Runs servers under test on ``server_cpu``, and all else (load, upstreams, the rig itself) on ``load_cpu``."""

    def __init__(self, server_cpu: int, load_cpu: int):
        self.server_cpu = server_cpu
        self.load_cpu = load_cpu
        self._servers: list[Server] = []
        self._ports = free_ports()

    @classmethod
    def on_this_machine(cls) -> Self:
        """Create a rig on the first two CPUs that this process may use. Raises ``RigError`` if something is missing."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            raise RigError("two CPUs are needed: one for the server under test, one for the load")
        lacking = [f"{tool} (apt-get install util-linux)" for tool in _TOOLS if shutil.which(tool) is None]
        lacking += [what for what in [wrk.missing()] if what]
        if lacking:
            raise RigError("missing: " + ", ".join(lacking))
        return cls(cpus[0], cpus[1])

    def __enter__(self) -> Self:
        self.files = raise_file_limit(_FILES)
        self.folder = Path(tempfile.mkdtemp(prefix="passerelle-bench-"))
        self.folder.chmod(0o755)  # nginx's workers drop root privileges and still serve files from here
        self._affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.load_cpu})
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not interrupt the stopping of the servers.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        self.stop_all()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.sched_setaffinity(0, self._affinity)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def both_cpus(self) -> str:
        """Both CPUs, as ``taskset`` writes them."""
        return f"{self.server_cpu},{self.load_cpu}"

    def port(self) -> int:
        """Return a free loopback port; no port is returned twice."""
        return next(self._ports)

    def subfolder(self, name: str) -> Path:
        """Create a folder for one server's files, in the temporary folder."""
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        return folder

    def start(
        self,
        name: str,
        argv: Sequence[str],
        port: int,
        folder: Path,
        *,
        ready: str,
        headers: Mapping[str, str] = wrk.BROWSER,
        under_test: bool = True,
        both: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Server:
        """Start a server and wait until a request for ``ready`` with ``headers`` gets 200.

        With ``both`` the server may also use the load's CPU. Raises ``RigError`` if it does not respond.
        """
        server = self._launch(name, argv, port, folder, under_test=under_test, both=both, env=env)
        server.wait_ready(ready, headers, _READY_SECONDS)
        return server

    def start_accepting(
        self, name: str, argv: Sequence[str], port: int, folder: Path, *, under_test: bool = True
    ) -> Server:
        """Start a server that does not speak HTTP, and wait until it accepts connections."""
        server = self._launch(name, argv, port, folder, under_test=under_test, both=False, env=None)

        def accepts() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((LOOPBACK, port)) == 0

        server.wait_until(accepts, _READY_SECONDS, "listening")
        return server

    def _launch(
        self,
        name: str,
        argv: Sequence[str],
        port: int,
        folder: Path,
        *,
        under_test: bool,
        both: bool,
        env: Mapping[str, str] | None,
    ) -> Server:
        cpu: int | str = self.server_cpu if under_test else self.load_cpu
        server = Server(name, argv, port, self.both_cpus if both else cpu, folder, env or {})
        self._servers.append(server)
        return server

    def stop(self, *servers: Server, seconds: float = STOP_SECONDS) -> None:
        """Stop servers concurrently, and kill those that remain after ``seconds``."""
        for server in servers:
            server.terminate()
        deadline = time.monotonic() + seconds
        for server in servers:
            server.stop(max(0.0, deadline - time.monotonic()))
            self._servers.remove(server)

    def stop_all(self, seconds: float = STOP_SECONDS) -> None:
        """Stop every server, and kill those that remain after ``seconds``."""
        self.stop(*self._servers, seconds=seconds)

    def watch(self) -> Watch:
        """Start to observe the CPU use of other processes."""
        return Watch(self)

    def known_cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes of the rig so far; the rest of the machine's work is foreign."""
        return wrk.own_cpu_seconds() + sum(procfs.cpu_seconds(server.pid) for server in self._servers)


class Watch:
    """Observes how much CPU other processes use while the rig measures."""

    def __init__(self, rig: Rig):
        self._rig = rig
        self._busy, self._known, self._began = procfs.busy_seconds(), rig.known_cpu_seconds(), time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since the watch began."""
        return time.monotonic() - self._began

    def foreign(self) -> float:
        """Return the average number of CPUs used by processes outside the rig. Servers must not stop meanwhile."""
        busy, known = procfs.busy_seconds() - self._busy, self._rig.known_cpu_seconds() - self._known
        return max(0.0, (busy - known) / self.seconds)


def raise_file_limit(wanted: int) -> int:
    """Raise the open file limit of this process and its future children to ``wanted``; return the resulting limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return wanted
