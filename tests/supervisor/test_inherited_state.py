"""``passerelle up`` and ``gateway`` in the state in which careless parents start them: signals, descriptors, limits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.supervisor.up import command, up

SERVED = """
services:
  s:
    run: [python, -m, http.server, --bind, 127.0.0.1, "{port}"]
routes: [{path: /, service: s}]
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
