"""Rollouts of real processes: gateways that share a Redis and are killed at each step, and a supervisor that is killed.

The protocol itself is tested without processes in ``test_shared_rollouts.py``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command, invoke
from tests.support.upstream import Upstream, answering, ok

pytestmark = [needs("redis-server"), pytest.mark.slow, pytest.mark.timeout(180)]

CONFIG = """
listen: 127.0.0.1:0
admin: 127.0.0.1:0
access_log: 'off'
{redis}
services:
  old: {{targets: ["{old}"]}}
  new: {{targets: ["{new}"]}}
routes:
  - path: "/{{rest*}}"
    service: old
    split: {{weights: {{new: 0}}, by: header:X-User}}
    rollout: {{steps: [50%, 100%], at_least: 1ms, requests: 60}}
"""
ROUTE = "/{rest*}"
USERS = 60


def upstream(body: bytes) -> contextlib.closing[Upstream]:
    return contextlib.closing(Upstream(answering(ok(body))))


def write(folder: Path, old: Upstream, new: Upstream, redis: str = "") -> None:
    folder.mkdir()
    (folder / "gateway.yaml").write_text(CONFIG.format(old=old.url, new=new.url, redis=redis))


def status(gateway: Up) -> dict[str, Any]:
    code, body = gateway.get("/rollout", gateway.admin)
    assert code == 200
    found: dict[str, Any] = json.loads(body)["routes"][ROUTE]
    return found


def serve(gateway: Up) -> None:
    """Send a request of each user, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    for user in range(USERS):
        connection.request("GET", "/", headers={"X-User": f"user {user}"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
    connection.close()


def shares(gateway: Up) -> list[int]:
    """Return the shares that the gateway has logged, in per mille."""
    return [int(share) for share in re.findall(r"^.*split of .* new=(\d+)", gateway.text, re.MULTILINE)]


@pytest.mark.long
def test_gateways_are_killed_at_each_step(tmp_path: Path) -> None:
    with RedisServer() as redis, upstream(b"old") as old, upstream(b"new") as new:
        folders = [tmp_path / name for name in "abc"]
        for folder in folders:
            write(folder, old, new, f"redis: {redis.url}")
        all_of_them: list[Up] = []
        running: dict[Path, Up] = {}

        def start(folder: Path) -> None:
            running[folder] = stack.enter_context(command(folder, "gateway"))
            all_of_them.append(running[folder])
            running[folder].listening()

        def report() -> str:
            return "\n".join(f"{status(each)}\n{each.text}" for each in running.values())

        with contextlib.ExitStack() as stack:
            for folder in folders:
                start(folder)
            first = running[folders[0]]
            assert invoke(folders[0], "rollout", "start", "--admin", f"127.0.0.1:{first.admin}")[0] == 0
            for share in (500, 1000):
                until_now(
                    lambda share=share: {status(each)["share"] for each in running.values()} == {share}, 20, report
                )
                until_now(lambda: any(status(each)["leads"] for each in running.values()), 60, report)
                leader = next(folder for folder, each in running.items() if status(each)["leads"])
                os.kill(running[leader].popen.pid, signal.SIGKILL)
                running.pop(leader).popen.wait()
                start(leader)
                assert status(running[leader])["share"] == share, "before its first request"

                served = 0.0

                def goes_on(share: int = share) -> bool:
                    nonlocal served
                    if time.monotonic() - served > 1.5:  # a gateway counts from its next look on
                        served = time.monotonic()
                        for each in running.values():
                            serve(each)
                    found = [status(each) for each in running.values()]
                    return all(each["share"] > share or each["status"] == "done" for each in found)

                until_now(goes_on, 60, report)
            assert {status(each)["status"] for each in running.values()} == {"done"}
            applied = [shares(each) for each in all_of_them]
            assert {share for each in applied for share in each} == {500, 1000}
            assert all(each == sorted(each) for each in applied), "no user moves back"


def test_a_supervisor_is_killed_and_goes_on(tmp_path: Path) -> None:
    with upstream(b"old") as old, upstream(b"new") as new:
        folder = tmp_path / "a"
        write(folder, old, new)
        with command(folder, "up") as running:
            running.listening()
            assert invoke(folder, "rollout", "start", "--admin", f"127.0.0.1:{running.admin}")[0] == 0
            serve(running)
            os.kill(running.popen.pid, signal.SIGKILL)
        before = len(new.requests)
        with command(folder, "up") as running:
            running.listening()
            serve(running)
            assert before < len(new.requests) < before + USERS, "about half of the users, from the first request on"
            assert (status(running)["status"], status(running)["share"]) == ("running", 500)
            assert shares(running) == []
            (folder / "gateway.yaml").write_text((folder / "gateway.yaml").read_text().replace("50%", "30%"))
            assert invoke(folder, "reload", "--admin", f"127.0.0.1:{running.admin}")[0] == 0
            until_now(lambda: status(running)["status"] == "paused", 60)
            assert (status(running)["share"], status(running)["reason"]) == (300, "the plan has changed")
            _, metrics = running.get("/metrics", running.admin)
            assert b'passerelle_rollout_status{route="/{rest*}",status="paused"} 1' in metrics
            assert running.stop() == 0
