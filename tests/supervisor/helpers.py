"""Helpers of the tests: wait for a condition with a bound, find survivors in /proc."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PYTHON = sys.executable
FILE_SERVER = Path(__file__).with_name("file_server.py")  # for `run: [python, -S, FILE_SERVER, "{port}"]`


def run(work: Coroutine[Any, Any, T], limit: float = 20.0) -> T:
    """Run ``work`` in its own event loop; fail after ``limit`` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await work

    return asyncio.run(bounded())


async def until(condition: Callable[[], object], limit: float = 10.0, what: object = "") -> None:
    """Wait until ``condition`` is true; fail after ``limit`` seconds.

    Pauses become longer: many conditions cost CPU time of the processes under test.
    """
    end, pause = time.monotonic() + limit, 0.005
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what() if callable(what) else what or condition}"
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, 0.05)


def until_now(condition: Callable[[], object], limit: float = 10.0, what: object = "") -> None:
    """Wait like :func:`until`, without an event loop."""
    end, pause = time.monotonic() + limit, 0.005
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what() if callable(what) else what or condition}"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)


def alive(entry: str) -> dict[int, str]:
    """Return pid and command of the other live processes with ``entry`` (``NAME=value``) in their environment."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if entry.encode() not in file.read().split(b"\0"):
                    continue
            with open(f"/proc/{name}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] in b"ZX":
                    continue
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found[int(name)] = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found
