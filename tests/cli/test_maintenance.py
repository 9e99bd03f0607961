"""``passerelle maintenance``: all workers refuse the requests of a route, also after a restart and a reload."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.config import load_text
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.maintenance import Maintenance
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, invoke, up

CONFIG = """
workers: 2
routes:
  - {path: /a, respond: 204}
  - {path: /b, respond: 204}
  - {path: /b, methods: [POST], respond: 204}
  - {path: /c, host: a.example, respond: 204}
  - {path: /c, host: b.example, respond: 204}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("maintenance"), CONFIG) as running:
        running.listening()
        yield running


def maintenance(running: Up, *arguments: str) -> tuple[int, str]:
    return invoke(Path.cwd(), "maintenance", *arguments, "--admin", f"127.0.0.1:{running.admin}")


def statuses(running: Up, path: str) -> set[int]:
    """Return the statuses of connections that both workers accept, most probably."""
    return {running.get(path)[0] for _ in range(12)}


def test_maintenance_of_a_running_gateway(running: Up) -> None:
    assert maintenance(running) == (0, "")
    assert maintenance(running, "on", "/a") == (0, "maintenance is on for /a\n")
    assert statuses(running, "/a") == {503} and statuses(running, "/b") == {204}
    assert maintenance(running) == (0, "/a\n")
    code, text = maintenance(running, "on", "/nothing")
    assert (code, text) == (
        1,
        "no route '/nothing'; the routes are /a, /b, POST /b, a.example/c, b.example/c\n",
    )
    for worker in running.status()["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    until_now(lambda: all(w["state"] == "up" and w["restarts"] == 1 for w in running.status()["workers"]), 20.0)
    assert statuses(running, "/a") == {503}
    assert invoke(Path.cwd(), "reload", "--admin", f"127.0.0.1:{running.admin}")[0] == 0
    assert statuses(running, "/a") == {503}
    assert maintenance(running, "on") == (0, "maintenance is on for all routes\n")
    assert statuses(running, "/b") == {503}
    assert json.loads(maintenance(running, "--json")[1]) == {"all": True, "routes": []}
    assert maintenance(running, "off") == (0, "maintenance is off for all routes\n")
    assert statuses(running, "/a") == statuses(running, "/b") == {204}
    events = json.loads(running.get("/events?kind=audit", running.admin)[1])["events"]
    assert [event["detail"]["arguments"] for event in events if event["detail"]["action"] == "maintenance"] == [
        {"state": "on", "route": "/a"},
        {"state": "on", "route": "/nothing"},
        {"state": "on"},
        {"state": "off"},
    ]


def test_changes_and_refusals() -> None:
    config = load_text(CONFIG)
    state = Maintenance()
    assert state.change(config, {"state": "on", "route": "POST /b"}) == "maintenance is on for POST /b"
    assert state.change(config, {"state": "on", "route": "a.example/c"}) == "maintenance is on for a.example/c"
    assert state.as_json() == {"all": False, "routes": ["POST /b", "a.example/c"]}
    for arguments, problem in (
        ({"state": "on", "route": "/c"}, "several routes have the path /c: a.example/c, b.example/c"),
        ({"state": "maybe"}, "maintenance needs state=on or state=off, and takes route=ROUTE"),
        ({}, "maintenance needs state=on or state=off, and takes route=ROUTE"),
        ({"state": "on", "path": "/a"}, "maintenance needs state=on or state=off, and takes route=ROUTE"),
    ):
        with pytest.raises(ChangeRefused) as refused:
            state.change(config, arguments)
        assert refused.value.problems == (problem,)
    # A route that a reload has removed can still be switched off.
    smaller = load_text("routes: [{path: /a, respond: 204}]")
    assert state.change(smaller, {"state": "off", "route": "POST /b"}) == "maintenance is off for POST /b"
    state.change(config, {"state": "on"})
    with pytest.raises(ChangeRefused):
        state.change(config, {"state": "off", "route": "/a"})
    assert state.change(config, {"state": "on", "route": "/a"}) == "maintenance is on for all routes"
    state.change(config, {"state": "off"})
    assert state.as_json() == {"all": False, "routes": []}
