"""The parent process of the supervisor: it outlives the supervisor and ends all processes that are left.

``passerelle up`` forks. The child becomes the supervisor. The parent, whose pid the user knows, becomes the reaper: a
subreaper (prctl(2)), which the kernel makes the parent of every orphan below it, even of processes that have forked
several times or created sessions. So the reaper can end all of them when the supervisor is gone, even by SIGKILL. If
the reaper itself is killed, the supervisor receives SIGTERM from the kernel and stops everything in order. The reaper
executes a new program because that needs a tenth of the memory, and because ``pkill -9 -f "passerelle up"`` then does
not match it.

The supervisor is in its own process group. Signals from the terminal or from other processes reach the reaper, which
forwards each of them once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from passerelle.system import linux

FORWARDED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
DROP = signal.SIGRTMIN
"""The signal by which the supervisor announces that it drops to another user."""
_DROP_LIMIT = 2.0  # seconds for which the reaper waits until the supervisor has dropped
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL for processes that the supervisor has left behind
_GIVE_UP = 5.0  # seconds after SIGKILL until a process in an uninterruptible wait is given up


def fork_reaper(account: tuple[int, int] | None = None) -> None:
    """Fork. Returns in the child, which becomes the supervisor; the current process becomes the reaper.

    ``account`` is the user and the group that the supervisor will drop to, and the reaper with it.
    """
    linux.become_subreaper()
    reaper = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        linux.die_with_parent(reaper, signal.SIGTERM)
        os.setpgid(0, 0)
        # Allows writing to the terminal from outside its foreground process group.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD, DROP})
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # -S: without site-packages, which the reaper does not need; -P: without modules of the working directory.
    argv = [sys.executable, "-S", "-P", "-m", "passerelle.supervisor.reaper", str(child), *map(str, account or ())]
    os.execve(sys.executable, argv, {**os.environ, "PYTHONPATH": paths})  # noqa: S606


def forward_signals(supervisor: int, account: tuple[int, int] | None = None) -> int:
    """Forward signals to ``supervisor`` (a child of this process) until it has ended, then end what it has left.

    Returns the exit code. All of :data:`FORWARDED`, SIGCHLD and :data:`DROP` must be blocked. At :data:`DROP`, which
    the supervisor sends once, this process drops to the user and the group of ``account``.
    """
    signals = FORWARDED | {signal.SIGCHLD, DROP}
    if linux.hangup_is_ignored():
        signals -= {signal.SIGHUP}
    while (status := _reap(supervisor)) is None:
        number = signal.sigwait(signals)
        if number == DROP:
            if account is not None:
                _follow_drop(supervisor, *account)
        elif number != signal.SIGCHLD:
            os.kill(supervisor, number)  # safe: the supervisor is a zombie at worst, because only _reap reaps it
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name
        text = f"passerelle: the supervisor was ended by {name}; stopping all its processes\n"
        os.write(2, text.encode())
    end_all(_GRACE)
    return 128 - code if code < 0 else code


def _follow_drop(supervisor: int, uid: int, gid: int) -> None:
    """Drop as soon as ``supervisor`` has: until then, only root can signal it."""
    deadline = time.monotonic() + _DROP_LIMIT
    while time.monotonic() < deadline and linux.owner(supervisor) == 0:
        time.sleep(0.01)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    linux.allow_own_proc()


def end_all(grace: float) -> None:
    """End all descendants of this process: SIGTERM, and SIGKILL after ``grace`` seconds."""
    begun = time.monotonic()
    kill_at = begun + grace
    terminated: set[int] = set()
    while _has_children():
        now = time.monotonic()
        left = linux.descendants(os.getpid())
        if now < kill_at:
            linux.send(left - terminated, signal.SIGTERM)
            terminated |= left
        else:
            linux.send(left, signal.SIGKILL)
            if now > kill_at + _GIVE_UP:
                return
        number = signal.sigtimedwait(FORWARDED | {signal.SIGCHLD}, 0.02)
        if number is not None and number.si_signo != signal.SIGCHLD:
            kill_at = now


def _reap(wanted: int) -> int | None:
    """Reap all children that have ended. Returns the status of ``wanted`` if it is one of them."""
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
    _supervisor, *_account = map(int, sys.argv[1:])
    sys.exit(forward_signals(_supervisor, (_account[0], _account[1]) if _account else None))
