"""The rig: a temporary folder, two CPUs, and the servers that stand on them; all gone when it is left."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from benchmarks.rig import procfs, wrk
from benchmarks.rig.ports import free_ports
from benchmarks.rig.server import STOP_SECONDS, RigError, Server

_READY_SECONDS = 60.0
_FILES = 32_768  # open files that servers may be in need of, where the machine lets them
_TOOLS = ("taskset", "setpriv")


class Rig:
    """Starts servers under test on ``server_cpu``, and all else (the load, upstreams, itself) on ``load_cpu``."""

    def __init__(self, server_cpu: int, load_cpu: int):
        self.server_cpu = server_cpu
        self.load_cpu = load_cpu
        self._servers: list[Server] = []
        self._ports = free_ports()

    @classmethod
    def on_this_machine(cls) -> Self:
        """A rig on the first two CPUs that this process may use. Raises ``RigError`` when something is missing."""
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
        self.folder.chmod(0o755)  # nginx's workers give up root and still serve files from here
        self._affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.load_cpu})
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave behind what the first one was stopping.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        self.stop_all()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.sched_setaffinity(0, self._affinity)
        shutil.rmtree(self.folder, ignore_errors=True)

    def port(self) -> int:
        """A free loopback port, given once."""
        return next(self._ports)

    def subfolder(self, name: str) -> Path:
        """A new folder for one server's files, in the temporary folder."""
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
        """Start a server and wait until it answers ``ready``, asked with ``headers``, with 200.

        With ``both`` it may use both CPUs, that of the load too. Raises ``RigError`` when it does not answer.
        """
        cpu: int | str = self.server_cpu if under_test else self.load_cpu
        if both:
            cpu = f"{self.server_cpu},{self.load_cpu}"
        server = Server(name, argv, port, cpu, folder, env or {})
        self._servers.append(server)
        server.wait_ready(ready, headers, _READY_SECONDS)
        return server

    def stop(self, *servers: Server, seconds: float = STOP_SECONDS) -> None:
        """Stop some servers before the end, all at the same time, by force what is left after ``seconds``."""
        for server in servers:
            server.terminate()
        deadline = time.monotonic() + seconds
        for server in servers:
            server.stop(max(0.0, deadline - time.monotonic()))
            self._servers.remove(server)

    def stop_all(self, seconds: float = STOP_SECONDS) -> None:
        """Stop every server, by force what is left after ``seconds``."""
        self.stop(*self._servers, seconds=seconds)

    def watch(self) -> Watch:
        """Begin to watch for work of others."""
        return Watch(self)

    def known_cpu_seconds(self) -> float:
        """CPU seconds so far of all that the rig runs: what the machine did beyond that was somebody else's."""
        return wrk.own_cpu_seconds() + sum(procfs.cpu_seconds(server.pid) for server in self._servers)


class Watch:
    """How much the machine does for others while the rig measures."""

    def __init__(self, rig: Rig):
        self._rig = rig
        self._busy, self._known, self._began = procfs.busy_seconds(), rig.known_cpu_seconds(), time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the watch began."""
        return time.monotonic() - self._began

    def foreign(self) -> float:
        """CPUs' worth of work, on average, of processes that are not the rig's. Servers must not stop meanwhile."""
        busy, known = procfs.busy_seconds() - self._busy, self._rig.known_cpu_seconds() - self._known
        return max(0.0, (busy - known) / self.seconds)


def raise_file_limit(wanted: int) -> int:
    """Let this process, and what it starts from now on, hold ``wanted`` files open; return what was allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return wanted
