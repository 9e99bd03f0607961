"""A process that is kept running: it is started, watched, and restarted with back-off when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from passerelle.supervisor.process import Process, StartFailed, describe_exit
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.system.ports import PortTaken


class ProcessState(enum.Enum):
    """The state of a supervised process; the value is its name in reports."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"  # it was up and fails its probes
    EJECTED = "ejected"  # it passes its probes, but requests to it fail
    DRAINING = "draining"  # it finishes its requests in flight and receives no new ones
    WAITING = "waiting"  # it has ended and will be restarted
    STOPPED = "stopped"


class ProcessEvents(Protocol):
    """The receiver of events for the console report."""

    def up(self, member: SupervisedProcess) -> None:
        """``member`` is up for the first time since its start."""

    def ended(
        self, member: SupervisedProcess, reason: str, after: float, again_in: float, tail: Sequence[bytes]
    ) -> None:
        """``member`` has ended or could not be started.

        ``after`` and ``again_in`` are seconds since its start and until its next one. ``tail`` has its last lines.
        """


class SupervisedProcess(ABC):
    """The base class of instances and workers: a process that :meth:`run` keeps running and :meth:`stop` ends.

    ``settled`` is set when the first start has succeeded or failed. ``up_since`` is when the current process came up;
    None before. ``last_end`` is why the last process ended.
    """

    def __init__(self, name: str, backoff: Backoff, events: ProcessEvents, clock: Callable[[], float]) -> None:
        self.name = name
        self.process: Process | None = None
        self.starts = 0
        self.up_since: float | None = None
        self.waiting = False
        self.last_end = ""
        self.settled = asyncio.Event()
        self._backoff = backoff
        self._events = events
        self._clock = clock

    @property
    def service_name(self) -> str | None:
        """The name of the service that the process is an instance of; None for a worker."""
        return None

    @abstractmethod
    def _spawn(self) -> Process:
        """Start the process. :raises StartFailed, PortTaken: with the reason."""

    @abstractmethod
    async def _watch(self, process: Process) -> str:
        """Watch the running ``process``, and return the reason if it must be ended. Cancelled when it exits."""

    @abstractmethod
    def _on_end(self) -> None:
        """Handle the end of the process: it must receive no more requests."""

    @property
    def state(self) -> ProcessState:
        """The current state."""
        if self.waiting:
            return ProcessState.WAITING
        if self.process is None or self.process.returncode is not None:
            return ProcessState.STOPPED
        return ProcessState.STARTING if self.up_since is None else ProcessState.UP

    @property
    def restarts(self) -> int:
        """How often the process was restarted."""
        return max(0, self.starts - 1)

    def _mark_up(self) -> None:
        self.up_since = self._clock()
        self.settled.set()
        self._events.up(self)

    async def run(self) -> None:
        """Start the process and restart it whenever it has ended, until cancelled."""
        while True:
            self.starts += 1
            begun = self._clock()
            tail: Sequence[bytes] = ()
            try:
                process = self.process = self._spawn()
            except (StartFailed, PortTaken) as error:
                reason = f"cannot start: {error}"
            else:
                reason = await self._run_once(process)
                tail = process.tail
            now = self._clock()
            healthy_for = now - self.up_since if self.up_since is not None else 0.0
            never_up, self.up_since = self.up_since is None, None
            delay = self._backoff.delay_after(healthy_for)
            self.last_end = reason
            self.waiting = True
            self._events.ended(self, reason, now - begun, delay, tail if never_up else ())
            self.settled.set()
            await asyncio.sleep(delay)
            self.waiting = False

    async def _run_once(self, process: Process) -> str:
        watch = asyncio.create_task(self._watch(process))
        wait = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({watch, wait}, return_when=asyncio.FIRST_COMPLETED)
            # A defect in _watch is raised here, so that it is reported.
            reason = watch.result() if watch.done() else ""
        finally:
            watch.cancel()
            wait.cancel()
            self._on_end()
        if reason and process.returncode is None:
            await process.stop(0.0)
            return reason
        # Processes that it has left behind may hold resources that the next process needs.
        return self._exit_reason(await process.closed())

    def _exit_reason(self, code: int) -> str:
        """Describe why the process has ended with ``code``."""
        return describe_exit(code)

    async def stop(self, grace: float) -> None:
        """Stop the process and everything it started, within about ``grace`` + 6 s; :meth:`run` must be cancelled."""
        self.waiting = False
        if self.process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.stop(grace), grace + 6.0)

    def kill(self) -> None:
        """Send SIGKILL to the process and everything it started."""
        if self.process is not None:
            self.process.kill()
