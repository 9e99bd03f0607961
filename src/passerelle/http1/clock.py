"""A coarse clock that a worker's connections share, so that no request has to ask for the time."""

from __future__ import annotations

import time

from passerelle.http1.serialize import date_line


class Clock:
    """``now``: monotonic seconds (those of ``time.perf_counter``); ``date``: the Date field line, CRLF included.

    ``offset`` is what is added to monotonic seconds to have those since 1970: one clock read instead of two where both
    are wanted (0.05 us each). All three stand still between two calls of :meth:`tick`.
    """

    __slots__ = ("_second", "date", "now", "offset")

    def __init__(self) -> None:
        self._second = 0
        self.now = 0.0
        self.offset = 0.0
        self.date = b""
        self.tick(time.perf_counter(), time.time())

    def tick(self, now: float, epoch: float) -> float:
        """Move on to ``now`` (monotonic) and ``epoch`` (seconds since 1970).

        Gives by how many seconds somebody has set the clock of the machine since the last call, negative for back.
        """
        before = self.offset
        self.now = now
        self.offset = epoch - now
        if int(epoch) != self._second:
            self._second = int(epoch)
            self.date = date_line(epoch)
        return self.offset - before
