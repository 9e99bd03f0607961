"""Write to the terminal, a pipe or a file without blocking.

A reader that stops reading (a paused terminal, a stuck pipe) must not block the supervisor, which would then no longer
drain the pipes of its children and block them too. So a thread writes, from a bounded buffer.
"""

from __future__ import annotations

import errno
import os
import select
import threading

LIMIT = 4 * 1024 * 1024
_TEMPORARY = frozenset({errno.ENOSPC, errno.EDQUOT})


class Output:
    """Writes to ``fd`` through a buffer of ``limit`` bytes. Lines that do not fit are dropped and counted."""

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
        """Append ``data``, which consists of whole lines, to the buffer. Returns at once."""
        with self._changed:
            if self._closed:
                return
            if self._size + len(data) > self._limit:
                self._lost += data.count(b"\n") or 1
                return
            if self._lost:
                note = b"(%d lines of output dropped: the reader did not read them)\n" % self._lost
                self._lost = 0
                self._parts.append(note)
                self._size += len(note)
            self._parts.append(data)
            self._size += len(data)
            self._changed.notify()

    def close(self, timeout: float = 1.0) -> None:
        """Write the rest of the buffer, for at most ``timeout`` seconds."""
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
                    # The terminal or the reader is gone. The services go on, and their output is discarded.
                    self._closed = True
                    self._parts.clear()
                    return

    def _put(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view[:65536]) :]
            except BlockingIOError:  # another process that shares the descriptor has made it non-blocking
                select.select([], [self._fd], [])
            except OSError as error:
                # A full disk may have room again later, so only this piece is lost.
                return error.errno in _TEMPORARY
        return True
