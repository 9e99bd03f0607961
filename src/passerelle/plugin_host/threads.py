"""A bounded pool of threads for the plain functions of one plugin.

Its threads are daemons: a function that never returns keeps its thread, but it does not keep the process alive.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MOST_WAITING = 256
"""The number of calls that may wait for a thread; more are refused."""


class ThreadPool:
    """At most ``size`` threads, which are started when they are needed. Calls begin in the order of submission."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, job: Callable[[], None]) -> bool:
        """Run ``job``, which raises nothing, in a thread. Return False if too many jobs wait."""
        with self._changed:
            if self._closed or len(self._jobs) >= MOST_WAITING:
                return False
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._changed.notify()
                return True
            start = self._threads < self._size
            if start:
                self._threads += 1
                number = self._threads
        if start:
            threading.Thread(target=self._work, name=f"plugin-{self._name}-{number}", daemon=True).start()
        return True

    def close(self) -> None:
        """End the threads once they have done what was submitted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._jobs and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            job()
