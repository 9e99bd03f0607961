"""``passerelle split``: the weights of a running gateway, in all workers, over restarts and reloads."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command, invoke, up
from tests.support.upstream import Upstream, answering, ok

CONFIG = """
workers: {workers}
services:
  old: {{targets: ["{old}"]}}
  new: {{targets: ["{new}"]}}
routes:
  - {{path: "/{{rest*}}", service: old, split: {{weights: {{new: {weight}}}, by: header:X-User}}}}
"""
ROUTE = "/{rest*}"


class Pair:
    """A running gateway with a split, and its file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old, self.new = Upstream(answering(ok(b"old"))), Upstream(answering(ok(b"new")))
        self.up: Up

    def config(self, weight: int = 0, workers: int = 2) -> str:
        return CONFIG.format(old=self.old.url, new=self.new.url, weight=weight, workers=workers)

    def close(self) -> None:
        self.old.close()
        self.new.close()

    def split(self, *arguments: str) -> tuple[int, str]:
        return invoke(self.folder, "split", *arguments, "--admin", f"127.0.0.1:{self.up.admin}")

    def weights(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.split("--json")[1])["routes"][ROUTE]["weights"]
        return found

    def bodies(self, number: int = 12) -> set[bytes]:
        """Return what users receive, over new connections to all workers."""
        found = [self.up.get("/a", **{"X-User": f"u{user}"}) for user in range(number)]
        assert {status for status, _ in found} == {200}
        return {body for _, body in found}

    def workers_up(self) -> set[int]:
        """Return the pids of the workers, if all are up."""
        workers = self.up.status()["workers"]
        return {worker["pid"] for worker in workers} if all(w["state"] == "up" for w in workers) else set()

    def counted(self) -> dict[str, int]:
        sides: dict[str, Any] = json.loads(self.split("--json")[1])["routes"][ROUTE]["sides"]
        return {side: counts["requests"] for side, counts in sides.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("split"))
    with up(pair.folder, pair.config()) as pair.up:
        pair.up.listening()
        yield pair
    pair.close()


def test_weights_change_in_all_workers_and_for_those_that_start_later(pair: Pair) -> None:
    assert pair.bodies() == {b"old"}
    before = pair.counted()
    code, out = pair.split(ROUTE, "new=1000", "--reason", "moved")
    assert (code, out.strip()) == (0, "/{rest*}: old=0 new=1000")
    assert pair.bodies() == {b"new"}
    until_now(lambda: pair.counted() == {"old": before["old"], "new": 12}, 10.0)
    killed = pair.workers_up()
    assert len(killed) == 2
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until_now(lambda: pair.workers_up() - killed == pair.workers_up() != set(), 15.0)
    assert pair.bodies() == {b"new"}
    until_now(lambda: pair.counted()["new"] >= 24, 10.0)
    assert pair.counted()["old"] == before["old"]


def test_no_request_fails_while_weights_change(pair: Pair) -> None:
    done = threading.Event()
    found: list[set[bytes]] = []

    def load() -> None:
        while not done.is_set():
            found.append(pair.bodies(4))

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(load) for _ in range(2)]
        try:
            for number in range(21):
                assert pair.split(ROUTE, f"new={50 * number}")[0] == 0
            until_now(lambda: found[-1:] == [{b"new"}], 10.0)
        finally:
            done.set()
        for client in clients:
            client.result()
    assert set().union(*found) == {b"old", b"new"}


def test_the_change_is_an_event_audited_measured_and_shown(pair: Pair) -> None:
    assert pair.split(ROUTE, "old=750", "new=250", "--reason", "second step")[0] == 0
    events = json.loads(pair.up.get("/events", pair.up.admin)[1])["events"]
    (event,) = [each for each in events if each["kind"] == "split" and "second step" in each["text"]]
    assert event["detail"]["weights"] == {"old": "750", "new": "250"}
    assert event["detail"]["by"] == "local from 127.0.0.1"
    assert any(each["kind"] == "audit" and each["text"].startswith("split route=") for each in events)
    metrics = pair.up.get("/metrics", pair.up.admin)[1]
    assert b'passerelle_split_weight{route="/{rest*}",side="new"} 250.0' in metrics
    assert b'passerelle_split_requests_total{route="/{rest*}",side="old"}' in metrics
    code, out = pair.split(ROUTE)
    assert code == 0
    assert [line.split()[:4] for line in out.splitlines()] == [
        ["ROUTE", "SERVICE", "USERS", "FILE"],
        [ROUTE, "old", "75%", "100%"],
        [ROUTE, "new", "25%", "0%"],
    ]
    assert "old 100%, new 0% of users by header:x-user" in invoke(pair.folder, "explain", "GET", "/a")[1]
    assert "old 100%, new 0%" in invoke(pair.folder, "routes")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((ROUTE, "new=1", "old=1"), 1, "/{rest*}: found the weights 1 + 1 = 2; their sum must be 1000"),
        ((ROUTE, "third=1"), 1, "/{rest*} has no side 'third'; its sides are: old, new"),
        (("/x",), 1, "no split on route '/x'; routes with a split: /{rest*}"),
        (("new=1",), 2, "found 'new=1' and no route; write passerelle split ROUTE new=1"),
    ],
)
def test_what_cannot_be_done_is_refused(pair: Pair, arguments: tuple[str, ...], code: int, message: str) -> None:
    found = pair.split(*arguments)
    assert found[0] == code
    assert message in found[1]


def test_a_reload_keeps_the_weights_until_the_file_has_others(pair: Pair) -> None:
    assert pair.split(ROUTE, "new=1000")[0] == 0
    head = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n"
    file = pair.folder / "gateway.yaml"

    def reload(text: str) -> None:
        file.write_text(head + text)
        assert invoke(pair.folder, "reload", "--admin", f"127.0.0.1:{pair.up.admin}")[0] == 0

    reload(pair.config() + "limits: {body: 7KiB}\n")
    assert (pair.weights(), pair.bodies()) == ({"old": 0, "new": 1000}, {b"new"})
    reload(pair.config(weight=1))
    assert pair.weights() == {"old": 999, "new": 1}
    reload(pair.config())
    assert (pair.weights(), pair.bodies()) == ({"old": 1000, "new": 0}, {b"old"})


def test_a_gateway_without_a_supervisor_has_the_same_splits(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    (tmp_path / "gateway.yaml").write_text("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n" + pair.config(workers=1))
    with command(tmp_path, "gateway", "gateway.yaml") as pair.up:
        pair.up.listening()
        assert pair.bodies() == {b"old"}
        assert pair.split(ROUTE, "new=1000")[0] == 0
        assert pair.bodies() == {b"new"}
        assert pair.counted() == {"old": 12, "new": 12}
        assert invoke(tmp_path, "reload", "--admin", f"127.0.0.1:{pair.up.admin}")[0] == 0
        assert pair.bodies() == {b"new"}
        assert (
            b'passerelle_split_weight{route="/{rest*}",side="new"} 1000.0' in pair.up.get("/metrics", pair.up.admin)[1]
        )
    pair.close()
