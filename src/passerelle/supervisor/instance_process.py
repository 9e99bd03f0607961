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
from passerelle.supervisor.service_health import Service
from passerelle.supervisor.supervised import Events, Kept, State
from passerelle.system import ports
from passerelle.upstream.members import InstanceSpec

_STATES = {state.value: state for state in (State.UP, State.EJECTED, State.DRAINING)}


class Instance(Kept):
    """``service``'s instance called ``name``. ``taken`` holds the ports of all instances; each start takes a new one,
    so that nothing an earlier process left behind can stand in its way.
    """

    def __init__(
        self,
        name: str,
        service: Service,
        folder: Path,
        taken: set[int],
        write: Callable[[str, bytes], None],
        backoff: Backoff,
        events: Events,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name, backoff, events, clock)
        self.service = service
        self.port = 0
        self._folder = folder
        self._taken = taken
        self._write = write

    @property
    def state(self) -> State:
        """How it is now: of one that runs and was up, what its health says."""
        state = super().state
        return _STATES.get(self.service.state(self.name), State.DOWN) if state is State.UP else state

    @property
    def address(self) -> str:
        """``host:port``, or nothing before the first start."""
        return ports.join(ports.LOOPBACK, self.port) if self.port else ""

    def _spawn(self) -> Process:
        self._taken.discard(self.port)
        self.port = ports.free(self._taken)
        self._taken.add(self.port)
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
        self.service.join(spec)
        await self.service.watch(spec, self._is_up)

    def _ended(self) -> None:
        self.service.leave(self.name)


def command(config: ServiceConfig, port: int) -> list[str]:
    """The command line of an instance on ``port``: of the application server, or what ``run`` says."""
    if config.app is not None:
        return appserver.command(config.app, ports.LOOPBACK, port, config.interface or "auto")
    return [word.replace("{port}", str(port)) for word in config.run or ()]
