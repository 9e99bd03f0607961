"""Destination of access log lines: a file, standard output or standard error.

No request waits for a log that is in trouble. A disk may be full or slow; a pipe may be closed, or its reader may have
stopped reading. Lines then accumulate up to a limit, further lines are dropped and counted, and writing is retried in a
thread. Non-blocking descriptors cannot do this, since regular files do not support them.

Without trouble, lines are written immediately, on the event loop's thread. A write to a regular file goes to the page
cache and takes 0.3 µs per line. If standard output is a pipe, it is opened once more, because O_NONBLOCK on the
inherited descriptor would affect every process that shares it. A thread that is woken for each batch would take the
interpreter lock from the event loop, and would hold it while waiting for a CPU if CPUs are busy: the example shop
behind `passerelle up`, with both CPUs busy, served 13,500 requests a second with a writer thread and 19,000 without a
log. Writes that fail, are incomplete or take long leave the rest to the thread.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

# Maximum bytes queued for the thread. At 450 bytes a line, about 18,000 requests.
LIMIT_BYTES = 8 * 1024 * 1024

# POSIX: a write of up to PIPE_BUF bytes to a pipe is atomic; poll() reports a pipe as writable if it has that much
# room.
_PIPE_BYTES = select.PIPE_BUF
_RETRY_SECONDS = 1.0
_BUSY_SECONDS = 0.01

# An immediate write that takes this long indicates a busy disk; the thread then writes for the relief period.
_SLOW_SECONDS = 0.02
_RELIEF_SECONDS = 10.0
_WARN_SECONDS = 60.0
_STDOUT = 1


class LogSink:
    """Writes batches of lines to a file (opened for appending, created with mode 0640) or, for None, to ``fd``.

    Raises OSError if the file cannot be opened. ``put``, ``reopen``, ``counts`` and ``close`` must be called from one
    thread, the event loop's. ``warn`` is called in the sink's own thread with one sentence, at most once a minute.
    ``retry`` is the number of seconds between two attempts.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        fd: int = _STDOUT,
        limit: int = LIMIT_BYTES,
        warn: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        retry: float = _RETRY_SECONDS,
    ) -> None:
        self._path = path
        self._inherited = fd  # of this process, and perhaps of others: not closed, nor made non-blocking
        self._fd = _own_stream(fd) if path is None else _open(path)
        self._regular, self._pipe = _kind(self._fd)
        self._limit = limit
        self._warn = warn or to_stderr
        self._clock = clock
        self._retry = retry
        self._quiet_until = float("-inf")
        # Each counter has a single writer, so none needs a lock. Written by the event loop's thread:
        self._taken_bytes = 0
        self._refused_lines = 0
        self._direct_lines = 0
        self._direct_after = float("-inf")
        self._slow_writes = 0  # consecutive ones
        # Written by the sink's thread:
        self._done_bytes = 0
        self._written_lines = 0
        self._lost_lines = 0
        self._reported_lines = 0
        self._queue: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._wake = threading.Event()
        self._reopening = False
        self._closing = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def put(self, lines: list[bytes], size: int) -> None:
        """Take over complete lines, ``size`` bytes in total; drop them if the queue is full."""
        waiting = self._taken_bytes - self._done_bytes
        if self._closing or waiting + size > self._limit:
            self._refused_lines += len(lines)
            return
        at_once = self._regular or (self._pipe and self._fd != self._inherited)
        if at_once and not waiting and not self._reopening:  # the thread is idle and does not use the file
            lines = self._write_at_once(lines)
            if not lines:
                return
            size = sum(map(len, lines))
        self._taken_bytes += size
        self._queue.put(lines)

    def _write_at_once(self, lines: list[bytes]) -> list[bytes]:
        """Write as much as the file accepts without trouble; return the rest, starting with an incompletely written
        line."""
        begun = self._clock()
        if begun < self._direct_after:
            return lines
        done, rest = 0, []
        for data, count in self._portions(lines):
            done += count
            try:
                written = os.write(self._fd, data)
            except OSError:
                written = 0
            if written < len(data):
                rest = data[written:].splitlines(keepends=True) + lines[done:]
                break
        if self._regular:
            # One slow write may be due to the scheduler; two in a row are due to the disk.
            self._slow_writes = self._slow_writes + 1 if self._clock() - begun > _SLOW_SECONDS else 0
            if rest or self._slow_writes > 1:
                self._direct_after = begun + _RELIEF_SECONDS
        self._direct_lines += len(lines) - len(rest)
        return rest

    def reopen(self) -> None:
        """Open the path again, for example after log rotation; queued lines go to the old file if possible."""
        self._reopening = True
        self._wake_writer()

    def counts(self) -> tuple[int, int]:
        """Return the number of lines written and of lines dropped."""
        return self._direct_lines + self._written_lines, self._refused_lines + self._lost_lines

    def close(self, timeout: float) -> None:
        """Write queued lines for at most ``timeout`` seconds, drop the rest, and close the file."""
        self._closing = True
        self._wake_writer()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandoned = True
            self._wake_writer()
            self._thread.join(2 * self._retry)

    def _wake_writer(self) -> None:
        self._queue.put(None)
        self._wake.set()

    # The following methods run in the sink's thread.

    def _run(self) -> None:
        while True:
            lines = self._queue.get()
            if lines is not None:
                self._write(lines)
            elif self._reopening:
                self._reopen()
            if self._closing and self._queue.empty():
                break
        if self._fd != self._inherited:
            os.close(self._fd)

    def _write(self, lines: list[bytes]) -> None:
        for data, count in self._portions(lines):
            if self._abandoned or not self._write_all(data):
                self._lost_lines += count
            else:
                self._written_lines += count
            self._done_bytes += len(data)
        unreported = self._refused_lines + self._lost_lines
        if unreported > self._reported_lines and self._warn_once("could not keep up"):
            self._reported_lines = unreported

    def _portions(self, lines: list[bytes]) -> Iterator[tuple[bytes, int]]:
        """Split lines into single writes: for a pipe, as much as it takes atomically; otherwise the whole batch."""
        if not self._pipe:
            yield b"".join(lines), len(lines)
            return
        start = size = 0
        for index, line in enumerate(lines):
            if index > start and size + len(line) > _PIPE_BYTES:
                yield b"".join(lines[start:index]), index - start
                start, size = index, 0
            size += len(line)
        yield b"".join(lines[start:]), len(lines) - start

    def _write_all(self, data: bytes) -> bool:
        """Write all of ``data``, however long that takes; return False if the timeout of close() expired first."""
        view = memoryview(data)
        while view:
            if self._abandoned:
                return False
            try:
                if not self._ready():
                    self._warn_once("nothing reads it")
                    continue
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # another process that shares stdout made it non-blocking
                self._pause(_BUSY_SECONDS)
            except OSError as error:
                self._warn_once(error.strerror or type(error).__name__)
                self._pause(self._retry)
                if self._reopening:
                    self._reopen()
                    line = data.rfind(b"\n", 0, len(data) - len(view)) + 1
                    view = memoryview(data)[line:]
        return True

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _ready(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(self._retry * 1000))

    def _reopen(self) -> None:
        if self._path is not None:
            try:
                fd = _open(self._path)
            except OSError as error:
                self._warn_once(f"cannot be opened again: {error.strerror}")
            else:
                os.close(self._fd)
                self._fd = fd
                self._regular, self._pipe = _kind(fd)
        self._reopening = False  # last: from now on the event loop's thread may write

    def _warn_once(self, what: str) -> bool:
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + _WARN_SECONDS
        dropped = self._refused_lines + self._lost_lines
        where = self._path or ("stdout" if self._inherited == _STDOUT else "stderr")
        self._warn(f"access log ({where}): {what}; {dropped} lines dropped so far")
        return True


def _open(path: Path) -> int:
    # O_NONBLOCK: opening a named pipe without a reader fails instead of blocking. Regular files are unaffected.
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)


def _own_stream(fd: int) -> int:
    """Return ``fd``; a pipe is opened once more, if permitted, to get a separate non-blocking descriptor."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with suppress(OSError):  # no /proc, or a pipe of another user
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return fd


def _kind(fd: int) -> tuple[bool, bool]:
    """Return whether ``fd`` is a regular file, and whether it is a pipe."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode), stat.S_ISFIFO(mode)


def to_stderr(sentence: str) -> None:
    """Print a warning of a log to standard error."""
    print(f"passerelle: {sentence}", file=sys.stderr, flush=True)
