"""Linux calls: prctl(2) and /proc, which prevent orphaned processes, and what a socket has not sent yet.

The supervisor requires Linux: it finds process trees in /proc and detects exits with pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
from typing import NamedTuple

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

# <linux/sockios.h>
_SIOCOUTQ = 0x5411

_MAX_SCANS = 10


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent(parent: int, sig: signal.Signals) -> None:
    """Send ``sig`` to this process when its parent, whose pid must be ``parent``, ends for any reason.

    If the parent has ended already, the signal is sent at once: the kernel reports only a future death.
    """
    _prctl(_PR_SET_PDEATHSIG, sig)
    if os.getppid() != parent:
        os.kill(os.getpid(), sig)


def parent_death_signal() -> int:
    """Return the signal that this process gets at the end of its parent, or 0."""
    found = ctypes.c_int(0)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_PDEATHSIG, ctypes.byref(found), 0, 0, 0)
    return found.value


def allow_own_proc() -> None:
    """Give /proc/self back to the user of this process, after a change of the user has made it root's."""
    _prctl(_PR_SET_DUMPABLE, 1)


def owner(pid: int) -> int | None:
    """Return the user of a process; None if it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next(int(line.split()[2]) for line in file if line.startswith(b"Uid:"))  # the effective one
    except (OSError, StopIteration):
        return None


def become_subreaper() -> None:
    """Make this process, instead of init, the parent of its orphaned descendants, so that it can end them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def unsent_bytes(descriptor: int) -> int:
    """Return the bytes in the send queue of a TCP socket that its peer has not acknowledged; 0 for a closed socket."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, _SIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def hangup_is_ignored() -> bool:
    """Whether SIGHUP was ignored at the start, as under nohup(1): the end of the terminal must not end this process."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that has not hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class ProcessEntry(NamedTuple):
    """One entry of the process table."""

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
        return None  # the process has ended
    # The process name is in parentheses and may contain any character, including a closing parenthesis (proc(5)).
    state, parent, group, session = text[text.rindex(b")") + 2 :].split(b" ", 4)[:4]
    return ProcessEntry(int(pid), state.decode(), int(parent), int(group), int(session))


def _table() -> tuple[list[ProcessEntry], set[int]]:
    """Return the live processes, and the pids of listed processes that have ended (gone, or zombies)."""
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
        return False  # the process belongs to another user, or has ended


def members(session: int, marker: bytes) -> set[int]:
    """Return the pids of the live processes that belong to one started command.

    These are the processes of its ``session``; processes whose environment contains ``marker`` (``NAME=value``), which
    a daemonized process keeps; and the descendants of both.

    A single scan of /proc is unreliable while processes fork and exit: a parent may have ended before its entry is
    read, while its child is too young to be listed. An empty result is therefore returned only after a scan without
    newly ended processes, or after ``_MAX_SCANS`` scans (other programs on a busy machine may start processes all the
    time).
    """
    known = {session}
    for _ in range(_MAX_SCANS):
        live, ended = _table()
        found = {proc.pid for proc in live if proc.session == session or _environment_has(proc.pid, marker)}
        if found or ended <= known:
            return found | _below(found, live)
        known |= ended
    return set()


def descendants(pid: int) -> set[int]:
    """Return the pids of the live processes below ``pid``, without ``pid`` itself."""
    return _below({pid}, _table()[0]) - {pid}


def children() -> dict[int, list[int]]:
    """Return the pids of the live children of each process."""
    return _children(_table()[0])


def _children(live: list[ProcessEntry]) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for proc in live:
        children.setdefault(proc.parent, []).append(proc.pid)
    return children


def _below(roots: set[int], live: list[ProcessEntry]) -> set[int]:
    children = _children(live)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def send(pids: set[int], sig: signal.Signals) -> None:
    """Send ``sig`` to each of ``pids``; skip processes that are gone or that this user may not signal."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sig)
