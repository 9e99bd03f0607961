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


def _no_others() -> list[Path]:
    return []


async def watch(
    path: Path,
    changed: Callable[[], Awaitable[None]],
    *,
    others: Callable[[], list[Path]] = _no_others,
    interval: float = INTERVAL,
    settle: float = SETTLE,
) -> NoReturn:
    """Call ``changed`` whenever ``path`` has been written, replaced or removed, and then not changed for ``settle`` s.

    The same holds for the files that ``others`` lists at each poll, and for the list itself. Also calls it once at the
    beginning, because the file may have changed between its reading and the first poll.
    """

    def poll() -> list[tuple[Path, Stamp]]:
        return [(each, file_stamp(each)) for each in (path, *others())]

    before: list[tuple[Path, Stamp]] = []
    while True:
        # In a thread, because a file system may block.
        now = await asyncio.to_thread(poll)
        if now != before:
            await asyncio.sleep(settle)
            if await asyncio.to_thread(poll) != now:
                continue
            before = now
            await changed()
        await asyncio.sleep(interval)
