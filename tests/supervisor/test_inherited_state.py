"""``passerelle up`` and ``gateway`` in the state in which careless parents start them: signals, descriptors, limits."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from pathlib import Path

import pytest

from passerelle.appserver import main as appserver
from passerelle.system import ports
from tests.supervisor.helpers import FILE_SERVER, until_now
from tests.supervisor.up import command, up

SERVED = f"""
services:
  s:
    run: [python, -S, "{FILE_SERVER}", "{{port}}"]
routes: [{{path: /, service: s}}]
"""


def test_ignored_sigchld_and_blocked_signals(tmp_path: Path) -> None:
    before = ["env", "--ignore-signal=CHLD", "--block-signal=TERM,HUP,CHLD"]
    with up(tmp_path, SERVED, before=before) as running:
        running.listening()
        (instance,) = running.instances("s")
        os.kill(instance["pid"], signal.SIGKILL)
        running.says(r"s-1 was ended by SIGKILL")
        running.says(r"s-1 is up \(pid \d+, start 2\)")
        running.popen.send_signal(signal.SIGHUP)
        running.says("gateway.yaml reloaded")
        assert running.stop() == 0


@pytest.mark.long
def test_sigusr2_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "apps.py").write_text("def app(environ, start):\n    start('200 OK', [])\n    return [b'served']\n")
    with up(tmp_path, "services: {s: {app: 'apps:app'}}\nroutes: [{path: /, service: s}]\n") as running:
        running.listening()
        (instance,) = running.instances("s")
        (worker,) = running.status()["workers"]
        for pid in (running.popen.pid, instance["pid"], worker["pid"]):
            os.kill(pid, signal.SIGUSR2)
        assert running.get("/") == (200, b"served")
        assert [member["restarts"] for member in (*running.instances("s"), *running.status()["workers"])] == [0, 0]
        assert running.stop() == 0


def test_sigusr2_does_not_end_a_gateway_alone(tmp_path: Path) -> None:
    config = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nservices: {s: {targets: ['http://127.0.0.1:1']}}\n"
    (tmp_path / "gateway.yaml").write_text(config + "routes: [{path: /, service: s}]\n")
    with command(tmp_path, "gateway", "gateway.yaml") as running:
        running.listening()
        running.popen.send_signal(signal.SIGUSR2)
        assert running.get("/")[0] in (502, 503)
        assert running.stop() == 0


def responds(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


CLOSED = [*(pytest.param(each, marks=pytest.mark.long) for each in ("<&-", ">&-", "2>&-")), "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("name", ["up", pytest.param("gateway", marks=pytest.mark.long)])
def test_closed_standard_descriptors(tmp_path: Path, name: str, closed: str) -> None:
    config = "admin: off\nservices: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n"
    (tmp_path / "gateway.yaml").write_text(config)
    port = ports.free()
    before = ["bash", "-c", f'exec "$@" {closed}', "-"]
    with command(tmp_path, name, "gateway.yaml", "--listen", f"127.0.0.1:{port}", before=before) as running:
        until_now(lambda: responds(port), what=lambda: running.text)
        assert running.stop() == 0


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_standard_descriptors_of_an_application_server(tmp_path: Path, closed: str) -> None:
    (tmp_path / "apps.py").write_text(
        "import sys\n"
        "def app(environ, start):\n"
        "    print('printed')\n"
        "    print('printed', file=environ['wsgi.errors'])\n"
        "    start('200 OK', [])\n"
        "    return [b'served']\n"
    )
    port = ports.free()
    argv = ["bash", "-c", f'exec "$@" {closed}', "-", *appserver.command("apps:app", "127.0.0.1", port)]
    process = subprocess.Popen(argv, cwd=tmp_path, stdin=subprocess.DEVNULL)
    try:
        until_now(lambda: responds(port))
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


LIMITED = """
import resource, socket, sys

# Not http.server: twelve processes import it.
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
body = b"%d" % resource.getrlimit(resource.RLIMIT_NOFILE)[0]
head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body)
while True:
    connection, _ = listener.accept()
    if connection.recv(65536):  # a probe sends nothing
        connection.sendall(head + body)
    connection.close()
"""


@pytest.mark.long
def test_a_low_soft_limit_of_descriptors_limits_services_only(tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    config = """
services: {s: {run: [python, -S, limited.py, "{port}"], instances: 12}}
routes: [{path: /, service: s}]
"""
    with up(tmp_path, config, before=["bash", "-c", 'ulimit -Sn 32; exec "$@"', "-"]) as running:
        running.listening()
        assert len([i for i in running.instances("s") if i["state"] == "up"]) == 12
        limits = {int(running.get("/")[1]) for _ in range(40)}
        assert 32 in limits and max(limits) < 128
        os.kill(running.status()["workers"][0]["pid"], signal.SIGKILL)
        running.says(r"gateway is up \(pid \d+, start 2\)")
        assert running.get("/")[0] == 200
        assert running.stop() == 0
