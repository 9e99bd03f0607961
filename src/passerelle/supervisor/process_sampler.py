"""What the processes of a sample use: CPU, waiting for a CPU, memory, threads, open files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from passerelle.observability.live import Sample, rounded
from passerelle.system import process_stats
from passerelle.system.process_stats import MachineUse, UseRates


class ProcessSampler:
    """Adds the use of processes to samples: to each worker and instance with a pid, to ``supervisor`` and ``machine``.

    The values of an instance include its descendants, such as the workers of a server that ``run`` starts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates = UseRates()
        self._machine: MachineUse | None = None

    def add(self, sample: Sample) -> None:
        """Add to ``sample`` what the processes have used since the last one."""
        own = os.getpid()
        workers = _by_pid(sample["workers"].values())
        instances = _by_pid(i for service in sample["services"].values() for i in service["instances"].values())
        uses = process_stats.read_trees(instances) if instances else {}
        for pid in (own, *workers):
            if (use := process_stats.read(pid)) is not None:
                uses[pid] = use
        for pid, values in self._rates.update(uses, self._clock()).items():
            added = {key: rounded(value) for key, value in values.items()}
            if pid == own:
                sample["supervisor"] = {"pid": own, **added}
            if pid in workers:
                workers[pid].update({**added, **workers[pid]})  # a worker's own CPU time is more precise
            elif pid in instances:
                instances[pid].update(added)
        self._add_machine(sample)

    def _add_machine(self, sample: Sample) -> None:
        last, self._machine = self._machine, process_stats.read_machine()
        machine: dict[str, Any] = {"cpus": process_stats.cpus()}
        if last is not None and self._machine is not None and self._machine.total > last.total:
            share = (self._machine.busy - last.busy) / (self._machine.total - last.total)
            machine["cpu"] = rounded(min(1.0, max(0.0, share)))
        sample["machine"] = machine


def _by_pid(parts: Any) -> dict[int, dict[str, Any]]:
    return {part["pid"]: part for part in parts if "pid" in part}
