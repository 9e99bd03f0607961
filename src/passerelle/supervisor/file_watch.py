"""Watch a file by polling its times and its inode.

No system call reports every kind of change, such as a symbolic link in the path that is replaced, or a change in a
network file system.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from passerelle.discovery.file import Stamp, file_stamp

INTERVAL = 1.0  # seconds between two polls
SETTLE = 0.2  # seconds without a change before the file is read, because it may be half written


async def watch(
    path: Path, changed: Callable[[], Awaitable[None]], *, interval: float = INTERVAL, settle: float = SETTLE
) -> NoReturn:
    """Call ``changed`` whenever ``path`` has been written, replaced or removed, and then not changed for ``settle`` s.

    Also calls it once at the beginning, because the file may have changed between its reading and the first poll.
    """
    before: Stamp | str = "not polled yet"
    while True:
        # In a thread, because a file system may block.
        now = await asyncio.to_thread(file_stamp, path)
        if now != before:
            await asyncio.sleep(settle)
            if await asyncio.to_thread(file_stamp, path) != now:
                continue
            before = now
            await changed()
        await asyncio.sleep(interval)
