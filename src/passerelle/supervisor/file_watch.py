"""A file that is looked at again and again, by its times and its place: no system call tells of every kind of change
(a link on the way that leads elsewhere, a network's file system)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from passerelle.discovery.file import Stamp, file_stamp

LOOK = 1.0  # seconds between two looks
STILL = 0.2  # seconds that a file must stay as it is before it is read: it may be half written


async def watch(
    path: Path, changed: Callable[[], Awaitable[None]], *, look: float = LOOK, still: float = STILL
) -> NoReturn:
    """Call ``changed`` when ``path`` was written, replaced or taken away, and is still again; and once to begin with,
    for what happened between its reading and now."""
    before: Stamp | str = "never looked at"
    while True:
        # In a thread: a file may be on a disk that does not answer.
        now = await asyncio.to_thread(file_stamp, path)
        if now != before:
            await asyncio.sleep(still)
            if await asyncio.to_thread(file_stamp, path) != now:
                continue
            before = now
            await changed()
        await asyncio.sleep(look)
