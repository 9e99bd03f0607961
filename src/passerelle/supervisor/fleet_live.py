"""The live view of a fleet: readings of its workers, and the states of what runs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from passerelle.appserver.thread_stats import ThreadUse
from passerelle.config.models.config import Config
from passerelle.observability.live import rounded
from passerelle.supervisor.fleet import Fleet
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.live_sampler import Reading


class FleetLive:
    """The source of samples of ``fleet``."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._threads: dict[int, tuple[float, ThreadUse]] = {}  # the last reading of each process

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._fleet.config

    async def live_readings(self) -> list[Reading]:
        """Read the counters of the workers that reply in time."""
        found = await asyncio.gather(*(worker.read_live() for worker in self._fleet.workers))
        return [reading for reading in found if reading is not None]

    def live_states(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
        """Return the states of the workers by name, and those of the instances by service and name."""
        fleet = self._fleet
        workers = {}
        for worker in fleet.workers:
            pid = worker.process.pid if worker.process is not None and worker.process.returncode is None else None
            workers[worker.name] = _present(state=worker.state.value, pid=pid, restarts=worker.restarts)
        services: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in fleet.services}
        threads, self._threads = self._threads, {}
        for instance in fleet.instances:
            process = instance.process
            pid = process.pid if process is not None and process.returncode is None else None
            services.setdefault(instance.service.name, {})[instance.name] = _present(
                **self._read_threads(instance, pid, threads),
                state=instance.state.value,
                address=instance.address,
                pid=pid,
                restarts=instance.restarts,
                problem=instance.service.problems.get(instance.name)
                or (instance.waiting and instance.last_end)
                or None,
            )
        for target in fleet.targets:
            services.setdefault(target.service.name, {})[target.name] = _present(
                state=target.state,
                address=target.address,
                weight=target.spec.weight,
                problem=target.service.problems.get(target.name),
            )
        return workers, services

    def _read_threads(
        self, instance: InstanceProcess, pid: int | None, last: dict[int, tuple[float, ThreadUse]]
    ) -> dict[str, Any]:
        """Return what the threads of an application have done since the ``last`` reading."""
        use = instance.thread_use()
        if use is None or pid is None:
            return {}
        now = time.monotonic()
        self._threads[pid] = now, use
        if pid not in last:
            return {}
        at, before = last[pid]
        seconds = max(now - at, 0.001)
        calls = max(0.0, use.calls - before.calls)
        # The time that requests were queued is counted when a thread takes them: without calls, none has been.
        queued = (use.queued_seconds - before.queued_seconds) / seconds if calls else use.queued
        return {
            "app": {
                "threads": use.threads,
                "busy": rounded(min(1.0, max(0.0, use.busy_seconds - before.busy_seconds) / seconds / use.threads)),
                "calls": rounded(calls / seconds),
                "queued": rounded(max(0.0, queued)),
                "longest": rounded(use.longest),
            }
        }


def _present(**values: Any) -> dict[str, Any]:
    """Leave out what has no value: in a sample, an absent key has none."""
    return {key: value for key, value in values.items() if value is not None}
