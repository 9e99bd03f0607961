"""Process trees of ``passerelle up``: exits, pipes, and no orphans, whichever process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import FILE_SERVER, alive, until_now
from tests.supervisor.up import Up, up

ROUTES = "routes: [{path: /, service: s}]\n"
SERVER = f"python -S '{FILE_SERVER}' {{port}}"

DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for fd in (0, 1, 2): os.close(fd)
time.sleep(300)
"""

# All kinds of commands that tend to leave orphans: a shell that does not exec, a grandchild in the background, one in
# its own session, one that ignores signals, and a daemon.
FAMILY = f"""
services:
  s:
    run:
      - sh
      - -c
      - "sleep 301 & setsid sleep 302 & (trap '' TERM HUP INT; sleep 303; sleep 304) &
         python daemon.py & python -S '{FILE_SERVER}' {{port}}; true"
    instances: 2
routes: [{{path: /, service: s}}]
"""


@contextlib.contextmanager
def family(folder: Path) -> Iterator[Up]:
    (folder / "daemon.py").write_text(DAEMON)
    with up(folder, FAMILY) as running:
        running.listening()
        # Each instance has two shells, a server, three sleeps and a daemon; then reaper, supervisor and a worker.
        until_now(lambda: len(running.alive()) == 3 + 2 * 7, what=running.alive)
        yield running


def service(run: str, more: str = "") -> str:
    return f"services:\n  s:\n    run: [sh, -c, {run!r}]\n{more}{ROUTES}"


@pytest.mark.long
def test_exit_is_known_though_a_grandchild_lives_on(tmp_path: Path) -> None:
    with up(tmp_path, service("sleep 60 & : {port}; exit 1")) as running:
        running.says(r"s-1 exited with code 1 after 0\.\d\d s")
        running.says(r"(?s)(s-1 exited with code 1 after 0\.\d\d s.*){3}")
        assert len(running.named("sleep 60")) <= 1, "what it left behind is ended before the next start"
        assert running.stop() == 0


@pytest.mark.long
def test_a_shell_that_does_not_exec_is_replaced_with_its_server(tmp_path: Path) -> None:
    with up(tmp_path, service(f"{SERVER}; true")) as running:
        running.listening()
        (instance,) = running.instances("s")
        (server,) = (pid for pid in running.named("file_server") if pid != instance["pid"])
        os.kill(instance["pid"], signal.SIGKILL)
        running.says(r"s-1 is up \(pid \d+, start 2\)")
        assert server not in running.alive()
        assert running.get("/")[0] == 200
        assert running.stop() == 0


