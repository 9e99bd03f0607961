"""Under a constant load of GETs: no change of instances or configuration fails a request."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load import Load
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command

pytestmark = pytest.mark.slow

APP = """
import os
NAME = os.environ["PASSERELLE_INSTANCE"].encode()
TYPE = "text/plain"
if "JSON" in os.environ:
    NAME, TYPE = b'"%b"' % NAME, "application/json"
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", TYPE), ("Content-Length", str(len(NAME)))])
    return [NAME]
"""
COMPOSED = """
listen: 127.0.0.1:0
admin: 127.0.0.1:0
access_log: 'off'
services:
  user: {app: "app:app", instances: 3, health: {path: /}, env: {JSON: "yes"}}
  product: {app: "app:app", instances: 3, health: {path: /}, env: {JSON: "yes"}}
routes:
  - path: /api/{user_id}/{product_id}
    timeout: 20s
    compose:
      user: {service: user, path: "/{user_id}"}
      product: {service: product, path: "/{product_id}"}
"""
CONFIG = """
listen: 127.0.0.1:0
admin: 127.0.0.1:0
access_log: 'off'
services:
  s: {app: "app:app", instances: 5, health: {path: /}}
routes: [{path: "/{rest*}", service: s, timeout: 20s}]
"""


@contextlib.contextmanager
def under_load(folder: Path, config: str = CONFIG, path: str = "/") -> Iterator[tuple[Up, Load]]:
    """Run ``passerelle up`` under load; assert afterwards that no request failed."""
    (folder / "app.py").write_text(APP)
    (folder / "gateway.yaml").write_text(config)
    with command(folder, "up") as running:
        running.listening()
        with Load(running.port, path) as load:
            answers(load, 500)
            yield running, load
            answers(load, 200)
        assert load.failures[:5] == [], running.text
        assert running.stop() == 0


def answers(load: Load, number: int) -> None:
    """Wait for this many more responses."""
    before = load.answered
    until_now(lambda: load.answered >= before + number, 20, what=lambda: load.failures[:5])


def change(running: Up, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", running.admin, timeout=60)
    try:
        connection.request("POST", path, headers={"Passerelle-Admin": "1"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, answer
    return answer


def states(running: Up) -> list[str]:
    return [instance["state"] for instance in running.instances("s")]


@pytest.mark.long
def test_three_of_five_instances_are_killed(tmp_path: Path) -> None:
    with under_load(tmp_path) as (running, _):
        for instance in running.instances("s")[:3]:
            os.kill(instance["pid"], signal.SIGKILL)
        until_now(lambda: [i["restarts"] for i in running.instances("s")] == [1, 1, 1, 0, 0], 20)
        until_now(lambda: states(running) == ["up"] * 5, 20)


@pytest.mark.long
def test_a_rolling_restart(tmp_path: Path) -> None:
    with under_load(tmp_path) as (running, load):
        before = {instance["pid"] for instance in running.instances("s")}
        change(running, "/restart?service=s")
        assert not before & {instance["pid"] for instance in running.instances("s")}
        assert states(running) == ["up"] * 5
        assert len(load.bodies) == 6  # five names at a time, and one more at the start


@pytest.mark.long
def test_a_rolling_restart_of_both_services_of_a_composition(tmp_path: Path) -> None:
    with under_load(tmp_path, COMPOSED, "/api/1/2") as (running, load):
        for service in ("user", "product"):
            before = {instance["pid"] for instance in running.instances(service)}
            change(running, f"/restart?service={service}")
            assert not before & {instance["pid"] for instance in running.instances(service)}
        # Each is composed of a user and a product, from the instances available at the time.
        parts = [json.loads(body) for body in load.bodies]
        assert {part["user"] for part in parts} == {f"user-{n}" for n in range(1, 5)}
        assert {part["product"] for part in parts} == {f"product-{n}" for n in range(1, 5)}


def test_five_instances_become_eight_and_then_three(tmp_path: Path) -> None:
    with under_load(tmp_path) as (running, load):
        change(running, "/scale?service=s&instances=8")
        until_now(lambda: len(load.bodies) == 8, 20)
        change(running, "/scale?service=s&instances=3")
        assert states(running) == ["up"] * 3


@pytest.mark.long
def test_twenty_reloads(tmp_path: Path) -> None:
    policies = ("p2c", "round_robin", "least_inflight", "ewma", "weighted")
    with under_load(tmp_path) as (running, load):
        for number in range(20):
            text = CONFIG.replace("instances: 5", f"instances: 5, balance: {policies[number % 5]}")
            (tmp_path / "gateway.yaml").write_text(text)
            change(running, "/reload")
            answers(load, 20)
        with ThreadPoolExecutor() as pool:  # two concurrent changes are applied one after the other
            assert len(list(pool.map(partial(change, running), ["/reload"] * 2))) == 2
        assert all(instance["restarts"] == 0 for instance in running.instances("s"))


@pytest.mark.long
def test_one_instance_freezes_and_comes_back(tmp_path: Path) -> None:
    with under_load(tmp_path) as (running, load):
        frozen = running.instances("s")[2]["pid"]
        os.kill(frozen, signal.SIGSTOP)
        try:
            until_now(lambda: states(running).count("down") == 1, 20)
            answers(load, 500)
        finally:
            os.kill(frozen, signal.SIGCONT)
        until_now(lambda: states(running) == ["up"] * 5, 20)
    # Its requests waited for the health check, not for the route's deadline.
    assert load.slowest < 15
