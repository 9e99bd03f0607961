"""The few calls to Linux that no orphan can be promised without: prctl(2) and /proc.

The runner is for Linux: process trees are found in /proc, exits are known by pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import NamedTuple

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_LOOKS = 10


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent(parent: int, sig: signal.Signals) -> None:
    """Have ``sig`` sent to this process when its parent, whose pid must be ``parent``, ends for whatever reason.

    If the parent is gone already the signal comes at once: the kernel only tells of a death still to come.
    """
    _prctl(_PR_SET_PDEATHSIG, sig)
    if os.getppid() != parent:
        os.kill(os.getpid(), sig)


def become_subreaper() -> None:
    """Make orphaned descendants of this process its own children, instead of init's, so that it can end them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hangup_is_ignored() -> bool:
    """Whether this process was started by nohup(1) or the like: the end of its terminal must not be its own."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that has not hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class ProcessEntry(NamedTuple):
    """One line of the process table."""

    pid: int
    state: str
    parent: int
    group: int
    session: int


def _stat(pid: str) -> ProcessEntry | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None  # it ended in the meantime
    # The name stands in parentheses and may hold any character, a closing parenthesis among them (proc(5)).
    state, parent, group, session = text[text.rindex(b")") + 2 :].split(b" ", 4)[:4]
    return ProcessEntry(int(pid), state.decode(), int(parent), int(group), int(session))


def _table() -> tuple[list[ProcessEntry], set[int]]:
    """The live processes, and the pids that were listed but have ended: gone by now, or zombies."""
    live: list[ProcessEntry] = []
    ended: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        proc = _stat(name)
        if proc is None or proc.state in "ZX":
            ended.add(int(name))
        else:
            live.append(proc)
    return live, ended


def _environment_has(pid: int, entry: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return entry in file.read().split(b"\0")
    except OSError:
        return False  # another user's, or gone


def members(session: int, marker: bytes) -> set[int]:
    """The live processes that belong to one started command: its pids.

    Those of its ``session``; those whose environment holds ``marker`` (``NAME=value``), which a process keeps when it
    daemonises; and the descendants of either.

    One look at /proc proves nothing while processes fork and exit: a parent may be gone when its line is read, and its
    child too young to be listed. So an empty answer is given only when a look met no process that ended since the one
    before, or after ``_LOOKS`` looks (another part of a busy machine may well start processes all the time).
    """
    known = {session}
    for _ in range(_LOOKS):
        live, ended = _table()
        found = {proc.pid for proc in live if proc.session == session or _environment_has(proc.pid, marker)}
        if found or ended <= known:
            return found | _below(found, live)
        known |= ended
    return set()


def descendants(pid: int) -> set[int]:
    """The live processes below ``pid``, itself left out."""
    return _below({pid}, _table()[0]) - {pid}


def _below(roots: set[int], live: list[ProcessEntry]) -> set[int]:
    children: dict[int, list[int]] = {}
    for proc in live:
        children.setdefault(proc.parent, []).append(proc.pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def send(pids: set[int], sig: signal.Signals) -> None:
    """Signal each of ``pids``; those that are gone, or are not ours to signal, are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sig)
