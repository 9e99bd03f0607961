"""The few calls to Linux that no orphan can be promised without: prctl(2) and /proc.

The runner is for Linux: process trees are found in /proc, exits are known by pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


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


class Proc(NamedTuple):
    """One line of the process table."""

    pid: int
    state: str
    parent: int
    group: int
    session: int


def _stat(pid: str) -> Proc | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None  # it ended in the meantime
    # The name stands in parentheses and may hold any character, a closing parenthesis among them (proc(5)).
    state, parent, group, session = text[text.rindex(b")") + 2 :].split(b" ", 4)[:4]
    return Proc(int(pid), state.decode(), int(parent), int(group), int(session))


def processes() -> Iterator[Proc]:
    """Every live process that /proc shows. Zombies are left out: they hold nothing and cannot be signalled."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (proc := _stat(name)) is not None and proc.state not in "ZX":
            yield proc


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
    """
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for proc in processes():
        children.setdefault(proc.parent, []).append(proc.pid)
        if proc.session == session or _environment_has(proc.pid, marker):
            found.add(proc.pid)
    return found | _below(found, children)


def descendants(pid: int) -> set[int]:
    """The live processes below ``pid``, itself left out."""
    children: dict[int, list[int]] = {}
    for proc in processes():
        children.setdefault(proc.parent, []).append(proc.pid)
    return _below({pid}, children) - {pid}


def _below(roots: set[int], children: dict[int, list[int]]) -> set[int]:
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
