"""``passerelle diagnose`` and ``/diagnose``: real processes with a planted bottleneck, and what users can do wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import planted
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command, invoke, up

SLEEPY = """
import time


def app(environ, start):
    time.sleep(0.02)
    start("200 OK", [("Server-Timing", "db;dur=1")])
    return [b"x"]
"""
CONFIG = "services: {user: {app: 'sleepy:app', instances: 1}}\nroutes: [{path: /user, service: user}]\n"


def verdicts(running: Up, query: str = "") -> list[dict[str, Any]]:
    code, body = running.get(f"/diagnose{query}", running.admin)
    assert code == 200
    found: list[dict[str, Any]] = json.loads(body)["verdicts"]
    return found


@pytest.mark.slow
def test_too_few_instances_are_named_and_the_evidence_is_live(tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    with up(tmp_path, CONFIG) as running:
        running.listening()
        assert verdicts(running)[0]["text"].startswith("not enough: ")
        stop = threading.Event()

        def client() -> None:
            while not stop.is_set():
                running.get("/user")

        clients = [threading.Thread(target=client) for _ in range(12)]
        for thread in clients:
            thread.start()
        try:
            until_now(lambda: verdicts(running, "?seconds=3")[0]["component"] == "user", 30.0)
            found = verdicts(running, "?seconds=3")[0]
            assert (found["component"], found["resource"], found["is_bottleneck"]) == ("user", "threads", True)
            assert found["next_step"].startswith("passerelle scale user=")
            samples: list[dict[str, Any]] = []

            def has_rates() -> bool:
                """Whether the last sample has the rates of the worker's process, which need two readings of it."""
                samples.append(json.loads(running.get("/live", running.admin)[1]))
                return "paused" in samples[-1]["workers"]["gateway"]

            until_now(has_rates, 15.0)
            sample = samples[-1]
            shown = tmp_path / "shown"
            shown.mkdir()
            with command(shown, "diagnose", "--seconds", "3", "--admin", f"127.0.0.1:{running.admin}") as printed:
                printed.says(r"1\. user: 1 instance at \d\.\d\d utilisation; .* more instances? brings? it to about")
                assert printed.popen.wait(15) == 0
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        instance = sample["services"]["user"]["instances"]["user-1"]
        assert instance["app"]["threads"] == 4
        assert instance["app"]["busy"] > 0.5
        assert instance["memory"] > 1_000_000
        assert instance["occupied"] > 4
        assert instance["files"] > 3
        assert instance["wait"] >= 0
        assert sample["services"]["user"]["timings"]["parts"]["db"] > 0
        assert {"cpu", "wait", "threads", "files"} <= sample["supervisor"].keys()
        assert {"cpu", "wait", "threads", "files", "lag", "paused"} <= sample["workers"]["gateway"].keys()
        assert sample["machine"]["cpus"] >= 1


@pytest.mark.slow
def test_mistakes_and_instances_that_end(tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    with up(tmp_path, CONFIG) as running:
        running.listening()
        for query in ("seconds=0", "seconds=61", "seconds=x", "seconds=-1", "seconds=" + "9" * 30):
            assert running.get(f"/diagnose?{query}", running.admin)[0] == 400, query
        # The descriptor of the memory file is closed with each process.
        before = len(list(Path(f"/proc/{running.popen.pid}/fd").iterdir()))
        for _ in range(3):
            (pid,) = running.named("--stats-fd")
            restarts = running.instances("user")[0]["restarts"]
            os.kill(pid, signal.SIGKILL)
            until_now(lambda known=restarts: running.instances("user")[0]["restarts"] > known, 30.0)
            until_now(lambda: running.instances("user")[0]["state"] == "up", 30.0)
        until_now(lambda: len(list(Path(f"/proc/{running.popen.pid}/fd").iterdir())) <= before + 1, 10.0)
        assert verdicts(running)


MORE = ("useless-cache", "one-connection", "healthy-mix")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slow-database", *(pytest.param(kind, marks=pytest.mark.long) for kind in MORE)])
def test_planted_bottlenecks_are_named_first(kind: str) -> None:
    plant = planted.KINDS[kind]
    found = planted.run(plant, seconds=3)
    assert planted.is_right(plant, found), found


def test_an_unreachable_gateway_is_one_line(tmp_path: Path) -> None:
    code, text = invoke(tmp_path, "diagnose", "--admin", "127.0.0.1:1")
    assert code == 1
    assert text.startswith("no response from a gateway at the admin address 127.0.0.1:1")
    assert text.count("\n") == 1
