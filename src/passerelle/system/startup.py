"""What a process puts right before it does anything else: its standard descriptors and its signals."""

from __future__ import annotations

import os
import signal
import sys


def open_standard_descriptors() -> None:
    """Open those of the descriptors 0 to 2 that are closed on /dev/null, and give them their streams.

    Otherwise the next file or socket would take their numbers, and be written to by whatever writes to standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY), True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def reset_signals() -> None:
    """Undo what the parent has blocked or ignored: both survive exec(2).

    With SIGCHLD ignored, children vanish without a status. An ignored SIGHUP is nohup's and stays. SIGUSR1 and SIGUSR2
    do nothing until a handler replaces this one; a handler, unlike SIG_IGN, is not inherited by commands.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
