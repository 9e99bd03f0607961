"""``passerelle gateway``: one worker without a supervisor, with its own admin port.

The file is longer than 400 lines because the subject of the admin port and the host of the instances are one object.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from passerelle.acme.challenge import Pending
from passerelle.config.models.config import Config
from passerelle.discovery.catalog import Catalog
from passerelle.discovery.overrides import TargetKey, target_key
from passerelle.errors import CannotStart
from passerelle.gateway.gateway import Gateway
from passerelle.observability.events import Event, EventLog, LogEvents
from passerelle.observability.metrics import Snapshot
from passerelle.supervisor import status
from passerelle.supervisor.active_config import ActiveConfig, Candidate
from passerelle.supervisor.admin import Admin, PurgeResult
from passerelle.supervisor.alerting import Alerting
from passerelle.supervisor.certificate_expiry import CertificateExpiry
from passerelle.supervisor.certificate_orders import CertificateOrders
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.identity import drop, wanted_identity
from passerelle.supervisor.instance_admin import InstanceAdmin, TargetStatus
from passerelle.supervisor.listeners import Listeners
from passerelle.supervisor.live_sampler import LiveSampler, Reading
from passerelle.supervisor.maintenance import Maintenance
from passerelle.supervisor.recorded_events import health_recorder
from passerelle.supervisor.rollouts import Rollouts
from passerelle.supervisor.splits import Settings, Splits
from passerelle.supervisor.state_lock import StateInUse, StateLock
from passerelle.supervisor.store_choice import store_for
from passerelle.supervisor.webhook import WebhookSender
from passerelle.supervisor.worker_main import StopRequest, build, tune_memory
from passerelle.system import linux, ports
from passerelle.system.systemd import Notifier, PassedSockets
from passerelle.upstream.members import InstanceSpec


class StandaloneGateway:
    """The subject of the admin port of a gateway without a supervisor, and the host of its instances."""

    def __init__(
        self,
        gateway: Gateway,
        active: ActiveConfig,
        listeners: Listeners,
        notifier: Notifier,
        state_lock: StateLock,
    ) -> None:
        self.state = "running"
        self._state_lock = state_lock
        self.listeners = listeners
        self._notifier = notifier
        self.catalog = Catalog(self._on_found, _log)
        self._gateway = gateway
        self._active = active
        self._created = time.monotonic()
        self._lock = asyncio.Lock()
        self.events = EventLog()
        self.maintenance = Maintenance()
        self.events.listen(_log_event)
        self.live = LiveSampler(self)
        self._live_was_lost = True
        self.certificates = CertificateOrders(lambda: self.config, self.events, _log, self._send_challenges)
        self.expiry = CertificateExpiry(lambda: self.config, self.events)
        self.webhook = WebhookSender(random.random)
        self.alerting = Alerting(lambda: self.config, lambda: self.expiry.ends, self.events, self.webhook)
        self.live.watch(self.alerting.watch)
        gateway.report_events_to(
            lambda kind, service, text: self.events.record(kind, text, service=service),
            health_recorder(self.events, lambda service: False),
        )
        self.splits = Splits(active.config, self.events, _log, self._set_splits, self._snapshot)
        self.rollouts = Rollouts(
            lambda: self.config,
            self.splits,
            partial(self.shadows, reset=False),
            lambda: store_for(self.config, Path(active.file).parent, _log),
            self.events,
            _log,
        )
        self._drained: set[tuple[str, TargetKey]] = set()  # with the name of the service
        self._instance_admin = InstanceAdmin(self, _log)
        self._tasks: set[asyncio.Task[None]] = set()

    async def discover(self) -> None:
        """Start discovery, and give the gateway the first results."""
        await self.catalog.prepare(self.config)
        self.catalog.adopt(self.config)
        for name, service in self.config.services.items():
            if self.catalog.is_discovered(service):
                self._on_found(name)

    async def restore(self) -> None:
        """Put the weights of an earlier run in force."""
        await self.rollouts.load()
        self._gateway.set_splits(self.splits.settings())

    async def _set_splits(self, settings: Settings) -> None:
        self._gateway.set_splits(settings)

    async def _snapshot(self) -> Snapshot:
        return self._gateway.snapshot()

    def stop(self) -> None:
        """Refuse further changes, stop discovery and cancel the work in the background."""
        self.state = "stopping"
        self.catalog.stop()
        for task in self._tasks:
            task.cancel()

    def _on_found(self, service: str) -> None:
        self._gateway.set_instances(service, self._specs(service, self.config))

    def _specs(self, service: str, config: Config) -> list[InstanceSpec]:
        specs = self.catalog.specs(service, config)
        return [s._replace(status="DRAINING") if (service, target_key(s)) in self._drained else s for s in specs]

    # InstanceHost

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._active.config

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock of changes. :raises ChangeRefused: while the gateway stops."""
        async with self._lock:
            if self.state != "running":
                raise ChangeRefused(f"the gateway is {self.state} and accepts no changes")
            yield

    def members(self, service: str) -> list[TargetStatus]:
        """The targets of a service now."""
        states = {i["name"]: i["status"] for i in self._gateway.status()[service]}
        specs = self._specs(service, self.config)
        return [TargetStatus(s.name, target_key(s), states.get(s.name, "down")) for s in specs]

    async def apply(self, service: str) -> None:
        """Give the service the targets that the catalog lists."""
        self._on_found(service)

    def drain(self, service: str, member: str) -> None:
        """Send the instance no new requests."""
        self._drained.update((service, m.key) for m in self.members(service) if m.name == member)
        self._on_found(service)

    def resume(self, service: str, member: str) -> None:
        """Revert :meth:`drain`."""
        self._drained -= {(service, m.key) for m in self.members(service) if m.name == member}
        self._on_found(service)

    async def forget(self, service: str, member: str) -> None:
        """Apply the catalog, which no longer lists the instance."""
        self._forget_drained()
        self._on_found(service)

    def _forget_drained(self) -> None:
        """Forget the drained instances that are gone. If one returns, it is a new instance."""
        config = self.config
        self._drained &= {(name, target_key(s)) for name in config.services for s in self.catalog.specs(name, config)}

    async def in_flight(self, service: str, member: str) -> int:
        """Count the requests and tunnels that are open on the instance."""
        return sum(i["in_flight"] for i in self._gateway.status().get(service, ()) if i["name"] == member)

    # The subject of the admin port

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""
        return self.state == "running"

    async def metrics(self) -> Snapshot:
        """Return the counters."""
        counts = {kind: count for kind, count in self.events.counts.items() if count}
        own = {
            "events": counts,
            "alerts": self.alerting.counts(),
            "split_weights": self.splits.all_weights(),
            "rollouts": self.rollouts.metrics(),
        }
        return self._gateway.snapshot() | own

    async def status(self) -> dict[str, Any]:
        """Return the status in the shape of a supervisor's; the gateway itself is its only worker."""
        uptime = time.monotonic() - self._created
        services = {}
        snapshots = self._gateway.service_snapshots()
        for name, instances in self._gateway.status().items():
            specs = {spec.name: spec for spec in self._specs(name, self.config)}
            members = [
                {
                    **instance,
                    "state": instance["status"],
                    "problem": None,
                    "weight": spec.weight,
                    "origin": self.catalog.origin(name, target_key(spec)),
                }
                for instance in instances
                if (spec := specs.get(instance["name"])) is not None
            ]
            source, removed = self.config.services[name].source, self.catalog.removed(name)
            services[name] = status.service_status(source, [snapshots[name]], removed, members)
        worker = {
            "name": "gateway",
            "state": "up",
            "pid": os.getpid(),
            "restarts": 0,
            "uptime": round(uptime, 3),
            "answers": True,
        }
        return status.gateway_status(self.state, self._active, self.listeners.addresses[0], uptime, [worker], services)

    async def live_readings(self) -> list[Reading]:
        """Read the counters for the live view."""
        full, self._live_was_lost = self._live_was_lost, False
        return [Reading("gateway", os.getpid(), time.monotonic(), self._gateway.live(full=full))]

    def live_states(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
        """Return the state of the gateway as a worker, and those of the instances by service and name."""
        worker = {"state": "up", "pid": os.getpid(), "restarts": 0}
        states = {
            name: {i["name"]: {"state": i["status"], "address": i["address"]} for i in instances}
            for name, instances in self._gateway.status().items()
        }
        return {"gateway": worker}, states

    async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Make a change. :raises ChangeRefused: if it cannot be made, such as ``scale`` and ``restart``."""
        if name.startswith("instances/"):
            return await self._instance_admin.change(name.removeprefix("instances/"), arguments)
        if name != "reload":
            raise ChangeRefused("`passerelle gateway` does not start instances")
        return await self.reload()

    async def purge(self, kind: str, value: str) -> PurgeResult:
        """Purge the cache."""
        return PurgeResult(self._gateway.purge(kind, value), [])

    async def apply_maintenance(self) -> list[str]:
        """Apply the routes in maintenance."""
        self._gateway.set_maintenance(self.maintenance.routes)
        return []

    async def _send_challenges(self, pending: Sequence[Pending]) -> list[str]:
        try:
            self._gateway.set_challenges(pending)
        except OSError:  # a proof from Redis that cannot be used
            return ["the gateway"]
        return []

    async def shadows(self, *, reset: bool) -> list[dict[str, Any]]:
        """Return what the shadow requests found; with ``reset``, they begin to count again."""
        return [self._gateway.shadows(reset=reset)]

    # Reload

    async def reload(self) -> dict[str, Any]:
        """Read the file and apply it.

        :raises ChangeRefused: with every problem of the file; then nothing has changed.
        """
        async with self._lock:
            with self._notifier.reload(), self._active.reloading():
                try:
                    response = await self._apply(self._active.read())
                except ChangeRefused as refused:
                    text = f"{self._active.file} was refused: {refused.problems[0]}"
                    self.events.record("reload", text, outcome="refused", problems=refused.problems)
                    raise
                finally:
                    self._state_lock.release(self.config)
                self.events.record("reload", response["message"], outcome="applied")
                return response

    async def reload_and_report(self) -> None:
        """Reload the file, and report the result to stderr."""
        try:
            _log((await self.reload())["message"])
        except ChangeRefused as refused:
            _log(f"{refused}\nnothing was changed")

    async def follow(self) -> None:
        """Reload the file whenever it changes, until cancelled."""
        await self._active.follow(self.reload_and_report)

    async def _apply(self, candidate: Candidate) -> dict[str, Any]:
        config = candidate.config
        local = [name for name, service in config.services.items() if service.is_local]
        if local:
            raise ChangeRefused(f"services with app or run need `passerelle up`: {', '.join(local)}")
        try:
            self._state_lock.take(config)
            opened = self.listeners.bind(config)
        except StateInUse as error:
            raise ChangeRefused(str(error)) from error
        except ports.PortTaken as error:
            raise ChangeRefused(f"listen: {error}") from error
        with opened:
            await self.catalog.prepare(config)
            try:
                self._reload(config)
                await self._gateway.listen(opened.for_worker(0))
            except CannotStart as error:
                self.catalog.adopt(self.config)
                raise ChangeRefused(str(error)) from error
            except OSError as error:
                self.catalog.adopt(self.config)
                self._reload(self.config)
                raise ChangeRefused(f"listen: {error.strerror or error}") from error
            opened.adopt()
        self.catalog.exclude(self.listeners.addresses)
        response = self._active.apply(candidate)
        self.catalog.adopt(config)
        self._forget_drained()
        await self.splits.adopt(config)
        tune_memory()
        return response

    def _reload(self, config: Config) -> None:
        specs = {name: self._specs(name, config) for name in config.services}
        self._gateway.reload(config, specs, self.splits.settings(config))

    def on_hangup(self) -> None:
        """Handle SIGHUP: reload the file."""
        self.spawn(self.reload_and_report())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background, until :meth:`stop`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _log_event(event: Event) -> None:
    if event.kind in ("alert", "audit"):
        _log(f"{event.kind}: {event.text}")


def _log(text: str) -> None:
    # To stderr: stdout may be the access log, with one JSON object a line.
    print(text, file=sys.stderr, flush=True)


async def serve(
    config: Config,
    text: str,
    file: str,
    *,
    follow: bool = False,
    overrides: frozenset[str] = frozenset(),
    passed: PassedSockets | None = None,
    notifier: Notifier | None = None,
) -> int:
    """Serve ``config``, which was read as ``text`` from ``file``, until SIGTERM or SIGINT. Returns the exit code.

    With ``follow`` the file is reloaded whenever it changes. ``overrides`` are the keys that the command line replaced.
    ``passed`` and ``notifier`` are those of systemd.

    :raises CannotStart: if a port or the folder for state is taken, or the access log cannot be opened.
    """
    state_lock = StateLock(Path(file).parent)
    state_lock.take(config)
    try:
        active = ActiveConfig(config, text, file, Path(file), overrides)
        return await _serve(active, follow, passed, notifier or Notifier(), state_lock)
    finally:
        state_lock.release()


async def _serve(
    active: ActiveConfig, follow: bool, passed: PassedSockets | None, notifier: Notifier, state_lock: StateLock
) -> int:
    stop = StopRequest()
    stop.listen()
    config = active.config
    listeners = Listeners(1, passed)
    try:
        with listeners.bind(config) as opened:
            opened.adopt()
        admin_socket = None
        if config.admin is not None:
            admin_socket = ports.for_admin(config.admin.listen.host, config.admin.listen.port)
    except ports.PortTaken as error:
        listeners.close()
        raise CannotStart(str(error)) from error
    identity = wanted_identity(config)
    if identity is not None:
        try:
            config = active.config = drop(identity, config, Path(active.file).parent)
        except CannotStart:
            listeners.close()
            raise
        _log(f"running as the user {identity.name}")
    gateway = build(config)
    standalone = StandaloneGateway(gateway, active, listeners, notifier, state_lock)
    standalone.catalog.exclude(listeners.addresses)
    for name in listeners.unused:
        _log(f"systemd has passed the socket {name}, which no listener uses")
    await standalone.discover()
    await standalone.restore()
    standalone.spawn(standalone.expiry.run())
    standalone.spawn(standalone.rollouts.run())
    standalone.spawn(standalone.certificates.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, gateway.reopen_log)
    await gateway.start(listeners.for_worker(0))
    tune_memory()
    if not linux.hangup_is_ignored() and not linux.has_terminal():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, standalone.on_hangup)
    loop = asyncio.get_running_loop()
    logging.getLogger("passerelle").addHandler(
        LogEvents(lambda kind, text: loop.call_soon_threadsafe(standalone.events.record, kind, text))
    )
    admin = Admin(admin_socket, standalone, config.admin) if admin_socket is not None else None
    where = f"listening on {listeners.describe(config)}"
    notifier.ready(where)
    standalone.spawn(notifier.feed_watchdog())
    if admin is not None:
        await admin.start()
        where += f" · admin http://{admin.address}"
    _log(where)
    if admin is not None or config.alerts is not None:
        standalone.spawn(standalone.live.run())
        standalone.spawn(standalone.webhook.run())
    if follow:
        standalone.spawn(standalone.follow())
    await stop.requested.wait()
    notifier.stopping()
    standalone.stop()
    await standalone.rollouts.close()
    await standalone.certificates.close()
    await stop.stop_gateway(gateway)
    listeners.close()
    if admin is not None:
        await admin.stop()
    return 0
