"""Writing to the terminal, a pipe or a file without ever waiting for it.

A reader that stops (a paused terminal, a stuck pipe) must not stop the supervisor: it would no longer drain its
children's pipes, and they would stop with it. So a thread of its own writes, out of a bounded buffer.
"""

from __future__ import annotations

import errno
import os
import select
import threading

LIMIT = 4 * 1024 * 1024
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT})


class Output:
    """Appends to ``fd``. :meth:`write` returns at once; what does not fit in ``limit`` bytes is dropped and counted."""

    def __init__(self, fd: int, *, limit: int = LIMIT) -> None:
        self._fd = fd
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take ``data``, whole lines, to be written in order."""
        with self._changed:
            if self._closed:
                return
            if self._size + len(data) > self._limit:
                self._lost += data.count(b"\n") or 1
                return
            if self._lost:
                note = b"(%d lines of output dropped: nobody read them)\n" % self._lost
                self._lost = 0
                self._parts.append(note)
                self._size += len(note)
            self._parts.append(data)
            self._size += len(data)
            self._changed.notify()

    def close(self, timeout: float = 1.0) -> None:
        """Write what is left, for at most ``timeout`` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._parts and not self._closed:
                    self._changed.wait()
                if not self._parts:
                    return
                data = b"".join(self._parts)
                self._parts.clear()
            written = self._put(data)
            with self._changed:
                self._size -= len(data)
                if not written:
                    # The terminal or the reader is gone. The services are not: they go on unheard.
                    self._closed = True
                    self._parts.clear()
                    return

    def _put(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view[:65536]) :]
            except BlockingIOError:  # somebody who shares the descriptor made it so
                select.select([], [self._fd], [])
            except OSError as error:
                # A full disk may have room again later: this piece is lost, the next may not be.
                return error.errno in _PASSING
        return True
