"""``passerelle gateway``: one worker without a supervisor, with an admin port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

from passerelle import __version__
from passerelle.config.loader import inspect_bytes
from passerelle.config.models.config import Config
from passerelle.discovery.catalog import Catalog
from passerelle.discovery.overrides import TargetKey, target_key
from passerelle.errors import CannotGuard
from passerelle.gateway.gateway import Gateway
from passerelle.observability.metrics import Snapshot
from passerelle.supervisor import purging
from passerelle.supervisor.admin import Admin
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.file_watch import watch
from passerelle.supervisor.instance_admin import InstanceAdmin, TargetStatus
from passerelle.supervisor.reconciler import FIXED
from passerelle.supervisor.summary import combined_status
from passerelle.supervisor.worker_main import CannotStart, StopRequest, build, tune_memory
from passerelle.system import linux, ports
from passerelle.upstream.members import InstanceSpec


class StandaloneGateway:
    """The subject of the admin port of a gateway that runs alone."""

    def __init__(self, gateway: Gateway, config: Config, text: str, file: str) -> None:
        self._config = config
        self._text = text  # that was read last and could be used
        self._problems: tuple[str, ...] = ()  # why the file as it is now is not in force
        self.state = "running"
        self._gateway = gateway
        self._file = file
        self.listen = ""
        self._begun = time.monotonic()
        self.catalog = Catalog(self._on_found, lambda line: print(line, file=sys.stderr, flush=True))
        self._lock = asyncio.Lock()
        self._drained: set[tuple[str, TargetKey]] = set()  # with the service
        self._managed = InstanceAdmin(self, lambda line: print(line, file=sys.stderr, flush=True))
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self) -> None:
        """Look for the instances that the configuration does not name itself; they are there when this returns."""
        await self.catalog.prepare(self._config)
        self.catalog.adopt(self._config)
        for name, service in self._config.services.items():
            if self.catalog.is_discovered(service):
                self._on_found(name)

    def stop(self) -> None:
        """Look for instances no more."""
        self.state = "stopping"
        self.catalog.stop()
        for task in self._tasks:
            task.cancel()

    def _on_found(self, service: str) -> None:
        self._gateway.set_instances(service, self._specs(service, self._config))

    def _specs(self, service: str, config: Config) -> list[InstanceSpec]:
        specs = self.catalog.specs(service, config)
        return [s._replace(status="DRAINING") if (service, target_key(s)) in self._drained else s for s in specs]

    # The host of Instances

    @property
    def config(self) -> Config:
        """What is in force."""
        return self._config

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """One change at a time, and none while it stops."""
        async with self._lock:
            if self.state != "running":
                raise ChangeRefused(f"it is {self.state}, and takes no changes")
            yield

    def members(self, service: str) -> list[TargetStatus]:
        """The targets of a service now."""
        states = {i["name"]: i["status"] for i in self._gateway.status()[service]}
        specs = self._specs(service, self._config)
        return [TargetStatus(s.name, target_key(s), states.get(s.name, "down")) for s in specs]

    async def apply(self, service: str) -> None:
        """Let the service have the targets that the catalog says."""
        self._on_found(service)

    def drain(self, service: str, member: str) -> None:
        """Give it nothing new."""
        self._drained.update((service, m.place) for m in self.members(service) if m.name == member)
        self._on_found(service)

    def resume(self, service: str, member: str) -> None:
        """Take :meth:`drain` back."""
        self._drained -= {(service, m.place) for m in self.members(service) if m.name == member}
        self._on_found(service)

    async def forget(self, service: str, member: str) -> None:
        """The catalog has it no more."""
        self._forget_drained()
        self._on_found(service)

    def _forget_drained(self) -> None:
        """Those that are there no more: they would be drained when they are back."""
        config = self._config
        self._drained &= {(name, target_key(s)) for name in config.services for s in self.catalog.specs(name, config)}

    async def in_flight(self, service: str, member: str) -> int:
        """Requests and tunnels open on it."""
        return sum(i["in_flight"] for i in self._gateway.status().get(service, ()) if i["name"] == member)

    # The subject of the admin port

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
        told = self._gateway.service_snapshots()
        for name, instances in self._gateway.status().items():
            places = {s.name: s for s in self._specs(name, self._config)}
            members = [
                {
                    **i,
                    "state": i["status"],
                    "problem": None,
                    "weight": places[i["name"]].weight,
                    "origin": self.catalog.origin(name, target_key(places[i["name"]])),
                }
                for i in instances
                if i["name"] in places
            ]
            services[name] = {
                "source": self._config.services[name].source,
                "up": sum(i["up"] for i in instances),
                **combined_status([told[name]]),
                "removed": self.catalog.removed(name),
                "instances": members,
            }
        return {
            "version": __version__,
            "state": self.state,
            "config": self._file,
            "config_problems": list(self._problems),
            "listen": self.listen,
            "pid": os.getpid(),
            "uptime": uptime,
            "workers": [
                {"name": "gateway", "state": "up", "pid": os.getpid(), "restarts": 0, "uptime": uptime, "answers": True}
            ],
            "services": services,
        }

    async def change(self, what: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """What can be changed: there are no processes that could be scaled or restarted."""
        if what.startswith("instances/"):
            return await self._managed.carry_out(what.removeprefix("instances/"), arguments)
        if what == "cache/purge":
            return purging.purge_result(self._gateway.purge(*purging.parse_purge(arguments)))
        if what != "reload":
            raise ChangeRefused("`passerelle gateway` starts no instances")
        return await self.reload()

    async def reload(self) -> dict[str, Any]:
        """Go by the file as it is now. :raises Refused: with every problem of it; nothing has changed."""
        async with self._lock:
            try:
                answer = await self._reload(self._read())
            except ChangeRefused as refused:
                self._problems = refused.problems
                raise
            self._problems = ()
            return answer

    async def follow(self) -> None:
        """Read the file anew whenever it changes, for ever."""
        await watch(Path(self._file), self._on_change)

    async def _on_change(self) -> None:
        with contextlib.suppress(ChangeRefused):
            if not self._problems and _text(self._read()) == self._text:
                return
        await self._on_hangup()

    def _read(self) -> bytes:
        try:
            return Path(self._file).read_bytes()
        except OSError as error:
            raise ChangeRefused(f"cannot read {self._file}: {error.strerror}") from error

    async def _reload(self, data: bytes) -> dict[str, Any]:
        report = inspect_bytes(data, self._file, folder=Path(self._file).parent)
        if report.config is None:
            raise ChangeRefused(*map(str, report.errors))
        local = [name for name, service in report.config.services.items() if service.is_local]
        if local:
            raise ChangeRefused(f"these services have app or run, which is for `passerelle up`: {', '.join(local)}")
        later = [key for key in FIXED if getattr(report.config, key) != getattr(self._config, key)]
        config = report.config
        await self.catalog.prepare(config)
        try:
            self._gateway.reload(config, {name: self._specs(name, config) for name in config.services})
        except CannotGuard as error:
            self.catalog.adopt(self._config)
            raise ChangeRefused(str(error)) from error
        self._config = config.model_copy(update={key: getattr(self._config, key) for key in FIXED})
        self._text = _text(data)
        self.catalog.adopt(self._config)
        self._forget_drained()
        tune_memory()
        message = f"{self._file} is read anew"
        if later:
            message += f"; {', '.join(later)} as in the file need a new start"
        return {"message": message, "after_restart": later}

    def on_hangup(self) -> None:
        """SIGHUP came."""
        self.spawn(self._on_hangup())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done beside the rest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_hangup(self) -> None:
        try:
            print((await self.reload())["message"], file=sys.stderr, flush=True)
        except ChangeRefused as refused:
            print(refused, "nothing was changed", sep="\n", file=sys.stderr, flush=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace")


async def serve(config: Config, text: str, file: str, *, follow: bool = False) -> int:
    """Serve ``config``, which was read as ``text`` from ``file``, until SIGTERM or SIGINT; gives the code to exit with.

    With ``follow`` the file is read anew whenever it changes.

    :raises CannotStart: when a port is taken or the log cannot be opened.
    """
    stop = StopRequest()
    stop.listen()
    try:
        (listener,) = ports.for_clients(config.listen.host, config.listen.port)
        admin_socket = ports.for_admin(config.admin.host, config.admin.port) if config.admin is not None else None
    except ports.PortTaken as error:
        raise CannotStart(str(error)) from error
    gateway = build(config)
    standalone = StandaloneGateway(gateway, config, text, file)
    await standalone.find()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, gateway.reopen_log)
    host, port = await gateway.start(listener)
    tune_memory()
    standalone.listen = ports.join(host, port)
    if not linux.hangup_is_ignored() and not linux.has_terminal():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, standalone.on_hangup)
    admin = Admin(admin_socket, standalone) if admin_socket is not None else None
    where = f"listening on {config.scheme}://{ports.join(host, port)}"
    if admin is not None:
        await admin.start()
        where += f" · admin http://{admin.address}"
    # Standard output may be the access log's, one JSON object a line.
    print(where, file=sys.stderr, flush=True)
    if follow:
        standalone.spawn(standalone.follow())
    await stop.requested.wait()
    standalone.stop()
    await stop.carry_out(gateway)
    if admin is not None:
        await admin.stop()
    return 0
