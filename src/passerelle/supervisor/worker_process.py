"""A gateway worker in the supervisor: its process, its listening socket and its control channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from passerelle.gateway.endpoints import BoundSocket
from passerelle.observability.metrics import Snapshot, merge, retired, with_instances_of
from passerelle.supervisor import control_channel
from passerelle.supervisor.identity import KEPT
from passerelle.supervisor.live_sampler import Reading
from passerelle.supervisor.process import Process, StartFailed
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.service_health import ServiceHealthMonitor
from passerelle.supervisor.socket_channel import SocketSender
from passerelle.supervisor.supervised import ProcessEvents, SupervisedProcess

_START_LIMIT = 30.0  # seconds for a worker to load the configuration and listen
_LIVE_LIMIT = 0.5  # seconds for which a sample of the live view waits for a reply
_REPLY_LIMIT = 2.0  # seconds for a reply that a request to the admin port waits for
# Seconds between two snapshots of the counters. A worker that dies loses at most the counts since the last one.
_SNAPSHOT_INTERVAL = 5.0
_EXIT_LIMIT = 1.0  # seconds between the end of the control channel and that of the process
_SILENCE_LIMIT = 30.0  # seconds without a reply after which a worker counts as hanging and is replaced


def _pairs(sockets: Sequence[BoundSocket]) -> list[tuple[int, int]]:
    """Return the index of the listener and the key of each socket, for the control channel."""
    return [(each.listener, each.key) for each in sockets]


class WorkerProcess(SupervisedProcess):
    """One gateway worker. Every start passes it ``sockets``, so connections wait in the kernel while it is replaced.

    ``config`` is the configuration that the supervisor has read and checked, packed; a restarted worker does not read
    the file, which may have changed. The worker begins to listen once ``may_listen`` is set.
    """

    def __init__(
        self,
        name: str,
        file: str,
        config: str,
        sockets: Sequence[BoundSocket],
        services: Iterable[ServiceHealthMonitor],
        may_listen: asyncio.Event,
        write: Callable[[str, bytes], None],
        write_raw: Callable[[bytes], None],
        backoff: Backoff,
        events: ProcessEvents,
        clock: Callable[[], float],
        program: str = "passerelle.supervisor.worker_start",
    ) -> None:
        super().__init__(name, backoff, events, clock)
        self.sockets = sockets
        self.siblings: Sequence[WorkerProcess] = ()  # all workers, including this one
        # Called with what the worker reports: its name, a kind of event, a service or None, a text.
        self.on_report: Callable[[str, str, str | None, str], None] | None = None
        # Returns the settings of splits that every start and reload passes to the worker (see splits.py).
        self.splits: Callable[[], dict[str, Any]] = dict
        self.maintenance: frozenset[str] | None = frozenset()  # the labels of the routes in maintenance; None for all
        self.challenges: Sequence[Mapping[str, str]] = ()  # those of orders for certificates that are pending
        self.logs_to_stderr = False  # whether the access log goes to standard error of this process
        self._live: asyncio.Task[Reading | None] | None = None  # the request for a reading in flight
        self._live_was_lost = True  # the last reading was lost, so that the next one must be complete
        self._snapshot: Snapshot | None = None  # the last snapshot of the current process
        self._retired: Snapshot | None = None  # the sum of the last snapshots of earlier processes
        self._file = file
        self._config = config
        self._services = services
        self._may_listen = may_listen
        self._write = write
        self._write_raw = write_raw
        self._program = program
        self._client: control_channel.ControlClient | None = None
        self._socket: socket.socket | None = None
        self._sender: SocketSender | None = None
        self._given = ""  # the packed configuration with which the current process was started
        # Held by a start and by a reload: the worker is sent one at a time, each with its configuration and sockets.
        self._applying = asyncio.Lock()

    def _spawn(self) -> Process:
        with contextlib.ExitStack() as undo:
            try:
                ours, theirs = socket.socketpair()
                undo.callback(ours.close)
                with theirs:
                    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    undo.callback(sending.close)
                    with receiving:
                        process = self._spawn_with(theirs, receiving)
            except OSError as error:
                raise StartFailed(f"cannot make a channel or pass the configuration on: {error.strerror}") from error
            undo.pop_all()
        self._socket = ours
        self._given = self._config
        self._sender = SocketSender(sending, [each.key for each in self.sockets])
        return process

    def _spawn_with(self, control: socket.socket, receiving: socket.socket) -> Process:
        with contextlib.ExitStack() as opened:
            config = opened.enter_context(open(os.memfd_create("configuration"), "wb"))
            config.write(self._config.encode())
            config.flush()
            sources = (("--control-fd", control), ("--sockets-fd", receiving), ("--config-fd", config))
            words = [(option, f"{source.fileno()}") for option, source in sources]
            words += [("--listen-fd", f"{key}:{sock.fileno()}") for _, key, sock in self.sockets]
            if self.logs_to_stderr:
                words.append(("--log-fd", f"{os.dup(2)}"))
                opened.callback(os.close, int(words[-1][1]))
            # -P: no module of the current folder in the place of one of Python's or ours.
            argv = [sys.executable, "-P", "-m", self._program, self._file]
            argv += [word for pair in words for word in pair]
            return Process.spawn(
                self.name,
                argv,
                on_line=lambda line: self._write(self.name, line),
                on_raw=self._write_raw,
                pass_fds=(*(int(value.rpartition(":")[2]) for _, value in words), *KEPT),
            )

    async def _watch(self, process: Process) -> str:
        assert self._socket is not None and self._sender is not None
        sender = self._sender
        client = self._client = control_channel.ControlClient(
            *await control_channel.open_channel(self._socket), self._on_event
        )
        reading = asyncio.create_task(client.run())
        try:
            await self._may_listen.wait()
            async with self._applying:
                await self._start(client)
            self._mark_up()
            last_reply = self._clock()
            while not client.closed:
                await asyncio.wait({reading}, timeout=_SNAPSHOT_INTERVAL)
                if await self._update_snapshot(client):
                    last_reply = self._clock()
                elif self._clock() - last_reply > _SILENCE_LIMIT:
                    return f"did not reply for {_SILENCE_LIMIT:g} s and was killed"
        except control_channel.ControlError as error:
            if not client.closed:
                return f"cannot start: {error}"
        finally:
            client.close()
            sender.close()
            await reading
            self._client = None
        # Usually the process exits, and the end of its channel is seen a moment before.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _EXIT_LIMIT)
        return "closed its control channel and was killed"

    async def _start(self, client: control_channel.ControlClient) -> None:
        """Have the worker listen, with the configuration in force. :raises ControlError: if it cannot."""
        if self._config != self._given:  # of a reload between the start of the process and its channel
            await self._request_reload(client, self.splits())
        for service in self._services:
            self.send_instances(service)
        if self.maintenance is None or self.maintenance:
            await self.send_maintenance()
        if self.challenges:
            await self.send_challenges()
        self._send_sockets()  # those of a reload since the process was started
        more = {"siblings": len(self.siblings) > 1, "splits": self.splits()}
        await client.request("start", _START_LIMIT, sockets=_pairs(self.sockets), **more)
        self._keep_sockets()

    def _on_event(self, event: control_channel.Message) -> None:
        """Handle a report about an instance, an event, or an invalidation for the caches of the other workers."""
        if event["event"] == "report":
            if self.on_report is not None:
                self.on_report(self.name, str(event["kind"]), event["service"], str(event["text"]))
            return
        if event["event"] == "forget":
            for sibling in self.siblings:
                if sibling is not self:
                    sibling.send_invalidation(event)
            return
        for service in self._services:
            if service.name == event.get("service"):
                service.report(str(event["event"]), str(event.get("instance", "")))

    def _on_end(self) -> None:
        if self._snapshot is not None:
            gone = retired(self._snapshot)
            self._retired = gone if self._retired is None else with_instances_of(merge([self._retired, gone]), [gone])
            self._snapshot = None

    def send_instances(self, service: ServiceHealthMonitor) -> None:
        """Send the instances of ``service`` to the worker, if it runs."""
        if self._client is not None:
            self._client.send("instances", service=service.name, instances=service.listing())

    async def reload(self, config: str, sockets: Sequence[BoundSocket], splits: dict[str, Any] | None = None) -> None:
        """Apply the packed configuration ``config``, now if the worker runs, and at every later start.

        ``sockets`` are those of its listeners, ``splits`` are the settings of its splits.

        :raises ControlError: if the worker cannot apply it; then the worker keeps the previous one.
        """
        async with self._applying:
            before = self._config, self.sockets
            self._config, self.sockets = config, sockets
            client = self._client
            if client is None:
                return
            try:
                await self._request_reload(client, splits or {})
            except control_channel.ControlError:
                if not client.closed:
                    self._config, self.sockets = before
                    raise
                # A worker that has died meanwhile is restarted with the new configuration.

    async def restore(self, config: str, sockets: Sequence[BoundSocket], splits: dict[str, Any]) -> None:
        """Apply the configuration from before a reload that failed, like :meth:`reload`.

        :raises ControlError: if the worker cannot apply it; then its next start does.
        """
        try:
            await self.reload(config, sockets, splits)
        except control_channel.ControlError:
            self._config, self.sockets = config, sockets
            raise

    async def _request_reload(self, client: control_channel.ControlClient, splits: dict[str, Any]) -> None:
        self._send_sockets()
        more = {"instances": {service.name: service.listing() for service in self._services}, "splits": splits}
        pairs = _pairs(self.sockets)
        config = self._config
        await client.request("reload", _START_LIMIT, config=config, sockets=pairs, **more)
        self._given = config
        self._keep_sockets()

    def _send_sockets(self) -> None:
        """Send the worker the sockets that it does not have. :raises ControlError: if it does not receive them."""
        assert self._sender is not None
        try:
            self._sender.send(self.sockets)
        except OSError as error:
            raise control_channel.ControlError(f"cannot pass a socket on: {error.strerror}") from error

    def _keep_sockets(self) -> None:
        """Note that the worker has closed all sockets but those in force."""
        assert self._sender is not None
        self._sender.keep(self.sockets)

    def send_invalidation(self, event: control_channel.Message) -> None:
        """Send the invalidations of a request to a sibling to the worker, if it runs."""
        if self._client is not None and not self._client.closed:
            self._client.send("forget", keys=event["keys"], tags=event["tags"])

    def reopen_log(self) -> None:
        """Have the worker reopen its access log, if it runs."""
        if self._client is not None:
            self._client.send("reopen")

    async def read_live(self) -> Reading | None:
        """Return the counters for the live view; None if the worker does not run or has not replied yet.

        A late reply is the result of a later call, so that an overloaded worker is seen, if less often.
        """
        client, process = self._client, self.process
        if client is None or process is None or self.up_since is None:
            self._live = None
            self._live_was_lost = True
            return None
        if self._live is None:
            full, self._live_was_lost = self._live_was_lost, True
            self._live = asyncio.create_task(self._request_live(client, process.pid, full))
        done, _ = await asyncio.wait({self._live}, timeout=_LIVE_LIMIT)
        if not done:
            return None
        reading, self._live = self._live.result(), None
        return reading

    async def _request_live(self, client: control_channel.ControlClient, pid: int, full: bool) -> Reading | None:
        try:
            counters = await client.request("live", _SILENCE_LIMIT, full=full)
        except control_channel.ControlError:
            return None
        self._live_was_lost = False
        return Reading(self.name, pid, self._clock(), counters)

    async def read_snapshot(self) -> list[Snapshot]:
        """Update the counters of the current process, and return those of all processes of this worker."""
        if self._client is not None and self.up_since is not None:
            await self._update_snapshot(self._client)
        return [snapshot for snapshot in (self._retired, self._snapshot) if snapshot is not None]

    async def _update_snapshot(self, client: control_channel.ControlClient) -> bool:
        try:
            self._snapshot = await client.request("metrics", _REPLY_LIMIT)
        except control_channel.ControlError:
            return False
        return True

    async def purge(self, kind: str, value: str) -> int | None:
        """Purge the worker's cache. Returns the number of evicted responses, or None if the worker does not reply."""
        if self._client is None or self.up_since is None:
            return None
        try:
            count: int = await self._client.request("purge", _REPLY_LIMIT, what=kind, value=value)
        except control_channel.ControlError:
            return None
        return count

    async def set_splits(self, settings: dict[str, Any]) -> None:
        """Apply the settings of splits, if the worker runs. One that does not reply receives them at its next start."""
        if self._client is not None and not self._client.closed:
            with contextlib.suppress(control_channel.ControlError):
                await self._client.request("splits", _REPLY_LIMIT, splits=settings)

    async def shadows(self, *, reset: bool) -> dict[str, Any] | None:
        """Return what the worker's shadow requests found, or None if the worker does not reply."""
        if self._client is None or self.up_since is None:
            return None
        try:
            found: dict[str, Any] = await self._client.request("shadows", _REPLY_LIMIT, reset=reset)
        except control_channel.ControlError:
            return None
        return found

    async def send_maintenance(self) -> bool:
        """Send the routes in maintenance to the worker; return False if it does not reply. A later start sends them."""
        if self._client is None:
            return True
        routes = None if self.maintenance is None else sorted(self.maintenance)
        try:
            await self._client.request("maintenance", _REPLY_LIMIT, routes=routes)
        except control_channel.ControlError:
            return False
        return True

    async def send_challenges(self) -> bool:
        """Send the pending challenges to the worker; return False if it does not reply. A later start sends them."""
        if self._client is None:
            return True
        try:
            await self._client.request("challenges", _REPLY_LIMIT, pending=[dict(each) for each in self.challenges])
        except control_channel.ControlError:
            return False
        return True

    async def status(self) -> dict[str, Any] | None:
        """Return the status of the worker (see :meth:`.worker_main.WorkerOperations.status`).

        Returns None if the worker does not reply.
        """
        if self._client is None or self.up_since is None:
            return None
        try:
            reply: dict[str, Any] = await self._client.request("status", _REPLY_LIMIT)
        except control_channel.ControlError:
            return None
        return reply
