"""The exported folder at work: nginx, two gateways, Redis and replicas of a service, each with its own address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.containers import exported
from tests.export.serving import deployed
from tests.requirements import absent, needs, program

pytestmark = needs("nginx", "redis-server", "unshare", "ip")

ROOT = Path(__file__).resolve().parents[2]
APP = """
import json, os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    found = {
        "address": os.readlink("/proc/self/ns/net"),
        "client": environ["REMOTE_ADDR"],
        "password": os.environ["PASSWORD"],
        "odd": os.environ["ODD"],
    }
    return [json.dumps(found).encode()]
"""
CONFIG = """
services:
  u:
    app: app:app
    instances: 2
    health: {path: /healthz}
    env: {PASSWORD: "a ${UNKNOWN_PASSWORD} b", ODD: "$$HOME ' yes"}
routes:
  - {path: "/{rest*}", service: u}
  - {path: /limited, service: u, rate_limit: {rate: 3/m}}
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_containers_serve_requests_through_nginx(tmp_path: Path) -> None:
    words = [program("unshare"), "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0 or subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        absent("unshare is missing the permission to create namespaces")
    # The workers of nginx are of another user.
    tmp_path.chmod(0o755)
    (tmp_path / "app.py").write_text(APP)
    for name, text in exported(deployed(CONFIG, environ={"UNKNOWN_PASSWORD": "x"})).files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [*words, sys.executable, "-m", "tests.export.stack", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr + logs(tmp_path)
    seen = json.loads(done.stdout)
    assert seen["statuses"] == [200] * 20
    assert len(seen["addresses"]) == 2  # both replicas were found by their name
    assert seen["service"] == {
        "client": "10.213.84.1",
        "password": "a UNKNOWN_PASSWORD-0123456789abcdef b",
        "odd": "$HOME ' yes",
    }
    assert seen["limited"] == {"200": 3, "429": 5}  # both gateways count in Redis
    assert seen["metrics"] == [401, 200]
    assert seen["after"] == [200] * 6
    assert set(seen["codes"].values()) == {0}, logs(tmp_path)


def logs(folder: Path) -> str:
    return "".join(f"{file.name}:\n{file.read_text()}\n" for file in folder.glob("*.log"))
