"""An instance of a service with ``app`` or ``run``: a process that listens on its own port."""

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
from passerelle.upstream.members import InstanceSpec

_REASONS = {
    appserver.STUCK: "has ended itself because all its threads were stuck",
    appserver.HUNG: "has ended itself because all its threads were hung",
}
_WORN_POLL = 1.0  # seconds between two looks whether an instance has handled as many requests as it may
_STATES = {state.value: state for state in (ProcessState.UP, ProcessState.EJECTED, ProcessState.DRAINING)}


class InstanceProcess(SupervisedProcess):
    """The instance ``name`` of ``service``.

    ``ports_in_use`` has the ports of all instances. Each start takes a new port, so that processes which an earlier
    start has left behind cannot block it. ``place`` is its number for hashing and sticky cookies. An instance that
    replaces it has the same place.
    """

    def __init__(
        self,
        name: str,
        service: ServiceHealthMonitor,
        folder: Path,
        ports_in_use: set[int],
        write: Callable[[str, bytes], None],
        backoff: Backoff,
        events: ProcessEvents,
        clock: Callable[[], float],
        place: int,
    ) -> None:
        super().__init__(name, backoff, events, clock)
        self.service = service
        self.port = 0
        self.place = place
        self.on_worn: Callable[[InstanceProcess], None] = lambda instance: None  # see _watch_worn
        self._folder = folder
        self._ports_in_use = ports_in_use
        self._write = write
        self._stats_fd: int | None = None  # of an application: where its threads write what they do

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
        """``host:port``, or an empty string before the first start."""
        return ports.join(ports.LOOPBACK, self.port) if self.port else ""

    def _spawn(self) -> Process:
        self._ports_in_use.discard(self.port)
        self.port = ports.free(self._ports_in_use)
        self._ports_in_use.add(self.port)
        config = self.service.config
        self._close_stats()
        if config.app is not None:
            with contextlib.suppress(OSError):  # without a descriptor, the instance runs without these numbers
                self._stats_fd = thread_stats.make_file()
        stats_fd = self._stats_fd
        try:
            return Process.spawn(
                self.name,
                command(config, self.port, stats_fd),
                on_line=lambda line: self._write(self.name, line),
                env={
                    "HOST": ports.LOOPBACK,
                    "PORT": str(self.port),
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
        spec = InstanceSpec(self.name, ports.LOOPBACK, self.port, place=f"{self.service.name}/{self.place}")
        self.service.add(spec)
        worn = asyncio.create_task(self._watch_worn()) if self.service.config.max_requests is not None else None
        try:
            await self.service.watch(spec, self._mark_up)
        finally:
            if worn is not None:
                worn.cancel()

    async def _watch_worn(self) -> None:
        """Wait until the instance has handled as many requests as it may, and call :attr:`on_worn`."""
        while True:
            if self._stats_fd is not None and thread_stats.is_worn(self._stats_fd):
                self.on_worn(self)
                return
            await asyncio.sleep(_WORN_POLL)

    def _on_end(self) -> None:
        self._close_stats()
        self.service.remove(self.name)

    def _exit_reason(self, code: int) -> str:
        if self.service.config.app is not None and code in _REASONS:
            return _REASONS[code]
        return super()._exit_reason(code)


def command(config: ServiceConfig, port: int, stats_fd: int | None = None) -> list[str]:
    """Return the command line of an instance on ``port``: the application server, or ``run``."""
    if config.app is not None:
        return appserver.command(config.app, ports.LOOPBACK, port, ServerOptions.of(config), stats_fd)
    return [word.replace("{port}", str(port)) for word in config.run or ()]
