"""What the threads of the application server do, in memory that the supervisor reads.

The supervisor passes a memory file (memfd_create(2)); without one, the numbers stay in this process. Each thread writes
only its own numbers, so there is no lock and no system call: 1.2 µs a request, two readings of the clock included.
All numbers are doubles:

- the number of places for threads, the number of requests in the queue when the last one was queued or taken, the
  number of threads that run, and whether the instance has handled as many requests as it may,
- for each thread: calls that have ended, their seconds, the seconds that they were queued, and the time
  (CLOCK_MONOTONIC) at which the call in progress began, or 0.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from typing import NamedTuple

_DOUBLE = 8
_HEADER = 4
_PER_THREAD = 4
MOST_THREADS = 1024
SIZE = _DOUBLE * (_HEADER + _PER_THREAD * MOST_THREADS)
"""The size of the memory file in bytes."""


class ThreadStats:
    """The numbers of at most ``threads`` threads, in the memory file ``fd`` (which is closed) or in this process."""

    def __init__(self, threads: int, fd: int | None = None) -> None:
        memory: mmap.mmap | bytearray = bytearray(_DOUBLE * (_HEADER + _PER_THREAD * threads))
        if fd is not None and threads <= MOST_THREADS:
            memory = mmap.mmap(fd, SIZE)
            os.close(fd)
        self.values = memoryview(memory).cast("d")
        self.values[0] = self.values[2] = threads

    def set_threads(self, count: int) -> None:
        """Set the number of threads that run, at most that of the places."""
        self.values[2] = count

    def set_worn(self) -> None:
        """Record that the instance has reached ``max_requests``, so that it is replaced."""
        self.values[3] = 1.0

    def set_queued(self, count: int) -> None:
        """Set the number of queued requests."""
        self.values[1] = count

    def begin(self, thread: int, queued_at: float, now: float) -> None:
        """Record that ``thread`` has taken a request at ``now`` that was queued at ``queued_at``."""
        values, place = self.values, _HEADER + _PER_THREAD * thread
        values[place + 2] += now - queued_at
        values[place + 3] = now

    def end(self, thread: int, now: float) -> None:
        """Record that the call of ``thread`` has ended at ``now``."""
        values, place = self.values, _HEADER + _PER_THREAD * thread
        values[place + 1] += now - values[place + 3]
        values[place] += 1.0
        values[place + 3] = 0.0


class ThreadUse(NamedTuple):
    """Sums over the threads of one instance at one time; seconds include those of calls in progress."""

    threads: int
    queued: float
    calls: float
    busy_seconds: float
    queued_seconds: float
    longest: float  # seconds of the call in progress that began first; 0 without one


def decode(data: bytes, now: float) -> ThreadUse | None:
    """Decode the contents of a memory file at ``now``; None if no server has written to it, or not this format."""
    if len(data) < SIZE:
        return None
    values: Sequence[float] = memoryview(data[: len(data) // _DOUBLE * _DOUBLE]).cast("d")
    places, threads = values[0], values[2]
    if not 1 <= places <= MOST_THREADS or not 0 <= threads <= places:
        return None
    number = int(places)
    used = values[: _HEADER + _PER_THREAD * number]
    if not all(math.isfinite(value) and value >= 0 for value in used):
        return None
    running = [max(0.0, now - began) for began in used[_HEADER + 3 :: _PER_THREAD] if began]
    return ThreadUse(
        int(threads),
        used[1],
        sum(used[_HEADER::_PER_THREAD]),
        sum(used[_HEADER + 1 :: _PER_THREAD]) + sum(running),
        sum(used[_HEADER + 2 :: _PER_THREAD]),
        max(running, default=0.0),
    )


def is_worn(fd: int) -> bool:
    """Whether the instance that writes to the memory file ``fd`` has called :meth:`ThreadStats.set_worn`."""
    return memoryview(os.pread(fd, _DOUBLE * _HEADER, 0)).cast("d")[3] == 1.0


def make_file() -> int:
    """Create a memory file and return its descriptor. :raises OSError: if there is none left."""
    fd = os.memfd_create("passerelle-threads")
    try:
        os.ftruncate(fd, SIZE)
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int, now: float) -> ThreadUse | None:
    """Read the memory file ``fd`` at ``now``, a time of CLOCK_MONOTONIC."""
    return decode(os.pread(fd, SIZE, 0), now)
