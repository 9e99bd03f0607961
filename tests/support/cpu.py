"""The CPU time of what a test calls."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def cpu_timer() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the CPU seconds of this thread since the beginning.

    Other threads do not count. There is no garbage collection meanwhile: it would look through what thousands of tests
    have left in the process, and take longer than what is measured.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    begun = time.thread_time()
    try:
        yield lambda: time.thread_time() - begun
    finally:
        if was_enabled:
            gc.enable()
