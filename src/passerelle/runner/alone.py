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
from passerelle.runner.discovery.catalog import Catalog
from passerelle.runner.summary import together
from passerelle.runner.worker import CannotStart, Stop, build, tune_memory


class Alone:
    """The subject of the admin port of a gateway that runs alone."""

    def __init__(self, gateway: Gateway, config: Config, file: str) -> None:
        self._config = config
        self.state = "running"
        self._gateway = gateway
        self._file = file
        self.listen = ""
        self._begun = time.monotonic()
        self._catalog = Catalog(self._on_found, lambda line: print(line, file=sys.stderr, flush=True))
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self) -> None:
        """Look for the instances that the configuration does not name itself; they are there when this returns."""
        await self._catalog.prepare(self._config)
        self._catalog.adopt(self._config)
        for name, service in self._config.services.items():
            if self._catalog.finds(service):
                self._on_found(name)

    def stop(self) -> None:
        """Look for instances no more."""
        self.state = "stopping"
        self._catalog.stop()

    def _on_found(self, service: str) -> None:
        self._gateway.set_instances(service, self._catalog.specs(service, self._config))

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
        told = self._gateway.told()
        for name, instances in self._gateway.status().items():
            members = [{**i, "state": i["status"], "problem": None} for i in instances]
            up = sum(i["up"] for i in instances)
            services[name] = {"up": up, **together([told[name]]), "instances": members}
        return {
            "version": __version__,
            "state": self.state,
            "config": self._file,
            "listen": self.listen,
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
        return await self.reload()

    async def reload(self) -> dict[str, Any]:
        """Go by the file as it is now. :raises Refused: with every problem of it; nothing has changed."""
        async with self._lock:
            return await self._reload()

    async def _reload(self) -> dict[str, Any]:
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
        config = report.config
        await self._catalog.prepare(config)
        try:
            self._gateway.reload(config, {name: self._catalog.specs(name, config) for name in config.services})
        except CannotGuard as error:
            self._catalog.adopt(self._config)
            raise Refused(str(error)) from error
        self._config = config.model_copy(update={key: getattr(self._config, key) for key in FIXED})
        self._catalog.adopt(self._config)
        tune_memory()
        message = f"{self._file} is read anew"
        if later:
            message += f"; {', '.join(later)} as in the file need a new start"
        return {"message": message, "after_restart": later}

    def on_hangup(self) -> None:
        """SIGHUP came."""
        task = asyncio.create_task(self._on_hangup())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_hangup(self) -> None:
        try:
            print((await self.reload())["message"], file=sys.stderr, flush=True)
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
    alone = Alone(gateway, config, file)
    await alone.find()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, gateway.reopen_log)
    host, port = await gateway.start(listener)
    tune_memory()
    alone.listen = ports.join(host, port)
    if not linux.hangup_is_ignored() and not linux.has_terminal():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, alone.on_hangup)
    admin = Admin(admin_sockets[0], alone) if admin_sockets else None
    where = f"listening on {config.scheme}://{ports.join(host, port)}"
    if admin is not None:
        await admin.start()
        where += f" · admin http://{admin.address}"
    # Standard output may be the access log's, one JSON object a line.
    print(where, file=sys.stderr, flush=True)
    await stop.asked.wait()
    alone.stop()
    await stop.carry_out(gateway)
    if admin is not None:
        await admin.stop()
    return 0
