"""What the threads of the application server do, as the supervisor reads it."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.appserver import thread_stats
from passerelle.appserver.thread_stats import SIZE, ThreadStats, ThreadUse, decode


def test_numbers_cross_processes() -> None:
    fd = thread_stats.make_file()
    pid = os.fork()
    if pid == 0:
        stats = ThreadStats(2, os.dup(fd))
        stats.begin(0, queued_at=10.0, now=10.5)
        stats.end(0, now=12.5)
        stats.begin(1, queued_at=11.0, now=12.0)
        stats.set_queued(3)
        os._exit(0)
    os.waitpid(pid, 0)
    # One call of 2 s, and one in progress since 12.0.
    assert thread_stats.read(fd, 15.0) == ThreadUse(2, 3.0, 1.0, 5.0, 1.5, 3.0)
    os.close(fd)


def test_a_file_that_no_server_has_written_has_no_numbers() -> None:
    fd = thread_stats.make_file()
    assert thread_stats.read(fd, 1.0) is None
    os.ftruncate(fd, 5)
    assert thread_stats.read(fd, 1.0) is None
    os.close(fd)


@pytest.mark.parametrize("values", [(0.0,), (-1.0,), (float("nan"),), (1e300,), (2.0, float("inf")), (1.0, 0.0, -5.0)])
def test_what_an_application_may_write_instead_is_ignored(values: tuple[float, ...]) -> None:
    data = struct.pack(f"{len(values)}d", *values).ljust(SIZE, b"\0")
    assert decode(data, 1.0) is None


@given(st.binary(max_size=SIZE + 9), st.floats(0, 1e9))
def test_any_octets_are_safe(data: bytes, now: float) -> None:
    decode(data, now)
    decode(data.ljust(SIZE, b"\0"), now)


def test_many_threads_stay_in_memory_of_the_process() -> None:
    fd = thread_stats.make_file()
    ThreadStats(thread_stats.MOST_THREADS + 1, fd).begin(thread_stats.MOST_THREADS, 1.0, 2.0)
    assert thread_stats.read(fd, 1.0) is None
    os.close(fd)
