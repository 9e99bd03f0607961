"""Under a constant load of GETs: faulty instances, changing targets, a log on a full disk, a worker that dies.

A faulty instance refuses connections, resets them, sends invalid data or is slow.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.chaos.load import Load
from tests.chaos.test_no_client_notices import CONFIG, answers, under_load
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command
from tests.support.upstream import Connection, Upstream, ok

pytestmark = pytest.mark.slow

LONG = pytest.mark.long
BOUND = 30.0
SLOW = 1.0  # seconds


class Server(Upstream):
    """Responds with its number, or as ``mode`` says: ``reset``, ``close``, ``garbage``, ``slow``."""

    def __init__(self, number: int) -> None:
        self.body = b"%d" % number
        self.mode = "good"
        self.ending = threading.Event()
        super().__init__(self._serve)

    def _serve(self, conn: Connection) -> None:
        while True:
            conn.read_request(within=600)
            if self.mode == "reset":
                return conn.reset()
            if self.mode == "close":
                return conn.close()
            if self.mode == "garbage":
                conn.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
                return conn.close()
            if self.mode == "slow":
                self.ending.wait(SLOW)
            conn.send(ok(self.body))

    def close(self) -> None:
        self.ending.set()
        super().close()


def targets(servers: list[Server], more: str = "") -> str:
    return (
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: 'off'\nservices:\n"
        f"  s: {{targets: {json.dumps([server.url for server in servers])}, slow_start: 'off'{more}}}\n"
        "routes: [{path: '/{rest*}', service: s, timeout: 20s}]\n"
    )


@pytest.fixture
def five() -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        servers = [Server(number) for number in range(5)]
        for server in servers:
            stack.callback(server.close)
        yield servers


def state(running: Up, server: Server) -> str:
    (found,) = [i["state"] for i in running.instances("s") if i["address"] == server.url.removeprefix("http://")]
    return str(found)


@pytest.mark.parametrize("mode", [pytest.param("reset", marks=LONG), "close", pytest.param("garbage", marks=LONG)])
def test_one_that_fails_every_request_is_left_out_and_comes_back(tmp_path: Path, five: list[Server], mode: str) -> None:
    bad = five[2]
    with under_load(tmp_path, targets(five, ", eject: {time: 2s}")) as (running, load):
        bad.mode = mode
        until_now(lambda: state(running, bad) == "ejected", BOUND)
        bad.mode = "good"
        until_now(lambda: state(running, bad) == "up", BOUND)
        before = load.bodies[bad.body]
        until_now(lambda: load.bodies[bad.body] > before, BOUND)


@pytest.mark.long
def test_one_that_refuses_connections_is_left_out_and_comes_back(tmp_path: Path, five: list[Server]) -> None:
    bad = five[2]
    with under_load(tmp_path, targets(five, ", eject: {time: 2s}")) as (running, load):
        bad.mode = "close"
        bad.refuse()
        until_now(lambda: state(running, bad) in ("down", "ejected"), BOUND)
        answers(load, 200)
        bad.mode = "good"
        bad.listen()
        until_now(lambda: state(running, bad) == "up", 60)
        before = load.bodies[bad.body]
        until_now(lambda: load.bodies[bad.body] > before, BOUND)


@pytest.mark.long
def test_one_that_is_slow_gets_little_and_fails_nothing(tmp_path: Path, five: list[Server]) -> None:
    slow = five[2]
    with under_load(tmp_path, targets(five)) as (_, load):
        slow.mode = "slow"
        before, mine = load.answered, load.bodies[slow.body]
        answers(load, 2000)
        # An even share would be 20 %.
        assert load.bodies[slow.body] - mine < 0.1 * (load.answered - before)


@pytest.mark.long
def test_targets_are_added_drained_weighed_and_removed(tmp_path: Path, five: list[Server]) -> None:
    first, *others = five

    def change(running: Up, method: str, path: str = "", **arguments: object) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.admin, timeout=60)
        target = f"/services/s/instances{path}?{urlencode(arguments)}"
        connection.request(method, target, headers={"Passerelle-Admin": "1"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        connection.close()

    with under_load(tmp_path, targets([first])) as (running, load):
        for _ in range(3):
            for server in others:
                change(running, "POST", url=server.url)
            change(running, "PATCH", f"/127.0.0.1:{others[0].port}", weight=20)
            change(running, "PATCH", "/s-1", drain="true")
            until_now(lambda: all(load.bodies[server.body] for server in others), BOUND)
            change(running, "PATCH", "/s-1", drain="false")
            until_now(lambda: state(running, first) == "up", BOUND)
            for server in others:
                change(running, "DELETE", f"/127.0.0.1:{server.port}")
            answers(load, 50)


@pytest.mark.long
def test_a_log_without_room_costs_no_answer_and_goes_on_when_there_is(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.symlink_to("/dev/full")
    with under_load(tmp_path, CONFIG.replace("access_log: 'off'", "access_log: access.log")) as (running, load):
        running.says(r"access log \([^)]*access\.log\): No space left on device", BOUND)
        answers(load, 500)
        log.unlink()
        running.popen.send_signal(signal.SIGUSR1)
        until_now(lambda: log.exists() and b'"status":200' in log.read_bytes().replace(b" ", b""), BOUND)


def _restarted(running: Up, number: int) -> bool:
    return bool(running.status()["workers"][number]["restarts"] == 1)


@pytest.mark.long
def test_a_killed_worker_costs_only_its_requests_in_flight(tmp_path: Path, five: list[Server]) -> None:
    (tmp_path / "gateway.yaml").write_text(targets(five).replace("admin:", "workers: 2\nadmin:", 1))
    with command(tmp_path, "up") as running:
        running.listening()
        with Load(running.port) as load:
            answers(load, 500)
            for number in range(2):
                os.kill(running.status()["workers"][number]["pid"], signal.SIGKILL)
                until_now(partial(_restarted, running, number), BOUND)
                until_now(lambda: [w["state"] for w in running.status()["workers"]] == ["up", "up"], BOUND)
                answers(load, 500)
            # At most one of each connection; no request was refused, and none is kept waiting.
            assert len(load.failures) <= 64
            assert [failure for failure in load.failures if "Refused" in failure or "Timeout" in failure] == []
            before = len(load.failures)
            answers(load, 500)
            assert len(load.failures) == before
        until_now(lambda: sum(i["in_flight"] for i in running.instances("s")) == 0, BOUND)
        assert running.stop() == 0
