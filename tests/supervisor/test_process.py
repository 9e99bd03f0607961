"""A child process: its exit, its pipes, its process tree. Real processes; survivors are found in /proc."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from passerelle.gateway.endpoints import BoundSocket
from passerelle.supervisor.line_splitter import LIMIT
from passerelle.supervisor.process import Process, StartFailed, describe_exit
from passerelle.supervisor.restart_backoff import Backoff
from passerelle.supervisor.worker_process import WorkerProcess
from passerelle.system import ports
from tests.supervisor.helpers import PYTHON, alive, run, until


class Child:
    """A process under test, with a mark in the environment that finds all its descendants."""

    def __init__(self, *argv: str) -> None:
        self.mark = f"PASSERELLE_TEST={uuid.uuid4()}"
        self.lines: list[bytes] = []
        name, value = self.mark.split("=")
        self.process = Process.spawn("child", argv, on_line=self.lines.append, env={name: value})

    def alive(self) -> dict[int, str]:
        return alive(self.mark)

    async def says(self, line: bytes) -> None:
        await until(lambda: line in self.lines, what=f"{line!r} in {self.lines}")


def python(code: str) -> tuple[str, ...]:
    return (PYTHON, "-I", "-S", "-u", "-c", code)


def test_exit_code_and_output_of_a_short_child() -> None:
    async def check() -> None:
        child = Child("sh", "-c", "echo one; echo two >&2; printf three; exit 3")
        assert await child.process.closed() == 3
        assert child.lines == [b"one", b"two", b"three"]
        assert list(child.process.tail) == child.lines

    run(check())


def test_death_by_a_signal_is_a_negative_code() -> None:
    async def check() -> None:
        child = Child("sh", "-c", "kill -SEGV $$")
        assert await child.process.closed() == -11

    run(check())
    assert describe_exit(-11) == "was ended by SIGSEGV"
    assert describe_exit(2) == "exited with code 2"


def test_b28_exit_is_known_at_once_though_a_grandchild_keeps_the_pipe() -> None:
    async def check() -> None:
        child = Child("sh", "-c", "sleep 600 & exit 1")
        assert await child.process.wait() == 1
        assert child.alive(), "the exit is known while the grandchild still runs"
        assert await child.process.closed() == 1
        assert child.alive() == {}

    run(check())


def test_b28_a_shell_that_does_not_exec_goes_with_its_child_and_the_port_is_free_again() -> None:
    async def check() -> None:
        port = ports.free()
        child = Child("sh", "-c", f"{PYTHON} -m http.server --bind 127.0.0.1 {port}; true")
        await until(lambda: answers(port))
        assert len(child.alive()) == 2
        await child.process.stop(grace=5.0)
        assert child.alive() == {}
        for sock in ports.reserve("127.0.0.1", port):
            sock.close()

    run(check())


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_b28_a_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    async def check() -> None:
        child = Child("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done")
        await child.says(b"deaf")
        begun = time.monotonic()
        assert await child.process.stop(grace=0.3) == -9
        assert 0.3 <= time.monotonic() - begun < 2.0
        assert child.alive() == {}

    run(check())


def test_b28_a_grandchild_that_ignores_sigterm_is_killed_though_the_child_left() -> None:
    async def check() -> None:
        child = Child("sh", "-c", "sh -c \"trap '' TERM; echo deaf; while :; do sleep 0.05; done\" & wait")
        await child.says(b"deaf")
        await child.process.stop(grace=0.3)
        assert child.alive() == {}

    run(check())


def test_stop_waits_for_a_child_that_needs_its_grace() -> None:
    async def check() -> None:
        child = Child("sh", "-c", "trap 'sleep 0.3; echo done; exit 7' TERM; echo up; while :; do sleep 0.05; done")
        await child.says(b"up")
        assert await child.process.stop(grace=10.0) == 7
        assert child.lines[-1] == b"done"

    run(check())


def test_a_second_stop_may_shorten_the_first() -> None:
    async def check() -> None:
        child = Child("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done")
        await child.says(b"deaf")
        begun = time.monotonic()
        first = asyncio.create_task(child.process.stop(grace=30.0))
        await asyncio.sleep(0)
        child.process.kill()
        assert await first == -9
        assert time.monotonic() - begun < 2.0
        assert child.alive() == {}

    run(check())


def test_b28_a_mebibyte_without_a_newline_is_drained_in_bounded_memory() -> None:
    async def check() -> None:
        child = Child(*python("import sys; sys.stderr.write('x' * 2**20)"))
        assert await child.process.closed() == 0
        assert child.lines == [b"x" * LIMIT + b" ... [%d bytes more]" % (2**20 - LIMIT)]

    run(check())


DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
print("daemon", os.getpid(), flush=True)
time.sleep(60)
"""


