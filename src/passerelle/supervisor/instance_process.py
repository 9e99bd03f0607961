"""An instance of a service that the runner starts itself, kept running on a port of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from passerelle.appserver import main as appserver
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.supervisor.process import Process
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.service_health import ServiceHealthMonitor
from passerelle.supervisor.supervised import ProcessEvents, ProcessState, SupervisedProcess
from passerelle.system import ports
from passerelle.upstream.members import InstanceSpec

_STATES = {state.value: state for state in (ProcessState.UP, ProcessState.EJECTED, ProcessState.DRAINING)}


class InstanceProcess(SupervisedProcess):
    """``service``'s instance called ``name``. ``ports_in_use`` holds the ports of all instances; each start takes a new
    one, so that nothing an earlier process left behind can stand in its way.
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
    ) -> None:
        super().__init__(name, backoff, events, clock)
        self.service = service
        self.port = 0
        self._folder = folder
        self._ports_in_use = ports_in_use
        self._write = write

    @property
    def state(self) -> ProcessState:
        """How it is now: of one that runs and was up, what its health says."""
        state = super().state
        return _STATES.get(self.service.state(self.name), ProcessState.DOWN) if state is ProcessState.UP else state

    @property
    def address(self) -> str:
        """``host:port``, or nothing before the first start."""
        return ports.join(ports.LOOPBACK, self.port) if self.port else ""

    def _spawn(self) -> Process:
        self._ports_in_use.discard(self.port)
        self.port = ports.free(self._ports_in_use)
        self._ports_in_use.add(self.port)
        config = self.service.config
        return Process.spawn(
            self.name,
            command(config, self.port),
            on_line=lambda line: self._write(self.name, line),
            env={
                "HOST": ports.LOOPBACK,
                "PORT": str(self.port),
                "PASSERELLE_SERVICE": self.service.name,
                "PASSERELLE_INSTANCE": self.name,
                # Through a pipe Python would hold back what it prints until it ends.
                "PYTHONUNBUFFERED": "1",
                # Last, so that it changes nothing that PATH already finds: `python` is there too where our virtual
                # environment was not activated.
                "PATH": os.pathsep.join(filter(None, (os.environ.get("PATH"), str(Path(sys.executable).parent)))),
                **config.env,
            },
            cwd=config.cwd or self._folder,
        )

    async def _watch(self, process: Process) -> NoReturn:
        spec = InstanceSpec(self.name, ports.LOOPBACK, self.port)
        self.service.add(spec)
        await self.service.watch(spec, self._mark_up)

    def _on_end(self) -> None:
        self.service.remove(self.name)


def command(config: ServiceConfig, port: int) -> list[str]:
    """The command line of an instance on ``port``: of the application server, or what ``run`` says."""
    if config.app is not None:
        return appserver.command(config.app, ports.LOOPBACK, port, config.interface or "auto")
    return [word.replace("{port}", str(port)) for word in config.run or ()]
