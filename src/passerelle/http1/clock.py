"""A coarse clock shared by the connections of a worker, so that requests need not read the system clock."""

from __future__ import annotations

import time

from passerelle.http1.serialize import date_line


class Clock:
    """Time, updated by :meth:`tick` only.

    ``now`` is in monotonic seconds (``time.perf_counter``); ``date`` is the Date field line with its CRLF. ``offset``
    is the difference between seconds since 1970 and monotonic seconds: where both are needed, one clock read and an
    addition replace two reads (0.05 us each).
    """

    __slots__ = ("_second", "date", "now", "offset")

    def __init__(self) -> None:
        self._second = 0
        self.now = 0.0
        self.offset = 0.0
        self.date = b""
        self.tick(time.perf_counter(), time.time())

    def tick(self, now: float, epoch: float) -> float:
        """Set the time to ``now`` (monotonic seconds) and ``epoch`` (seconds since 1970).

        Return by how many seconds the system clock was changed since the last call; negative if it was set back.
        """
        before = self.offset
        self.now = now
        self.offset = epoch - now
        if int(epoch) != self._second:
            self._second = int(epoch)
            self.date = date_line(epoch)
        return self.offset - before