@pytest.mark.long
def test_a_mebibyte_without_newline_passes_and_does_not_stop_the_child(tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text(
        "import sys, http.server\n"
        "sys.stderr.write('x' * 2**20)\n"
        "sys.stderr.flush()\n"
        "http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')\n"
    )
    with up(tmp_path, service("exec python big.py {port}")) as running:
        running.listening()
        assert running.get("/")[0] == 200
        assert running.stop() == 0
        assert max(map(len, running.text.splitlines())) < 20_000


@pytest.mark.long
def test_a_daemon_is_ended_when_its_starter_exits(tmp_path: Path) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    with up(tmp_path, service("exec python daemon.py {port}")) as running:
        running.says(r"(?s)(s-1 exited with code 0.*){3}")
        assert len(running.named("daemon.py")) <= 2
        assert running.stop() == 0


@pytest.mark.parametrize("sig", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_nothing_of_a_whole_family_is_left_after_a_stop(tmp_path: Path, sig: signal.Signals) -> None:
    with family(tmp_path) as running:
        # A process that ignores SIGTERM is killed after ten seconds; a second signal kills it at once.
        running.popen.send_signal(sig)
        running.says(r"passerelle \| stopping")
        assert running.stop(sig) == 1
        assert "passerelle | killed" in running.text


@pytest.mark.long
def test_a_quit_kills_at_once(tmp_path: Path) -> None:
    with family(tmp_path) as running:
        begun = time.monotonic()
        assert running.stop(signal.SIGQUIT) == 1
        assert time.monotonic() - begun < 4


@pytest.mark.long
def test_nohup_is_respected(tmp_path: Path) -> None:
    with up(tmp_path, service(f"exec {SERVER}"), before=["nohup"]) as running:
        running.listening()
        for pid in (running.popen.pid, supervisor(running)):
            os.kill(pid, signal.SIGHUP)
        assert running.get("/")[0] == 200
        assert running.status()["state"] == "running"
        assert running.stop() == 0


def supervisor(running: Up) -> int:
    pid = running.status()["pid"]
    assert isinstance(pid, int)
    assert pid != running.popen.pid
    return pid


def test_kill_9_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with family(tmp_path) as running:
        os.kill(supervisor(running), signal.SIGKILL)
        assert running.ended(10) == 128 + 9
        assert "the supervisor was ended by SIGKILL" in running.text


@pytest.mark.long
def test_kill_9_of_what_the_user_started_leaves_nothing(tmp_path: Path) -> None:
    with family(tmp_path) as running:
        os.kill(running.popen.pid, signal.SIGKILL)
        # The supervisor stops in order; a process that ignores SIGTERM is killed after ten seconds.
        running.says(r"passerelle \| stopping")
        os.kill(supervisor(running), signal.SIGTERM)
        running.gone()


@pytest.mark.long
def test_kill_9_of_all_that_is_called_so_leaves_nothing(tmp_path: Path) -> None:
    """Kill like ``pkill -9 -f "passerelle up"``, which does not match the reaper."""
    with family(tmp_path) as running:
        called = running.named("cli.main import main; main() up")
        assert called == [supervisor(running)]
        os.kill(called[0], signal.SIGKILL)
        running.ended(10)


@pytest.mark.long
def test_kill_9_of_its_whole_process_group_leaves_nothing(tmp_path: Path) -> None:
    with family(tmp_path) as running:
        os.killpg(running.popen.pid, signal.SIGKILL)
        running.says(r"passerelle \| stopping")
        os.kill(supervisor(running), signal.SIGTERM)
        running.gone()


def test_a_worker_ends_with_its_supervisor_even_without_a_reaper(tmp_path: Path) -> None:
    with up(tmp_path, service(f"exec {SERVER}")) as running:
        running.listening()
        worker = running.status()["workers"][0]["pid"]
        pids = (running.popen.pid, supervisor(running))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that neither can react to the end of the other
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until_now(lambda: worker not in alive(running.mark))


SLOW = "echo begun $PASSERELLE_INSTANCE; trap 'exit 0' TERM; while :; do sleep 0.05; done # {port}"


def test_a_stop_interrupts_the_start(tmp_path: Path) -> None:
    """Stop when the third of five has just started and none is up."""
    with up(tmp_path, service(SLOW, "    instances: 5\n")) as running:
        running.says("begun s-3")
        begun = time.monotonic()
        assert running.stop(limit=10) == 0
        assert time.monotonic() - begun < 5
        assert "listening on" not in running.text


@pytest.mark.long
@pytest.mark.slow
def test_a_stop_interrupts_the_back_off(tmp_path: Path) -> None:
    with up(tmp_path, service("exit 1 # {port}")) as running:
        running.says(r"(?s)(s-1 exited.*){4}")
        begun = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begun < 4


@pytest.mark.slow
def test_a_signal_before_anything_was_started_ends_it(tmp_path: Path) -> None:
    """Signals at several moments of the start leave nothing."""
    for wait in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6):
        with up(tmp_path, service(f"exec {SERVER}", "    instances: 2\n")) as running:
            time.sleep(wait)  # the moment under test, not a wait for a condition
            running.popen.send_signal(signal.SIGTERM)
            running.gone(10)


def test_a_progress_line_names_what_does_not_start(tmp_path: Path) -> None:
    with up(tmp_path, service(SLOW)) as running:
        running.says(r"starting: 0 of 1, waiting for s-1 \(1 s\)")
        assert running.stop() == 0


ESCAPE = """
import os, sys, time
if os.fork(): time.sleep(300)
os.setsid()
if os.fork(): os._exit(0)
os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
"""


@pytest.mark.parametrize("kill", ["supervisor", pytest.param("stop", marks=pytest.mark.long)])
def test_even_what_left_its_session_and_its_environment_is_ended(tmp_path: Path, kill: str) -> None:
    """Neither session nor mark identifies the process, but it is an orphan below the reaper."""
    (tmp_path / "escape.py").write_text(ESCAPE)
    seconds = f"301.{os.getpid()}{time.monotonic_ns() % 10**6}"

    def escaped() -> list[str]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if seconds.encode() in (Path("/proc") / name / "cmdline").read_bytes().split(b"\0")[:2]:
                    found.append(name)
        return found

    with up(tmp_path, service(f"exec python escape.py {seconds} {{port}}")) as running:
        until_now(escaped)
        if kill == "stop":
            assert running.stop() == 0
        else:
            until_now(lambda: len(running.alive()) >= 3)
            (supervising,) = running.named("cli.main import main; main() up")
            os.kill(supervising, signal.SIGKILL)
            running.ended()
        assert escaped() == []
