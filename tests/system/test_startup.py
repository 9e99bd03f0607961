"""What a process makes of the descriptors and signals that its parent left it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest


def told(program: str, *before: str, close: tuple[int, ...] = ()) -> str:
    """What ``program`` writes to the descriptor that it is given as an argument, without a shell."""
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as told:
        closing = " ".join(f"{fd}>&-" for fd in close)
        script = f'exec "$@" {closing}'
        argv = ["bash", "-c", script, "-", *before, sys.executable, "-c", textwrap.dedent(program), str(writing)]
        try:
            done = subprocess.run(argv, pass_fds=(writing,), stdin=subprocess.DEVNULL, timeout=60)
        finally:
            os.close(writing)
        assert done.returncode == 0
        return told.read()


@pytest.mark.parametrize("close", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_descriptors_are_opened(close: tuple[int, ...]) -> None:
    program = """
        import os, sys
        from passerelle.system import startup
        startup.open_standard_descriptors()
        files = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
        next_one = os.open("/dev/zero", os.O_RDONLY)
        sys.stdout.flush(), sys.stderr.flush(), sys.stdin.read()
        print(next_one > 2, *("/dev/null" == file for file in files), file=open(int(sys.argv[1]), "w"))
    """
    words = told(program, close=close).split()
    assert words[0] == "True"
    assert all(words[1 + number] == "True" for number in close)


def test_ignored_and_blocked_signals_are_reset() -> None:
    program = """
        import os, signal, sys
        from passerelle.system import startup
        startup.reset_signals()
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
        ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        print(ignored, nohup, signal.pthread_sigmask(signal.SIG_BLOCK, ()), file=open(int(sys.argv[1]), "w"))
    """
    assert told(program, "env", "--ignore-signal=CHLD,HUP", "--block-signal=TERM,HUP") == "False True set()\n"
    assert signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