def test_b28_a_child_that_daemonises_is_found_and_ended() -> None:
    async def check() -> None:
        child = Child(*python(DAEMON))
        assert await child.process.wait() == 0
        await child.process.closed()
        assert child.alive() == {}

    run(check())


def test_b28_a_daemon_that_closed_its_pipes_is_ended_by_stop() -> None:
    code = DAEMON.replace("time.sleep", "os.close(1); os.close(2); time.sleep")
    # The first process stays, so that the daemon is not ended before stop.
    code = code.replace("if os.fork(): os._exit(0)\nos.setsid", "if os.fork(): time.sleep(60)\nos.setsid")

    async def check() -> None:
        child = Child(*python(code))
        await until(lambda: any(line.startswith(b"daemon") for line in child.lines))
        assert len(child.alive()) == 2
        await child.process.stop(grace=2.0)
        assert child.alive() == {}

    run(check())


def test_a_pipe_held_by_a_stranger_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """A process that has left the session and cleared its environment escapes; its open pipe must not block."""
    ended = tmp_path / "ended"
    escape = (
        "import os,time\n"
        f"if os.fork(): os.close(os.open({str(ended)!r}, os.O_CREAT)); os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "os.execve('/bin/sleep', ['sleep', '3'], {})\n"
    )

    async def check() -> None:
        child = Child(*python(escape))
        assert await child.process.closed() == 0
        assert time.time() - ended.stat().st_mtime < 2.0  # without the start of Python

    run(check())


def test_raw_output_goes_through_in_whole_lines_and_errors_are_named() -> None:
    async def check() -> None:
        raw: list[bytes] = []
        lines: list[bytes] = []
        process = Process.spawn(
            "w", ["sh", "-c", "printf 'a\\nb'; echo err >&2; printf 'c\\n'"], on_line=lines.append, on_raw=raw.append
        )
        await process.closed()
        assert b"".join(raw) == b"a\nbc\n"
        assert all(piece.endswith(b"\n") for piece in raw)
        assert lines == [b"err"]

    run(check())


def test_a_failed_start_has_its_reason(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")

    async def check() -> None:
        for argv, cwd, text in (
            (["no-such-command-here"], None, "no such command: no-such-command-here"),
            ([str(plain)], None, f"not allowed to run {plain}"),
            (["true"], tmp_path / "missing", f"no such directory: {tmp_path / 'missing'}"),
            (["a\0b"], None, "cannot run"),
        ):
            with pytest.raises(StartFailed) as caught:
                Process.spawn("x", argv, on_line=print, cwd=cwd)
            assert str(caught.value).startswith(text)

    run(check())


def test_a_child_has_no_terminal_to_read_and_no_descriptor_of_ours() -> None:
    # The fourth descriptor is that of the listing itself.
    code = "import os, sys; print(sys.stdin.read() == ''); print(len(os.listdir('/proc/self/fd')))"

    async def check() -> None:
        with socket.socket() as ours:
            os.set_inheritable(ours.fileno(), True)
            child = Child(*python(code))
            await child.process.closed()
            assert child.lines == [b"True", b"4"]

    run(check())


@contextlib.contextmanager
def free_descriptors(number: int) -> Iterator[None]:
    """Leave this process ``number`` descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] <= highest:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + number, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


@pytest.mark.parametrize("kind", ["instance", "worker"])
def test_a_start_without_descriptors_fails_and_leaves_nothing(kind: str) -> None:
    """Whatever the number of descriptors that are left, a start works or is a StartFailed."""

    async def check() -> None:
        listener = socket.create_server(("127.0.0.1", 0))

        def start() -> Process:
            if kind == "instance":
                return Process.spawn("child", ["sh", "-c", "exec sleep 60"], on_line=lambda line: None)
            events: Any = None
            backoff = Backoff(random.random)
            nothing: Any = None
            sockets = [BoundSocket(0, 0, listener)]
            worker = WorkerProcess(
                "w",
                "file",
                "text",
                sockets,
                (),
                nothing,
                nothing,
                nothing,
                backoff,
                events,
                time.monotonic,
            )
            try:
                return worker._spawn()
            finally:
                if worker._socket is not None:
                    worker._socket.close()
                if worker._sender is not None:
                    worker._sender.close()

        failed = 0
        with listener:
            for number in range(40):
                open_before = len(os.listdir("/proc/self/fd"))
                process = None
                with free_descriptors(number), contextlib.suppress(StartFailed):
                    process = start()
                if process is None:
                    failed += 1
                else:
                    await process.stop(0)
                assert len(os.listdir("/proc/self/fd")) == open_before
                if process is not None:
                    break
        assert failed > 4 and process is not None

    run(check())
