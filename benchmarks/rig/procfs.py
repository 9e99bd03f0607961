"""What the kernel says about CPU time and memory (proc(5)), of whole process trees.

CPU time is user + system time of every process of a tree, its threads and its children that are gone. The kernel
derives it from the scheduler's own clock and shows it in ticks of 10 ms, so three seconds of load are exact to
about 0.3 % even when other processes compete for the CPU; requests per second are not.
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
    """The fields of ``/proc/PID/stat`` that the rig reads; times in clock ticks."""

    pid: int
    parent: int
    session: int
    own: int
    reaped: int  # of children that are gone and were waited for, theirs included

    @property
    def ticks(self) -> int:
        return self.own + self.reaped


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes: ``rss`` counts shared pages whole, ``pss`` by its share of them."""

    rss: int
    pss: int


def parse_stat(text: str) -> Stat:
    """Read one line of ``/proc/PID/stat``. The name, in parentheses, may itself hold blanks and parentheses."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return Stat(int(head.split(" ", 1)[0]), int(fields[1]), int(fields[3]), utime + stime, cutime + cstime)


def processes() -> list[Stat]:
    """Every process of the machine, as of now; one that ends meanwhile is left out."""
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
    """``root``, its descendants, and everything else in the session that it leads.

    The session finds what was orphaned (a master that forks and leaves); the parents find what made a session of
    its own.
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
    """CPU seconds that the tree under ``root`` has used since it started."""
    return sum(stat.ticks for stat in tree(root, processes())) / TICKS_PER_SECOND


def parse_kilobytes(text: str, key: str) -> int:
    """The value in bytes of the line ``key:   123 kB`` of a ``/proc`` file. Raises ``KeyError`` without one."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise KeyError(key)


def memory(root: int) -> Memory:
    """Resident memory of the tree under ``root``, added up over its processes."""
    texts = [(PROC / str(stat.pid) / "smaps_rollup").read_text() for stat in tree(root, processes())]
    return Memory(*(sum(parse_kilobytes(text, key) for text in texts) for key in ("Rss", "Pss")))


def reset_peaks(root: int) -> None:
    """Let the peak of each process of the tree start again from what it holds now (proc(5), ``clear_refs``)."""
    for stat in tree(root, processes()):
        (PROC / str(stat.pid) / "clear_refs").write_text("5")


def peak_rss(root: int) -> int:
    """Bytes: the sum over the tree of the most that each process has held since ``reset_peaks``."""
    return sum(
        parse_kilobytes((PROC / str(stat.pid) / "status").read_text(), "VmHWM") for stat in tree(root, processes())
    )


def open_files(root: int) -> int:
    """How many file descriptors the tree under ``root`` holds: a way to see that connections were accepted."""
    return sum(len(os.listdir(PROC / str(stat.pid) / "fd")) for stat in tree(root, processes()))


def parse_busy(text: str) -> float:
    """Seconds for which the machine's CPUs together have worked, from the text of ``/proc/stat``."""
    user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in text.split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND


def busy_seconds() -> float:
    """Seconds for which the machine's CPUs together have worked since it started."""
    return parse_busy((PROC / "stat").read_text())
