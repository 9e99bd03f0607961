"""File descriptors of a worker: client connections are refused while there are some left for its own work."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from time import monotonic

# Descriptors that client connections leave free, for files, and for connections to services.
SPARE = 16
# Minimum seconds between two log lines.
REPORT_INTERVAL = 10.0


class DescriptorLimit:
    """Refuses client connections near the ``limit`` of descriptors, and logs it at most every 10 seconds.

    Beyond the limit itself, the event loop closes connections without a response, and reports nothing.
    """

    __slots__ = ("_clock", "_highest", "_limit", "_reported", "_unreported", "_warn", "refused")

    def __init__(self, limit: int, warn: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        self._limit = limit
        self._highest = limit - min(SPARE, limit // 4)
        self._warn = warn
        self._clock = clock
        self._reported = -REPORT_INTERVAL
        self._unreported = 0  # refused connections since the last line
        self.refused = 0

    def refuses(self, transport: asyncio.BaseTransport) -> bool:
        """Whether the new connection of ``transport`` must be refused, which is counted.

        The kernel assigns the lowest free number, so a high one means that hardly any is left.
        """
        if transport.get_extra_info("socket").fileno() < self._highest:
            return False
        self.refused += 1
        self._unreported += 1
        self._report()
        return True

    def check(self) -> None:
        """Report refused connections that no line has reported yet, and whether no descriptor is left at all."""
        if self._unreported or self._is_exhausted():
            self._report()

    def _report(self) -> None:
        now = self._clock()
        if now - self._reported >= REPORT_INTERVAL:
            self._warn(
                f"out of file descriptors (limit {self._limit}): {self._unreported} client connections refused; "
                "raise the limit (ulimit -n, LimitNOFILE) or lower limits.connections"
            )
            self._reported, self._unreported = now, 0

    @staticmethod
    def _is_exhausted() -> bool:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return error.errno in (errno.EMFILE, errno.ENFILE)
        return False
