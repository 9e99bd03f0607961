"""``passerelle gateway``: one worker without a supervisor, with an admin port of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from passerelle import __version__
from passerelle.config.models import Config
from passerelle.gateway.app import Gateway
from passerelle.observability.metrics import Snapshot
from passerelle.runner import ports
from passerelle.runner.admin import Admin
from passerelle.runner.worker import CannotStart, Stop, build, tune_memory


class Alone:
    """The subject of the admin port of a gateway that runs alone."""

    def __init__(self, gateway: Gateway, file: str, listen: str) -> None:
        self.state = "running"
        self._gateway = gateway
        self._file = file
        self._listen = listen
        self._begun = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""
        return self.state == "running"

    async def metrics(self) -> Snapshot:
        """The counters."""
        return self._gateway.snapshot()

    async def purge(self, what: str, value: str) -> dict[str, Any]:
        """Let the cache go of what has a tag or a path, or of everything."""
        return {"purged": self._gateway.purge(what, value), "workers": 1, "silent": []}

    async def status(self) -> dict[str, Any]:
        """The same shape as a supervisor's; the gateway itself is its only worker."""
        uptime = round(time.monotonic() - self._begun, 3)
        services = {}
        for name, instances in self._gateway.status().items():
            members = [{**i, "state": "up" if i["up"] else "down", "problem": None} for i in instances]
            services[name] = {"up": sum(i["up"] for i in instances), "instances": members}
        return {
            "version": __version__,
            "state": self.state,
            "config": self._file,
            "listen": self._listen,
            "pid": os.getpid(),
            "uptime": uptime,
            "workers": [
                {"name": "gateway", "state": "up", "pid": os.getpid(), "restarts": 0, "uptime": uptime, "answers": True}
            ],
            "services": services,
        }


async def serve(config: Config, file: str) -> int:
    """Serve until SIGTERM or SIGINT; gives the code to exit with.

    :raises CannotStart: when a port is taken or the log cannot be opened.
    """
    stop = Stop()
    stop.listen()
    try:
        (listener,) = ports.reserve(config.listen.host, config.listen.port)
        admin_sockets = ports.reserve(config.admin.host, config.admin.port) if config.admin is not None else []
    except ports.PortTaken as error:
        raise CannotStart(str(error)) from error
    gateway = build(config)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, gateway.reopen_log)
    host, port = await gateway.start(listener)
    tune_memory()
    alone = Alone(gateway, file, ports.join(host, port))
    admin = Admin(admin_sockets[0], alone) if admin_sockets else None
    where = f"listening on http://{ports.join(host, port)}"
    if admin is not None:
        await admin.start()
        where += f" · admin http://{admin.address}"
    # Standard output may be the access log's, one JSON object a line.
    print(where, file=sys.stderr, flush=True)
    await stop.asked.wait()
    alone.state = "stopping"
    await stop.carry_out(gateway)
    if admin is not None:
        await admin.stop()
    return 0
