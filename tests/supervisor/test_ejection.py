"""The supervisor shares the passive health of an instance among all workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.test_reconciler import HEAD, SERVE
from tests.supervisor.up import command

CONFIG = (
    HEAD
    + """
workers: 2
services:
  s:
    run: [python, -S, serve.py, "{port}"]
    instances: 3
    health: {path: /}
    balance: round_robin
    eject: {failures: 3, time: 1s}
    slow_start: 1s
routes: [{path: "/{rest*}", service: s, attempts: 1}]
"""
)


@pytest.mark.slow
def test_an_instance_that_fails_requests_is_ejected_for_all_workers_and_comes_back(tmp_path: Path) -> None:
    wrong = "200 if path == '/' or not body.endswith(b'-2') or os.path.exists('well') else 500"
    (tmp_path / "serve.py").write_text(SERVE.replace("status = 200", f"status = {wrong}"))
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    with command(tmp_path, "up") as running:
        running.listening()

        def states() -> list[str]:
            return [instance["state"] for instance in running.instances("s")]

        def asked() -> list[str]:
            running.get("/x")
            return states()

        until_now(lambda: asked() == ["up", "ejected", "up"], 10)
        running.says(r"s-2 is ejected: requests to it keep failing\n")
        # Connections are spread over both workers, and neither picks the instance.
        assert {running.get("/x")[0] for _ in range(12)} == {200}
        (tmp_path / "well").touch()
        until_now(lambda: states() == ["up"] * 3, 10)
        until_now(lambda: running.get("/x")[1] == b"s-2", 10)
        running.says(r"s-2 is up again\n")
        assert running.stop() == 0
