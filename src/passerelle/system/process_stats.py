"""What processes and the machine use, from /proc (proc(5)): CPU, waiting for a CPU, memory, threads, open files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from passerelle.system import linux

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_THREADS = 256  # of one process whose waiting is read
_MOST_PROCESSES = 64  # of one tree


class ProcessUse(NamedTuple):
    """What one process, or a tree of processes, has used since its start, and what it has now.

    ``cpu`` and ``waited`` are in seconds: running, and ready to run while all CPUs were taken. ``switches`` counts how
    often its threads got a CPU. ``memory`` is in bytes and resident.
    """

    cpu: float
    waited: float
    switches: int
    memory: int
    threads: int
    files: int


def read(pid: int) -> ProcessUse | None:
    """Read the use of the process ``pid``; None if it has ended or belongs to another user."""
    folder = f"/proc/{pid}"
    try:
        with open(f"{folder}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        waited, switches = _scheduling(f"{folder}/task")
        return ProcessUse(
            (int(fields[11]) + int(fields[12])) / _TICKS,
            waited,
            switches,
            int(fields[21]) * _PAGE,
            int(fields[17]),
            _open_files(f"{folder}/fd"),
        )
    except (OSError, ValueError, IndexError):
        return None


def _scheduling(folder: str) -> tuple[float, int]:
    """Sum up the waiting for a CPU and the switches of the live threads; zero where the kernel does not count them."""
    waited = switches = 0
    for thread in os.listdir(folder)[:_MOST_THREADS]:
        try:
            with open(f"{folder}/{thread}/schedstat", "rb") as file:
                _, wait, slices = file.read().split()
        except (OSError, ValueError):
            continue
        waited += int(wait)
        switches += int(slices)
    return waited / 1e9, switches


def _open_files(folder: str) -> int:
    """Count the open files; Linux 6.2 and later has the number as the size of the folder."""
    return os.stat(folder).st_size or len(os.listdir(folder))


def read_trees(roots: Iterable[int]) -> dict[int, ProcessUse]:
    """Read the use of each of ``roots`` together with its descendants. The process table is read once."""
    children = linux.children()
    result = {}
    for root in roots:
        pids, todo = [root], [root]
        while todo and len(pids) < _MOST_PROCESSES:
            found = children.get(todo.pop(), [])
            pids += found
            todo += found
        uses = [use for pid in pids if (use := read(pid)) is not None]
        if uses:
            result[root] = ProcessUse(*(sum(values) for values in zip(*uses, strict=True)))
    return result


class MachineUse(NamedTuple):
    """CPU time of all CPUs of the machine since its start, in seconds: not idle, and the whole."""

    busy: float
    total: float


def read_machine() -> MachineUse | None:
    """Read the CPU time of the machine; None without /proc."""
    try:
        with open("/proc/stat", "rb") as file:
            values = [int(value) for value in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return MachineUse((sum(values) - values[3] - values[4]) / _TICKS, sum(values) / _TICKS)


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


class UseRates:
    """Converts readings of processes to rates per second. Keeps the last reading of each process that is still read."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, ProcessUse]] = {}

    def update(self, uses: dict[int, ProcessUse], now: float) -> dict[int, dict[str, float]]:
        """Return the values of each process read at ``now`` (seconds): rates of ``cpu``, ``wait`` and ``switches``."""
        result = {}
        for pid, use in uses.items():
            values: dict[str, float] = {"memory": use.memory, "threads": use.threads, "files": use.files}
            if pid in self._last:
                at, last = self._last[pid]
                seconds = max(now - at, 0.001)
                # A thread or child that has ended takes its share with it: the sum may decrease.
                values["cpu"] = max(0.0, use.cpu - last.cpu) / seconds
                values["wait"] = max(0.0, use.waited - last.waited) / seconds
                values["switches"] = max(0, use.switches - last.switches) / seconds
            result[pid] = values
        self._last = {pid: (now, use) for pid, use in uses.items()}
        return result
