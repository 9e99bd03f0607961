"""``passerelle gateway``: one worker without a supervisor, with an admin port of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from passerelle import __version__
from passerelle.config.loader import inspect
from passerelle.config.models import Config
from passerelle.gateway.app import Gateway
from passerelle.gateway.guards import CannotGuard
from passerelle.observability.metrics import Snapshot
from passerelle.runner import linux, ports, purging
from passerelle.runner.admin import Admin
from passerelle.runner.changes import FIXED, Refused
from passerelle.runner.worker import CannotStart, Stop, build, tune_memory


class Alone:
    """The subject of the admin port of a gateway that runs alone."""

    def __init__(self, gateway: Gateway, config: Config, file: str, listen: str) -> None:
        self._config = config
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

    async def status(self) -> dict[str, Any]:
        """The same shape as a supervisor's; the gateway itself is its only worker."""
        uptime = round(time.monotonic() - self._begun, 3)
        services = {}
        breakers = self._gateway.breakers()
        for name, instances in self._gateway.status().items():
            members = [{**i, "state": i["status"], "problem": None} for i in instances]
            breaker = {breakers[name]: 1} if name in breakers else None
            services[name] = {"up": sum(i["up"] for i in instances), "breaker": breaker, "instances": members}
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

    async def change(self, what: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Read the file anew, or purge the cache: there are no processes that could be scaled or restarted."""
        if what == "cache/purge":
            return purging.told(self._gateway.purge(*purging.wanted(arguments)))
        if what != "reload":
            raise Refused("`passerelle gateway` starts no instances")
        return self.reload()

    def reload(self) -> dict[str, Any]:
        """Go by the file as it is now. :raises Refused: with every problem of it; nothing has changed."""
        try:
            report = inspect(self._file)
        except OSError as error:
            raise Refused(f"cannot read {self._file}: {error.strerror}") from error
        if report.config is None:
            raise Refused(*map(str, report.errors))
        local = [name for name, service in report.config.services.items() if service.is_local]
        if local:
            raise Refused(f"these services have app or run, which is for `passerelle up`: {', '.join(local)}")
        later = [key for key in FIXED if getattr(report.config, key) != getattr(self._config, key)]
        try:
            self._gateway.reload(report.config)
        except CannotGuard as error:
            raise Refused(str(error)) from error
        tune_memory()
        message = f"{self._file} is read anew"
        if later:
            message += f"; {', '.join(later)} as in the file need a new start"
        return {"message": message, "after_restart": later}

    def on_hangup(self) -> None:
        """SIGHUP came."""
        try:
            print(self.reload()["message"], file=sys.stderr, flush=True)
        except Refused as refused:
            print(refused, "nothing was changed", sep="\n", file=sys.stderr, flush=True)


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
    alone = Alone(gateway, config, file, ports.join(host, port))
    if not linux.hangup_is_ignored() and not linux.has_terminal():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, alone.on_hangup)
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
