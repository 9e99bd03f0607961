"""SIGUSR1 reopens the access log, for log rotation."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command, up

SERVICES = "services: {nowhere: {targets: ['http://127.0.0.1:9']}}\nroutes: [{path: /never, service: nowhere}]\n"


def targets(log: Path) -> list[str]:
    return [json.loads(line)["target"] for line in log.read_text().splitlines()] if log.exists() else []


def rotate(running: Up, folder: Path) -> None:
    log, old = folder / "access.log", folder / "access.log.1"
    running.listening()
    assert running.get("/before")[0] == 404
    until_now(lambda: targets(log) == ["/before"])
    log.rename(old)
    running.popen.send_signal(signal.SIGUSR1)
    until_now(log.exists)
    assert running.get("/after")[0] == 404
    until_now(lambda: targets(log) == ["/after"])
    assert targets(old) == ["/before"]
    assert running.stop() == 0


def test_under_the_supervisor(tmp_path: Path) -> None:
    with up(tmp_path, "access_log: access.log\n" + SERVICES) as running:
        rotate(running, tmp_path)


def test_alone(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: access.log\n" + SERVICES
    )
    with command(tmp_path, "gateway", "gateway.yaml") as running:
        rotate(running, tmp_path)


@pytest.mark.long
def test_every_worker_closes_the_old_file(tmp_path: Path) -> None:
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with up(tmp_path, "workers: 2\naccess_log: access.log\n" + SERVICES) as running:
        running.listening()
        pids = [worker["pid"] for worker in running.status()["workers"]]
        assert len(pids) == 2
        assert all(holds(pid, log) for pid in pids)
        log.rename(old)
        running.popen.send_signal(signal.SIGUSR1)
        until_now(lambda: log.exists() and all(holds(pid, log) and not holds(pid, old) for pid in pids))
        assert running.stop() == 0


def holds(pid: int, path: Path) -> bool:
    return any(link.resolve() == path.resolve() for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists())
