"""The process above the supervisor: it outlives it, and ends whatever the supervisor could not.

``passerelle up`` forks. The child becomes the supervisor. The parent, whose pid the user knows, becomes this guard: a
subreaper (prctl(2)), to which every orphan below it falls, however often it forked and whatever session it made. So it
can end all of them when the supervisor is gone, by SIGKILL too; and if the guard is killed, the supervisor gets SIGTERM
from the kernel and stops everything in order. The guard replaces its program by a new one because it needs a tenth of
the memory, and because a ``pkill -9 -f "passerelle up"`` then leaves it alive.

The supervisor is in a process group of its own: signals meant for the whole come to the guard, from the terminal or
from anybody, and are passed on once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from passerelle.system import linux

FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL for what the supervisor left behind
_GIVE_UP = 5.0  # seconds after SIGKILL until a process in an uninterruptible wait is left to the kernel


def fork_reaper() -> None:
    """Fork: returns in the supervisor-to-be; the present process becomes the guard and never returns."""
    linux.become_subreaper()
    guard = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        linux.die_with_parent(guard, signal.SIGTERM)
        os.setpgid(0, 0)
        # Out of the terminal's foreground group it may still write there.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # -S: no site-packages, which it does not need; -P: no module of the working directory by accident.
    argv = [sys.executable, "-S", "-P", "-m", "passerelle.supervisor.reaper", str(child)]
    os.execve(sys.executable, argv, {**os.environ, "PYTHONPATH": paths})  # noqa: S606


def forward_signals(supervisor: int) -> int:
    """Pass signals on until ``supervisor`` (a child of this process) has ended, then end its leftovers.

    Gives the code to exit with. All of :data:`FORWARDED` and SIGCHLD must be blocked.
    """
    signals = FORWARDED | {signal.SIGCHLD}
    if linux.hangup_is_ignored():
        signals -= {signal.SIGHUP}
    while (status := _reap(supervisor)) is None:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            os.kill(supervisor, number)  # a zombie at worst: it is reaped above only
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        text = f"passerelle: the supervisor was ended by {name}; stopping all that it started\n"
        os.write(2, text.encode())
    end_all(_GRACE)
    return 128 - code if code < 0 else code


def end_all(grace: float) -> None:
    """End every process below this one: SIGTERM, after ``grace`` seconds SIGKILL, until there is none."""
    begun = time.monotonic()
    kill_at = begun + grace
    told: set[int] = set()
    while _has_children():
        now = time.monotonic()
        left = linux.descendants(os.getpid())
        if now < kill_at:
            linux.send(left - told, signal.SIGTERM)
            told |= left
        else:
            linux.send(left, signal.SIGKILL)
            if now > kill_at + _GIVE_UP:
                return
        number = signal.sigtimedwait(FORWARDED | {signal.SIGCHLD}, 0.02)
        if number is not None and number.si_signo != signal.SIGCHLD:
            kill_at = now


def _reap(wanted: int) -> int | None:
    """Reap everything that has ended; the status of ``wanted`` if it is among them."""
    found = None
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == wanted:
            found = status
        if pid == 0 or found is not None:
            return found


def _has_children() -> bool:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


if __name__ == "__main__":
    sys.exit(forward_signals(int(sys.argv[1])))
