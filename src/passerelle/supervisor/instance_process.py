"""An instance of a service with ``app`` or ``run``: a process that listens on its own port or Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from passerelle.appserver import main as appserver
from passerelle.appserver import thread_stats
from passerelle.appserver.options import ServerOptions
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.supervisor.process import Process, StartFailed
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.service_health import ServiceHealthMonitor
from passerelle.supervisor.supervised import ProcessEvents, ProcessState, SupervisedProcess
from passerelle.system import ports
from passerelle.system.socket_folder import SocketFolder
from passerelle.upstream.members import InstanceSpec

_REASONS = {
    appserver.STUCK: "has ended itself because all its threads were stuck",
    appserver.HUNG: "has ended itself because all its threads were hung",
}
_WORN_POLL = 1.0  # seconds between checks of whether an instance has reached max_requests
_STATES = {state.value: state for state in (ProcessState.UP, ProcessState.EJECTED, ProcessState.DRAINING)}


class InstanceProcess(SupervisedProcess):
    """The instance ``name`` of ``service``.

    ``ports_in_use`` has the ports of all instances, ``sockets`` makes paths of Unix sockets. Each start takes a new
    one, so that processes left by an earlier start cannot block it. ``place`` is its number for hashing
    and sticky cookies; its replacement has the same one.
    """

    def __init__(
        self,
        name: str,
        service: ServiceHealthMonitor,
        folder: Path,
        ports_in_use: set[int],
        sockets: SocketFolder,
        write: Callable[[str, bytes], None],
        backoff: Backoff,
        events: ProcessEvents,
        clock: Callable[[], float],
        place: int,
    ) -> None:
        super().__init__(name, backoff, events, clock)
        self.service = service
        self.port = 0  # without a Unix socket
        self.socket = ""  # the path of its Unix socket
        self.place = place
        self.on_worn: Callable[[InstanceProcess], None] = lambda instance: None  # see _watch_worn
        self._folder = folder
        self._ports_in_use = ports_in_use
        self._sockets = sockets
        self._write = write
        self._stats_fd: int | None = None  # of an application: the statistics that its threads write

    @property
    def state(self) -> ProcessState:
        """The current state. Once the process has come up, it is the state of its health."""
        state = super().state
        return _STATES.get(self.service.state(self.name), ProcessState.DOWN) if state is ProcessState.UP else state

    @property
    def service_name(self) -> str:
        """The name of its service."""
        return self.service.name

    @property
    def grace(self) -> float | None:
        """Seconds for its requests in flight when it is stopped; None for the default."""
        return self.service.config.grace

    async def stop(self, grace: float) -> None:
        """Stop the process and everything it started, within about ``grace`` + 6 s, or its own :attr:`grace` + 7 s.

        A ``grace`` of 0 ends it at once.
        """
        if self.grace is not None and grace > 0:
            grace = self.grace + 1.0  # its own server ends with the grace, and with an exit code
        await super().stop(grace)

    @property
    def address(self) -> str:
        """``host:port`` or ``unix:PATH``; an empty string before the first start."""
        return ports.join(self.socket or ports.LOOPBACK, self.port) if self.port or self.socket else ""

    def _spawn(self) -> Process:
        config = self.service.config
        self._ports_in_use.discard(self.port)
        self.port = 0
        self.socket = self._sockets.path() if uses_socket(config) else ""
        where = {}
        if not self.socket:
            self.port = ports.free(self._ports_in_use)
            self._ports_in_use.add(self.port)
            where = {"HOST": ports.LOOPBACK, "PORT": str(self.port)}
        self._close_stats()
        if config.app is not None:
            with contextlib.suppress(OSError):  # without a descriptor, the instance runs without these numbers
                self._stats_fd = thread_stats.make_file()
        stats_fd = self._stats_fd
        try:
            return Process.spawn(
                self.name,
                command(config, self.port, stats_fd, self.socket),
                on_line=lambda line: self._write(self.name, line),
                env={
                    **where,
                    "PASSERELLE_SERVICE": self.service.name,
                    "PASSERELLE_INSTANCE": self.name,
                    # Otherwise Python buffers its output, because stdout is a pipe.
                    "PYTHONUNBUFFERED": "1",
                    # Makes `python` available where the virtual environment is not activated; last, so that commands
                    # that PATH already finds stay the same.
                    "PATH": os.pathsep.join(filter(None, (os.environ.get("PATH"), str(Path(sys.executable).parent)))),
                    **config.env,
                },
                cwd=config.cwd or self._folder,
                pass_fds=() if stats_fd is None else (stats_fd,),
            )
        except StartFailed:
            self._close_stats()
            raise

    def thread_use(self) -> thread_stats.ThreadUse | None:
        """Return what the threads of the application server do; None for other servers."""
        return None if self._stats_fd is None else thread_stats.read(self._stats_fd, time.monotonic())

    def _close_stats(self) -> None:
        fd, self._stats_fd = self._stats_fd, None
        if fd is not None:
            os.close(fd)

    async def _watch(self, process: Process) -> NoReturn:
        host = self.socket or ports.LOOPBACK
        spec = InstanceSpec(self.name, host, self.port, place=f"{self.service.name}/{self.place}")
        self.service.add(spec)
        worn = asyncio.create_task(self._watch_worn()) if self.service.config.max_requests is not None else None
        try:
            await self.service.watch(spec, self._mark_up)
        finally:
            if worn is not None:
                worn.cancel()

    async def _watch_worn(self) -> None:
        """Wait until the instance has reached ``max_requests``, then call :attr:`on_worn`."""
        while True:
            if self._stats_fd is not None and thread_stats.is_worn(self._stats_fd):
                self.on_worn(self)
                return
            await asyncio.sleep(_WORN_POLL)

    def _on_end(self) -> None:
        self._close_stats()
        self.service.remove(self.name)
        if self.socket:
            with contextlib.suppress(OSError):  # the process may not have created it yet
                os.unlink(self.socket)

    def _exit_reason(self, code: int) -> str:
        if self.service.config.app is not None and code in _REASONS:
            return _REASONS[code]
        return super()._exit_reason(code)


def uses_socket(config: ServiceConfig) -> bool:
    """Whether the instances of a service listen on Unix sockets: applications do, unless a key concerns their ports."""
    if config.app is None or config.transport == "tcp" or config.host == "upstream":
        return False
    return config.health is None or config.health.port is None


def command(config: ServiceConfig, port: int, stats_fd: int | None = None, socket: str = "") -> list[str]:
    """Return the command line of an instance on ``port`` or ``socket``: the application server, or ``run``."""
    if config.app is not None:
        return appserver.command(config.app, socket or ports.LOOPBACK, port, ServerOptions.of(config), stats_fd)
    return [word.replace("{port}", str(port)) for word in config.run or ()]
