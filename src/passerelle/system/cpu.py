"""CPU time of the machine and of processes, from /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_MOST_PROCESSES = 1000  # of one tree


class MachineTime(NamedTuple):
    """CPU time since the start of the machine in seconds, of all CPUs together."""

    busy: float
    total: float


def machine_time() -> MachineTime | None:
    """Return the CPU time of the machine; None if it cannot be read. Time taken by other guests counts as busy."""
    try:
        with open("/proc/stat", "rb") as file:
            values = [int(value) for value in file.readline().split()[1:9]]  # without guests, which "user" includes
        idle = values[3] + values[4]
    except (OSError, ValueError, IndexError):
        return None
    return MachineTime((sum(values) - idle) / _TICKS, sum(values) / _TICKS)


def tree_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of the live processes ``pids`` and their descendants, all threads included."""
    todo, seen, ticks = list(pids), set[int](), 0
    while todo and len(seen) < _MOST_PROCESSES:
        pid = todo.pop()
        if pid in seen:
            continue
        seen.add(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
                todo += [int(child) for child in file.read().split()]
        except (OSError, ValueError, IndexError):
            continue  # the process has ended, or the kernel lists no children
    return ticks / _TICKS
