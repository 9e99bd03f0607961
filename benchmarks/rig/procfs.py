"""CPU time and memory of whole process trees, as reported by the kernel (proc(5)).

CPU time is the user and system time of every process of a tree, including threads and terminated children. The kernel
derives it from the scheduler's clock and reports it in ticks of 10 ms, so three seconds of load are accurate to about
0.3 % even if other processes compete for the CPU; requests per second are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """Fields of ``/proc/PID/stat`` that the rig uses; times are in clock ticks."""

    pid: int
    parent: int
    session: int
    own: int
    reaped: int  # of terminated and reaped children, including their own

    @property
    def ticks(self) -> int:
        return self.own + self.reaped


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes: ``rss`` counts shared pages fully, ``pss`` proportionally."""

    rss: int
    pss: int


def parse_stat(text: str) -> Stat:
    """Parse one line of ``/proc/PID/stat``. The name, in parentheses, may contain spaces and parentheses."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return Stat(int(head.split(" ", 1)[0]), int(fields[1]), int(fields[3]), utime + stime, cutime + cstime)


def processes() -> list[Stat]:
    """Return all processes of the machine, except those that end meanwhile."""
    found = []
    for entry in os.listdir(PROC):
        if not entry.isdigit():
            continue
        try:
            found.append(parse_stat((PROC / entry / "stat").read_text()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def tree(root: int, everyone: Iterable[Stat]) -> list[Stat]:
    """Return ``root``, its descendants, and all other processes in the session that it leads.

    The session includes orphans (of a parent that forks and exits); the descendants include processes that started
    their own session.
    """
    everyone = list(everyone)
    members = {stat.pid for stat in everyone if root in (stat.pid, stat.session)}
    grown = True
    while grown:
        found = {stat.pid for stat in everyone if stat.parent in members}
        grown = not found <= members
        members |= found
    return [stat for stat in everyone if stat.pid in members]


def cpu_seconds(root: int) -> float:
    """Return the CPU seconds that the tree under ``root`` has used since it started."""
    return sum(stat.ticks for stat in tree(root, processes())) / TICKS_PER_SECOND


def run_nanoseconds(root: int) -> int:
    """Return the CPU nanoseconds that all threads which now run in the tree under ``root`` have used."""
    total = 0
    for stat in tree(root, processes()):
        for task in (PROC / str(stat.pid) / "task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended
    return total


def parse_kilobytes(text: str, key: str) -> int:
    """Return the value in bytes of the line ``key:   123 kB`` of a ``/proc`` file. Raises ``KeyError`` if it is
    missing."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise KeyError(key)


def memory(root: int) -> Memory:
    """Return the resident memory of the tree under ``root``, summed over its processes."""
    texts = [(PROC / str(stat.pid) / "smaps_rollup").read_text() for stat in tree(root, processes())]
    return Memory(*(sum(parse_kilobytes(text, key) for text in texts) for key in ("Rss", "Pss")))


def reset_peaks(root: int) -> None:
    """Reset the peak memory of each process of the tree to its current memory (proc(5), ``clear_refs``)."""
    for stat in tree(root, processes()):
        (PROC / str(stat.pid) / "clear_refs").write_text("5")


def peak_rss(root: int) -> int:
    """Return the sum over the tree of each process's peak memory in bytes since ``reset_peaks``."""
    return sum(
        parse_kilobytes((PROC / str(stat.pid) / "status").read_text(), "VmHWM") for stat in tree(root, processes())
    )


def open_files(root: int) -> int:
    """Count the open file descriptors in the tree under ``root``, which shows that connections were accepted."""
    return sum(len(os.listdir(PROC / str(stat.pid) / "fd")) for stat in tree(root, processes()))


def parse_busy(text: str) -> float:
    """Return the seconds that the machine's CPUs together were busy, given the text of ``/proc/stat``."""
    user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in text.split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND


def busy_seconds() -> float:
    """Return the seconds that the machine's CPUs together were busy since boot."""
    return parse_busy((PROC / "stat").read_text())
