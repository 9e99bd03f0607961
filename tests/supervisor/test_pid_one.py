"""``passerelle`` as the first process of a container: it reaps what others leave behind, and ends on a signal.

The kernel gives process 1 of a PID namespace all orphans, and ignores signals to it that it does not handle.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.requirements import absent, program
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command, up

# A service that makes an orphan, which ends as soon as it is one: only process 1 can reap it.
SERVER = """
import http.server, os, sys
if os.fork() == 0:
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            pass
        os._exit(0)
    os._exit(0)
os.wait()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def as_process_one() -> Sequence[str]:
    """Return the words before a command that make it process 1 of a PID namespace."""
    words = [program("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        words[1:1] = ["--user", "--map-root-user"]
    if subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        absent("unshare is missing the permission to create PID namespaces")
    return words


def first_process(running: Up) -> int:
    """Return the pid outside of the namespace of its process 1."""
    children = Path(f"/proc/{running.popen.pid}/task/{running.popen.pid}/children")
    until_now(lambda: bool(children.read_text().split()))
    return int(children.read_text().split()[0])


def states(pid: int) -> list[str]:
    """Return the states of the children of a process: Z for one that has ended and was not reaped."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{child}/stat").read_text()
            found.append(text[text.rindex(")") + 2])
    return found


def test_up_reaps_orphans_and_ends_everything_on_a_signal(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    config = """
services: {s: {run: "python3 -S server.py {port}", instances: 3}}
routes: [{path: "/{rest*}", service: s}]
"""
    with up(tmp_path, config, before=as_process_one()) as running:
        running.listening()
        assert running.get("/")[0] == 200
        first = first_process(running)
        namespace = os.readlink(f"/proc/{first}/ns/pid")
        assert namespace != os.readlink("/proc/self/ns/pid")
        # The reaper has the supervisor as its only child: it has reaped the orphans of three instances.
        until_now(lambda: states(first) in (["S"], ["R"]))
        os.kill(first, signal.SIGTERM)
        assert running.ended() == 0


def test_a_gateway_alone_ends_on_a_signal(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n"
        'services: {s: {targets: ["http://127.0.0.1:9"]}}\nroutes: [{path: "/{rest*}", service: s}]\n'
    )
    with command(tmp_path, "gateway", before=as_process_one()) as running:
        running.listening()
        os.kill(first_process(running), signal.SIGTERM)
        assert running.ended() == 0
