"""One command that is kept running: started, watched, started again with back-off when it has ended."""

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
    """Of a kept command; the value is its name in reports."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"  # it runs, was up, and fails its probes
    EJECTED = "ejected"  # it passes its probes, but requests to it fail
    DRAINING = "draining"  # it finishes what it has, then it is stopped
    WAITING = "waiting"  # it ended and will be started again
    STOPPED = "stopped"


class ProcessEvents(Protocol):
    """Who is told what happens, for people to read."""

    def up(self, member: SupervisedProcess) -> None:
        """It answers for the first time since its start."""

    def ended(
        self, member: SupervisedProcess, reason: str, after: float, again_in: float, tail: Sequence[bytes]
    ) -> None:
        """It ended, or could not be started: why, after how many seconds, and what it said last."""


class SupervisedProcess(ABC):
    """The base of instances and workers. :meth:`run` keeps it running until cancelled, :meth:`stop` then ends it.

    ``settled`` is set when the first start has come to something: it answered, or failed.
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

    @abstractmethod
    def _spawn(self) -> Process:
        """Start the command. :raises StartFailed, PortTaken: with the reason."""

    @abstractmethod
    async def _watch(self, process: Process) -> str:
        """Look after the running ``process``; cancelled when it ends. Gives the reason why it must end."""

    @abstractmethod
    def _on_end(self) -> None:
        """The process has ended: nobody may use it any more."""

    @property
    def state(self) -> ProcessState:
        """How it is now."""
        if self.waiting:
            return ProcessState.WAITING
        if self.process is None or self.process.returncode is not None:
            return ProcessState.STOPPED
        return ProcessState.STARTING if self.up_since is None else ProcessState.UP

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)

    def _mark_up(self) -> None:
        self.up_since = self._clock()
        self.settled.set()
        self._events.up(self)

    async def run(self) -> None:
        """Keep it running, until cancelled."""
        while True:
            self.starts += 1
            begun = self._clock()
            tail: Sequence[bytes] = ()
            try:
                process = self.process = self._spawn()
            except (StartFailed, PortTaken) as error:
                reason = str(error)
            else:
                reason = await self._run_once(process)
                tail = process.tail
            now = self._clock()
            healthy_for = now - self.up_since if self.up_since is not None else 0.0
            never_up, self.up_since = self.up_since is None, None
            delay = self._backoff.after(healthy_for)
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
            # A fault of ours is raised here: it must be heard of.
            reason = watch.result() if watch.done() else ""
        finally:
            watch.cancel()
            wait.cancel()
            self._on_end()
        if reason and process.returncode is None:
            await process.stop(0.0)
            return reason
        # What it left behind may hold what the next one needs.
        return describe_exit(await process.closed())

    async def stop(self, grace: float) -> None:
        """End the process and all it started; :meth:`run` must have been cancelled. At most about ``grace`` + 6 s."""
        self.waiting = False
        if self.process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.stop(grace), grace + 6.0)

    def kill(self) -> None:
        """SIGKILL to the process and all it started."""
        if self.process is not None:
            self.process.kill()
