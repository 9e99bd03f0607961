"""An instance whose threads are all stuck in calls for clients that are gone ends itself and is started again."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from tests.supervisor.helpers import until_now
from tests.supervisor.up import up

APP = """
import threading
from passerelle.appserver import thread_pool

thread_pool.STUCK_AFTER = 0.2  # seconds

def app(environ, start_response):
    if environ["PATH_INFO"] == "/stuck":
        threading.Event().wait()
    start_response("200 OK", [])
    return [b"ok"]
"""
CONFIG = """
services:
  s: {app: "stuck:app", threads: 2}
routes:
  - {path: "/{path*}", service: s, timeout: 300ms, attempts: 1}
"""


def test_an_instance_with_stuck_threads_is_replaced_without_a_health_check(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(APP)
    with up(tmp_path, CONFIG) as running:
        running.listening()
        assert running.get("/") == (200, b"ok")
        assert [running.get("/stuck")[0] for _ in range(2)] == [504, 504]

        def responds() -> bool:
            try:
                return running.get("/")[0] == 200
            except http.client.HTTPException:
                return False

        until_now(responds, 30.0)
        (instance,) = running.instances("s")
        assert instance["restarts"] == 1
        assert instance["last_end"] == "has ended itself because all its threads were stuck"
        (end,) = [e for e in json.loads(running.get("/events", running.admin)[1])["events"] if e["kind"] == "end"]
        assert end["text"].startswith("s-1 has ended itself because all its threads were stuck after")
        assert "and requests wait: this instance ends" in running.text
        assert "Traceback" not in running.text
