"""The access log of a gateway: its destinations, and reloads that change which requests of a route are logged."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import Rig
from tests.support.wire import wait_until

QUIET = {"path": "/quiet", "respond": 200}
LOUD = {"path": "/loud", "respond": 200}


SERVICES = {"u": {"targets": ["http://127.0.0.1:9"]}}


def targets(log: Path, count: int) -> list[str]:
    """Return the targets in the log once there are ``count``."""
    wait_until(lambda: log.read_text().count("\n") >= count, "lines in the log")
    return [json.loads(line)["target"] for line in log.read_text().splitlines()]


def test_a_reload_changes_what_a_route_logs(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    gateway = rig.gateway(SERVICES, [QUIET, LOUD], access_log=str(log))
    client = rig.connect(gateway)
    seen: list[str] = []
    for route, logged in (({}, True), ({"log": "off"}, False), ({"log": "errors"}, False), ({"log": "all"}, True)):
        gateway.reload(SERVICES, [QUIET | route, LOUD])
        for target in ("/quiet", "/loud"):
            assert client.request("GET", target).status == 200
        seen += ["/quiet", "/loud"] if logged else ["/loud"]
        assert targets(log, len(seen)) == seen


def test_defaults_apply_to_routes(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    routes = [QUIET, LOUD | {"log": "all"}]
    client = rig.connect(rig.gateway({}, routes, access_log=str(log), defaults={"log": "off"}))
    for target in ("/quiet", "/none", "/loud"):
        client.request("GET", target)
    assert targets(log, 2) == ["/none", "/loud"]


@pytest.mark.parametrize("kind", ["syslog", "journald"])
def test_a_request_is_sent_to_a_socket(rig: Rig, tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "log")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(path)
        receiver.settimeout(10)
        where = f"syslog+unix:{path}" if kind == "syslog" else f"journald:{path}"
        settings: dict[str, Any] = {"access_log": where, "access_log_format": "{method} {target} {status}"}
        gateway = rig.gateway({}, [LOUD], **settings)
        assert rig.connect(gateway).request("GET", "/loud").status == 200
        message = receiver.recv(65536)
        if kind == "syslog":
            assert message.startswith(b"<134>1 ") and message.endswith(b" access - GET /loud 200")
        else:
            assert b"GET /loud 200" in message and b"PASSERELLE_STATUS\n" in message
        counts = gateway.snapshot()["access_log"]
        assert counts["dropped"] == 0


def test_requests_are_served_while_a_log_server_is_down(rig: Rig, tmp_path: Path) -> None:
    gateway = rig.gateway({}, [LOUD], access_log=f"syslog+unix:{tmp_path}/missing")
    client = rig.connect(gateway)
    for _ in range(50):
        assert client.request("GET", "/loud").status == 200
    gateway.stop()
    assert gateway.snapshot()["access_log"] == {"lines": 0, "dropped": 50}
