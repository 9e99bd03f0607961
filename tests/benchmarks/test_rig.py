"""Servers are pinned, awaited, and removed at the end with all processes that they started."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from benchmarks.rig import procfs
from benchmarks.rig.core import Rig
from benchmarks.rig.pairs import Cell
from benchmarks.rig.ports import LOOPBACK, free, free_ports
from benchmarks.rig.server import RigError, fetch
from benchmarks.rig.wrk import Load
from tests.requirements import needs

SERVER = """
import http.server, subprocess, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    def do_GET(self):
        self.send_response(503 if self.path == "/not-ready" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
if "--child" in sys.argv:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("speaking", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
TWO_CPUS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two CPUs are needed")
pytestmark = [TWO_CPUS, needs("wrk", "taskset")]


@pytest.fixture
def rig():
    with Rig.on_this_machine() as rig:
        yield rig


def start(rig, *arguments, code=SERVER, ready="/"):
    port = rig.port()
    folder = rig.subfolder("server")
    return rig.start("server", [sys.executable, "-c", code, str(port), *arguments], port, folder, ready=ready)


def alive(pid):
    try:
        return procfs.parse_stat((procfs.PROC / str(pid) / "stat").read_text()).pid == pid and state(pid) != "Z"
    except FileNotFoundError:
        return False


def state(pid):
    return (procfs.PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_server_has_one_cpu_and_the_rig_the_other(rig):
    server = start(rig)
    assert os.sched_getaffinity(server.pid) == {rig.server_cpu}
    assert os.sched_getaffinity(0) == {rig.load_cpu} != {rig.server_cpu}
    assert fetch(server.port, "/", {}) == (200, b"ok")


def test_at_the_end_nothing_is_left():
    affinity = os.sched_getaffinity(0)
    with Rig.on_this_machine() as inner:
        server = start(inner, "--child")
        until(lambda: len(procfs.tree(server.pid, procfs.processes())) == 2)
        members = [stat.pid for stat in procfs.tree(server.pid, procfs.processes())]
        folder = inner.folder
        assert folder.exists() and all(map(alive, members))
    until(lambda: not any(map(alive, members)))
    assert not folder.exists()
    assert os.sched_getaffinity(0) == affinity


def test_what_ignores_sigterm_and_what_is_orphaned_is_stopped_too(rig):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    orphan = "import os, time\nif os.fork() == 0:\n  if os.fork() == 0: time.sleep(600)\n  os._exit(0)\nos.wait()\n"
    server = start(rig, code=stubborn + orphan + SERVER)
    members = [stat.pid for stat in procfs.tree(server.pid, procfs.processes())]
    assert len(members) == 2
    rig.stop_all(seconds=0.2)
    until(lambda: not any(map(alive, members)))


def test_a_killed_rig_takes_its_servers_with_it():
    code = f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from benchmarks.rig.core import Rig
with Rig.on_this_machine() as rig:
    port = rig.port()
    server = rig.start("server", [sys.executable, "-c", {SERVER!r}, str(port)], port, rig.subfolder("s"), ready="/")
    print(server.pid, rig.folder, flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        assert alive(int(pid))
        process.send_signal(signal.SIGKILL)
        process.wait()
    until(lambda: not alive(int(pid)))
    subprocess.run(["rm", "-r", folder], check=True)


def test_a_server_that_exits_is_reported_with_its_last_lines(rig):
    with pytest.raises(RigError, match=r"server exited with 3\nlast words"):
        start(rig, code="print('last words'); raise SystemExit(3)")


def test_a_server_that_is_not_ready_is_reported(rig):
    server = start(rig)
    with pytest.raises(RigError, match="not ready in 0 s: status 503"):
        server.wait_ready("/not-ready", {}, 0.3)
    with pytest.raises(RigError, match="the moon did not happen"):
        server.wait_until(lambda: False, 0.05, "the moon")


def test_a_cell_accounts_for_the_server_alone(rig):
    server = start(rig)
    run = Cell("cell", server, Load("/", connections=2), 1).measure(rig)
    assert run.errors == 0 and run.requests > 20
    assert 0.1 < run.cpu <= run.seconds * 1.2  # it has one CPU
    assert run.us == pytest.approx(run.cpu / run.requests * 1e6)


def test_ports_are_free_distinct_and_out_of_the_kernels_way():
    ports = free_ports(start=5)
    several = [next(ports) for _ in range(20)]
    assert len(set(several)) == 20
    assert all(10_000 <= port < 32_768 for port in several)
    with socket.create_server((LOOPBACK, several[0])):
        assert not free(several[0])
        assert several[0] not in [next(free_ports(start=several[0] - 10_000 + step)) for step in range(3)]
    assert free(several[0])
