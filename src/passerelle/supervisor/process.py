"""A child process and everything it starts: spawned in its own session, watched, and stopped as a whole.

The exit of the child is detected by a pidfd (pidfd_open(2)), not by the end of its output, which a grandchild may hold
open for ever. The child is not reaped before its whole tree is gone. Until then the kernel does not reuse its pid,
which is also the id of its process group and session, so that signals cannot reach an unrelated process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from passerelle.supervisor.line_splitter import LineBuffer, LineSplitter
from passerelle.system import descriptors, linux

# An environment variable of every process that a command starts, including daemons that leave its session.
MARKER = "PASSERELLE_PROCESS"

_CHUNK = 64 * 1024
# Pipe size for output that is passed on unchanged: at 450 bytes a line, what a gateway logs in a tenth of a second.
_LARGE_PIPE = 1024 * 1024
_TAIL = 10  # last lines of the output that are kept for the report of a failed start
_LEFT_GRACE = 0.5  # seconds between SIGTERM and SIGKILL for the processes that an exited child has left behind
_KILL_LIMIT = 5.0  # seconds after SIGKILL until a process in an uninterruptible wait is given up
_DRAIN_LIMIT = 0.5  # seconds to read the rest of the output when the tree is gone


class StartFailed(Exception):
    """The command could not be started. The text is the reason."""


def describe_exit(code: int) -> str:
    """Describe a :attr:`Process.returncode`, as ``exited with code 1`` or ``was ended by SIGKILL``."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class Process:
    """A command that was started by :meth:`spawn`, on a running event loop.

    ``returncode`` is None while the child runs, then its exit code, or the negative number of the signal that ended it.
    ``tail`` has the last lines of its output. ``unkillable`` has the pids that survived SIGKILL.
    """

    def __init__(
        self, name: str, popen: subprocess.Popen[bytes], marker: bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.pid = popen.pid
        self.started = clock()
        self.returncode: int | None = None
        self.tail: deque[bytes] = deque(maxlen=_TAIL)
        self.unkillable: set[int] = set()
        self._clock = clock
        self._popen = popen
        self._marker = marker
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        self._drained = asyncio.Event()
        self._closed = asyncio.Event()
        self._kill_at: float | None = None
        self._hurry = asyncio.Event()
        self._pidfd = os.pidfd_open(popen.pid)
        self._pipes: dict[int, Callable[[bytes], None]] = {}
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def spawn(
        cls,
        name: str,
        argv: Sequence[str],
        *,
        on_line: Callable[[bytes], None],
        on_raw: Callable[[bytes], None] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start ``argv``, with ``env`` added to the environment of this process.

        ``on_line`` is called with each line of the output. With ``on_raw``, standard output goes there instead, in
        pieces that end at the end of a line.

        :raises StartFailed: if the command or directory does not exist, or may not be used.
        """
        token = secrets.token_hex(8)
        pipes: list[int] = []
        try:
            for _ in range(1 if on_raw is None else 2):
                pipes += os.pipe()
        except OSError as problem:
            for fd in pipes:
                os.close(fd)
            raise StartFailed(_start_problem(argv, cwd, problem)) from problem
        outer, outer_child, error, error_child = pipes if on_raw is not None else (*pipes, -1, pipes[1])
        if on_raw is not None:
            with contextlib.suppress(OSError):  # beyond the limit of pipe memory per user, the pipe stays small
                fcntl.fcntl(outer, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        try:
            with descriptors.original_limit():
                popen = subprocess.Popen(  # noqa: S603 - the configuration defines the command
                    list(argv),
                    env={**os.environ, **(env or {}), MARKER: token},
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=outer_child,
                    stderr=error_child,
                    pass_fds=pass_fds,
                    start_new_session=True,
                )
            process = cls._of(name, popen, f"{MARKER}={token}".encode())
        except (OSError, ValueError) as problem:
            for fd in (outer, error):
                if fd >= 0:
                    os.close(fd)
            raise StartFailed(_start_problem(argv, cwd, problem)) from problem
        finally:
            for fd in {outer_child, error_child}:
                os.close(fd)
        if on_raw is None:
            process._read_lines(outer, on_line)
        else:
            process._read_raw(outer, on_raw)
            process._read_lines(error, on_line)
        return process

    @classmethod
    def _of(cls, name: str, popen: subprocess.Popen[bytes], marker: bytes) -> Process:
        """Return the process of ``popen``; without a descriptor to watch it with, it is ended and OSError is raised."""
        try:
            return cls(name, popen, marker)
        except OSError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            raise

    # Output

    def _read_lines(self, fd: int, on_line: Callable[[bytes], None]) -> None:
        lines = LineSplitter()

        def take(data: bytes) -> None:
            for line in lines.feed(data) if data else lines.flush():
                self.tail.append(line)
                on_line(line)

        self._read(fd, take)

    def _read_raw(self, fd: int, on_raw: Callable[[bytes], None]) -> None:
        whole = LineBuffer()

        def take(data: bytes) -> None:
            out = whole.feed(data) if data else whole.flush()
            if out:
                on_raw(out)

        self._read(fd, take)

    def _read(self, fd: int, take: Callable[[bytes], None]) -> None:
        os.set_blocking(fd, False)
        self._pipes[fd] = take
        self._loop.add_reader(fd, self._on_readable, fd)

    def _on_readable(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._pipes[fd](data)
        else:
            self._close_pipe(fd)

    def _close_pipe(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        os.close(fd)
        self._pipes.pop(fd)(b"")
        if not self._pipes:
            self._drained.set()

    # Exit

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # WNOWAIT: leave the child a zombie (see the docstring of the module).
        state = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert state is not None
        self.returncode = state.si_status if state.si_code == os.CLD_EXITED else -state.si_status
        self._exited.set()
        self._closing = self._loop.create_task(self._close())

    async def wait(self) -> int:
        """Wait until the child has exited, and return its code. Processes that it has started may still run."""
        await self._exited.wait()
        assert self.returncode is not None
        return self.returncode

    async def closed(self) -> int:
        """Wait until the child and everything it started are gone and the output is read. Returns the exit code."""
        await self._closed.wait()
        return await self.wait()

    async def stop(self, grace: float) -> int:
        """Stop the whole tree: SIGTERM, after ``grace`` seconds SIGKILL. Returns the exit code when it is gone.

        May be called again with a shorter ``grace`` while the first call waits.
        """
        at = self._clock() + grace
        first = self._kill_at is None
        self._kill_at = at if self._kill_at is None else min(at, self._kill_at)
        self._hurry.set()
        if not self._exited.is_set():
            if first and grace > 0:
                # The process group first, which is exact and cheap. Processes in other groups follow in _end_tree.
                self._signal_group(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), max(0.0, self._kill_at - self._clock()))
            if not self._exited.is_set():
                linux.send(self._members() | {self.pid}, signal.SIGKILL)
        return await self.closed()

    def kill(self) -> None:
        """Send SIGKILL to the whole tree."""
        self._kill_at = self._clock()
        self._hurry.set()
        if not self._closed.is_set():
            linux.send(self._members(), signal.SIGKILL)

    def _signal_group(self, sig: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, sig)

    def _members(self) -> set[int]:
        try:
            return linux.members(self.pid, self._marker)
        except OSError:
            # No descriptor is left to read /proc. The group is known, and the next attempt may succeed.
            return {-self.pid}

    async def _close(self) -> None:
        """End the processes that the child has left behind, read the rest of the output, and reap the child."""
        await self._end_tree()
        if self._pipes:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), _DRAIN_LIMIT)
        for fd in list(self._pipes):
            self._close_pipe(fd)
        self._popen.wait()
        self._closed.set()

    async def _end_tree(self) -> None:
        begun = self._clock()
        terminated: set[int] = set()
        killed_at: float | None = None
        pause = 0.01
        while left := self._members() - self.unkillable:
            now = self._clock()
            kill_at = begun + _LEFT_GRACE if self._kill_at is None else self._kill_at
            if now < kill_at:
                linux.send(left - terminated, signal.SIGTERM)
                terminated |= left
            else:
                linux.send(left, signal.SIGKILL)
                killed_at = killed_at or now
                if now - killed_at > _KILL_LIMIT:
                    self.unkillable = left
                    return
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), min(pause, max(0.001, kill_at - now)))
            pause = min(pause * 2, 0.1)


def _start_problem(argv: Sequence[str], cwd: Path | None, problem: Exception) -> str:
    if cwd is not None and not cwd.is_dir():
        return f"no such directory: {cwd}"
    if isinstance(problem, FileNotFoundError):
        return f"no such command: {argv[0]}"
    if isinstance(problem, OSError) and problem.errno in (errno.EMFILE, errno.ENFILE):
        return f"cannot run {argv[0]}: out of file descriptors"
    if isinstance(problem, PermissionError):
        return f"not allowed to run {argv[0]}"
    return f"cannot run {argv[0]}: {problem}"
