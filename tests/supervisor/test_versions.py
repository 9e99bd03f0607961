"""Versions of a service: one rollout for all of its routes, and instances that start and end with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from passerelle.config.loader import load_text
from passerelle.observability.events import EventLog
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.rollouts import Rollouts
from passerelle.supervisor.split_groups import SplitGroups
from passerelle.supervisor.split_store import FileStore
from passerelle.supervisor.splits import Splits
from tests.supervisor.helpers import run, until
from tests.supervisor.rollout_gateways import Time
from tests.supervisor.test_autoscaling import supervised

TEXT = """
services:
  users:
    versions: {v1: {targets: ['http://127.0.0.1:1']}, v2: {targets: ['http://127.0.0.1:2']}}
    rollout: {steps: [10%, 100%], at_least: 1m, requests: 100}
  old: {targets: ['http://127.0.0.1:3']}
  new: {targets: ['http://127.0.0.1:4']}
routes:
  - {path: /a, service: users}
  - {path: /b, service: users}
  - {path: /c, service: old, split: {weights: {new: 5}}}
"""


def test_all_routes_of_the_service_move_together_and_are_judged_together(tmp_path: Path) -> None:
    async def body() -> None:
        time, config, events = Time(), load_text(TEXT), EventLog()
        counts = {"/a": 0, "/b": 0}

        async def send(settings: object) -> None:
            pass

        async def read() -> dict[str, object]:
            empty = {"failed": 0, "failed_users": 0, "slow_users": 0, "latency": [0] * 150}
            return {
                "splits": {
                    route: {side: {"requests": number, **empty} for side in ("users-v1", "users-v2")}
                    for route, number in counts.items()
                }
            }

        async def shadows() -> list[dict[str, object]]:
            return []

        splits = Splits(config, events, print, send, read)
        store = FileStore(tmp_path, print, time)
        rollouts = Rollouts(lambda: config, splits, shadows, lambda: store, events, print, time)
        assert SplitGroups(splits, lambda: config).routes() == ["/c", "users"]
        await rollouts.load()
        await rollouts.change({"action": "start"}, "admin")
        shares = {"/a": 100, "/b": 100, "/c": 5}
        assert {route: list(splits.weights(route).values())[1] for route in splits.routes()} == shares
        with pytest.raises(ChangeRefused, match="users: a rollout is in progress"):
            await splits.set("/b", {"users-v2": 7}, actor="admin", reason="")
        time.now += 60
        counts |= {"/a": 60, "/b": 39}
        await rollouts.tick()
        assert rollouts.status()["users"]["waits_for"] == "1 more request"
        counts["/b"] = 40
        await rollouts.tick()
        assert splits.weights("/a") == splits.weights("/b") == {"users-v1": 0, "users-v2": 1000}
        assert rollouts.ended_versions(config) == set()
        await rollouts.change({"route": "users", "action": "skip"}, "admin")
        assert rollouts.ended_versions(config) == {"users-v1"}
        again = Splits(config, events, print, send, read)
        other = FileStore(tmp_path, print, time)
        restarted = Rollouts(lambda: config, again, shadows, lambda: other, events, print, time)
        await restarted.load()
        shares = {"/a": 1000, "/b": 1000, "/c": 5}
        assert {route: list(again.weights(route).values())[1] for route in again.routes()} == shares
        assert restarted.ended_versions(config) == {"users-v1"}

    run(body())


APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
FILE = """
listen: 127.0.0.1:0
admin: 'off'
access_log: 'off'
services:
  s:
    versions: {v1: {app: application:app}, v2: {app: application:app}}
    rollout: {steps: [100%]}
routes: [{path: "/{rest*}", service: s}]
"""


@pytest.mark.slow
def test_the_old_version_ends_with_the_rollout_and_stays_away(tmp_path: Path) -> None:
    async def body() -> None:
        def names() -> list[str]:
            return sorted(instance.name for instance in running.fleet.instances)

        async with supervised(tmp_path, FILE, APPLICATION) as running:
            fleet, rollouts = running.fleet, running.supervisor.rollouts
            assert names() == ["s-v1-1", "s-v2-1"]
            await rollouts.change({"action": "start"}, "admin")
            await rollouts.change({"action": "skip"}, "admin")
            await until(lambda: names() == ["s-v2-1"], 30, what=lambda: running.text)
            assert "s-v1: ended 1 instance: all users have the new version" in running.text
            with pytest.raises(ChangeRefused, match="the old version has ended"):
                await fleet.splits.set("/{rest*}", {"s-v1": 1000}, actor="admin", reason="")
            # A reload of the same versions does not start it again.
            running.file.write_text(FILE + "\n# changed\n")
            await running.reconciler.reload()
            assert names() == ["s-v2-1"]
        # Nor does a new start.
        async with supervised(tmp_path, FILE, APPLICATION) as running:
            assert names() == ["s-v2-1"]
            # Another old version is started as any new service.
            running.file.write_text(FILE.replace("v1:", "v0:"))
            await running.reconciler.reload()
            assert names() == ["s-v0-1", "s-v2-1"]
            running.file.write_text(FILE)
        async with supervised(tmp_path, FILE, APPLICATION) as running:
            assert names() == ["s-v1-1", "s-v2-1"]

    run(body(), 120)
