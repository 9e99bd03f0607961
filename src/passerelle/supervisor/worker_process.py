"""A gateway worker as the supervisor sees it: a process, its listening socket, its control channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from passerelle.observability.metrics import Snapshot, merge, retired
from passerelle.supervisor import control_channel
from passerelle.supervisor.process import Process, StartFailed
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.service_health import ServiceHealthMonitor
from passerelle.supervisor.supervised import ProcessEvents, SupervisedProcess

_START_LIMIT = 30.0  # seconds for a worker to load and listen
_ANSWER_LIMIT = 2.0  # seconds for an answer that people wait for
# Counters are asked for this often, so that a worker that dies takes no more than these seconds of them with it.
_SNAPSHOT_INTERVAL = 5.0
_LEAVE_LIMIT = 1.0  # seconds between the end of the control channel and that of the process
_SILENCE_LIMIT = 30.0  # seconds without an answer, then a worker hangs and is replaced


class WorkerProcess(SupervisedProcess):
    """One gateway worker. It gets ``listener`` at every start, so while it is replaced connections wait in the kernel.

    ``text`` is the configuration, as the supervisor read and checked it: what the file says by the time a worker is
    started again is another matter. It begins to listen when ``may_listen`` is set.
    """

    def __init__(
        self,
        name: str,
        file: str,
        text: str,
        listener: socket.socket,
        services: Iterable[ServiceHealthMonitor],
        may_listen: asyncio.Event,
        write: Callable[[str, bytes], None],
        write_raw: Callable[[bytes], None],
        backoff: Backoff,
        events: ProcessEvents,
        clock: Callable[[], float],
        program: str = "passerelle.supervisor.worker_main",
    ) -> None:
        super().__init__(name, backoff, events, clock)
        self.listener = listener
        self.siblings: Sequence[WorkerProcess] = ()  # all workers, this one too
        self._snapshot: Snapshot | None = None  # the last one of the present process
        self._retired: Snapshot | None = None  # the sum of those of earlier processes
        self._file = file
        self._text = text
        self._services = services
        self._may_listen = may_listen
        self._write = write
        self._write_raw = write_raw
        self._program = program
        self._client: control_channel.ControlClient | None = None
        self._socket: socket.socket | None = None

    def _spawn(self) -> Process:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise StartFailed(f"cannot make a control channel: {error.strerror}") from error
        try:
            with theirs, open(os.memfd_create("configuration"), "wb") as text:
                text.write(self._text.encode())
                text.flush()
                sources = (("--control-fd", theirs), ("--listen-fd", self.listener), ("--config-fd", text))
                fds = {option: source.fileno() for option, source in sources}
                # -P: no module of the current folder in the place of one of Python's or ours.
                argv = [sys.executable, "-P", "-m", self._program, self._file]
                argv += [word for option, fd in fds.items() for word in (option, str(fd))]
                process = Process.spawn(
                    self.name,
                    argv,
                    on_line=lambda line: self._write(self.name, line),
                    on_raw=self._write_raw,
                    pass_fds=tuple(fds.values()),
                )
        except OSError as error:
            ours.close()
            raise StartFailed(f"cannot pass the configuration on: {error.strerror}") from error
        except BaseException:
            ours.close()
            raise
        self._socket = ours
        return process

    async def _watch(self, process: Process) -> str:
        assert self._socket is not None
        client = self._client = control_channel.ControlClient(
            *await control_channel.open_channel(self._socket), self._on_event
        )
        reading = asyncio.create_task(client.run())
        try:
            await self._may_listen.wait()
            for service in self._services:
                self.send_instances(service)
            await client.ask("start", _START_LIMIT, siblings=len(self.siblings) > 1)
            self._mark_up()
            heard = self._clock()
            while not client.closed:
                await asyncio.wait({reading}, timeout=_SNAPSHOT_INTERVAL)
                if await self._ask_snapshot(client):
                    heard = self._clock()
                elif self._clock() - heard > _SILENCE_LIMIT:
                    return f"has not answered for {_SILENCE_LIMIT:g} s and was ended"
        except control_channel.ControlError as error:
            if not client.closed:
                return f"cannot start: {error}"
        finally:
            client.close()
            await reading
            self._client = None
        # It exits, as a rule: this end is seen a moment before the other one.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _LEAVE_LIMIT)
        return "closed its control channel and was ended"

    def _on_event(self, event: control_channel.Message) -> None:
        """What the worker's requests saw of an instance, or changed for the caches of the other workers."""
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
            self._retired = gone if self._retired is None else merge([self._retired, gone])
            self._snapshot = None

    def send_instances(self, service: ServiceHealthMonitor) -> None:
        """Let the worker know the instances of ``service``, if it runs."""
        if self._client is not None:
            self._client.send("instances", service=service.name, instances=service.listing())

    async def reload(self, text: str) -> None:
        """Let the worker go by ``text``, now if it runs and at every later start.

        :raises ControlError: when it cannot.
        """
        before, self._text = self._text, text
        if self._client is not None:
            client = self._client
            instances = {service.name: service.listing() for service in self._services}
            try:
                await client.ask("reload", _START_LIMIT, text=text, instances=instances)
            except control_channel.ControlError:
                if not client.closed:
                    self._text = before
                    raise
                # One that died meanwhile is started again with the new text.

    def send_invalidation(self, event: control_channel.Message) -> None:
        """Let the worker's cache go of what a request to a sibling has changed, if it runs."""
        if self._client is not None and not self._client.closed:
            self._client.send("forget", keys=event["keys"], tags=event["tags"])

    def reopen_log(self) -> None:
        """Let the worker open its access log anew, if it runs."""
        if self._client is not None:
            self._client.send("reopen")

    async def read_snapshot(self) -> list[Snapshot]:
        """The counters of this worker's processes, the present one's asked for now."""
        if self._client is not None and self.up_since is not None:
            await self._ask_snapshot(self._client)
        return [snapshot for snapshot in (self._retired, self._snapshot) if snapshot is not None]

    async def _ask_snapshot(self, client: control_channel.ControlClient) -> bool:
        try:
            self._snapshot = await client.ask("metrics", _ANSWER_LIMIT)
        except control_channel.ControlError:
            return False
        return True

    async def purge(self, what: str, value: str) -> int | None:
        """How many items the worker's cache let go of; None when it does not answer."""
        if self._client is None or self.up_since is None:
            return None
        try:
            count: int = await self._client.ask("purge", _ANSWER_LIMIT, what=what, value=value)
        except control_channel.ControlError:
            return None
        return count

    async def status(self) -> dict[str, Any] | None:
        """What the worker says of itself: ``connections``, and of every service the instances as it sees them.

        None when it does not answer.
        """
        if self._client is None or self.up_since is None:
            return None
        try:
            answer: dict[str, Any] = await self._client.ask("status", _ANSWER_LIMIT)
        except control_channel.ControlError:
            return None
        return answer
