"""Keys of `app` services in a running system: `max_requests`, `worker_timeout`, `grace`, `on_start`, `transport`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, up

LIMIT = 30.0  # seconds
APP = """
import os, threading, time

started = []

def start():
    started.append(os.getpid())

def app(environ, start_response):
    if environ["PATH_INFO"].endswith("/hang"):
        threading.Event().wait()
    start_response("200 OK", [])
    client = (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"], environ["SCRIPT_NAME"])
    return [f"{started == [os.getpid()]} {' '.join(client)} {environ['PATH_INFO']}".encode()]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"].endswith("/hang"):
        time.sleep(1000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    text = f"{scope['client'][0]} {scope['scheme']} {scope['root_path']} {scope['path']}"
    await send({"type": "http.response.body", "body": text.encode()})
"""
CONFIG = """
trusted_proxies: [127.0.0.1]
services:
  short: {app: "keys:app", on_start: "keys:start", max_requests: 20, max_requests_jitter: 2}
  hung: {app: "keys:app", threads: 2, worker_timeout: 1s, grace: 2s}
  loop: {app: "keys:asgi", worker_timeout: 1s}
  port: {app: "keys:asgi", transport: tcp}
routes:
  - {path: "/short/{p*}", service: short, rewrite: "/{p}"}
  - {path: "/hung/{p*}", service: hung, rewrite: "/{p}", attempts: 1, timeout: 20s}
  - {path: "/loop/{p*}", service: loop, rewrite: "/{p}", attempts: 1, timeout: 20s}
  - {path: "/port/{p*}", service: port, rewrite: "/{p}"}
  - {path: "/back/{p*}", service: short, rewrite: "/{p}", rewrite_response: true}
"""
FORWARDED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys.py").write_text(APP)
    with up(folder, CONFIG) as started:
        started.listening()
        yield started
        sockets = {Path(socket(started, name)).parent for name in ("short", "hung", "loop")}
        assert started.stop() == 0, started.text
        assert [each for each in sockets if each.exists()] == []


def socket(running: Up, service: str) -> str:
    (instance,) = running.instances(service)
    assert instance["address"].startswith("unix:/"), instance
    return str(instance["address"].removeprefix("unix:"))


def test_applications_see_the_client_that_the_gateway_vouches_for(running: Up) -> None:
    assert running.get("/short/x", **FORWARDED) == (200, b"True 203.0.113.7 https shop.example /short /x")
    for service in ("loop", "port"):
        seen = f"203.0.113.7 https /{service} /{service}/x".encode()
        assert running.get(f"/{service}/x", **FORWARDED) == (200, seen)


def test_responses_that_are_rewritten_have_the_prefix_from_the_gateway_alone(running: Up) -> None:
    assert running.get("/back/x", **FORWARDED) == (200, b"True 203.0.113.7 https shop.example  /x")


def test_their_sockets_are_for_this_user_alone(running: Up) -> None:
    path = Path(socket(running, "hung"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    (instance,) = running.instances("port")
    assert instance["address"].startswith("127.0.0.1:")


def test_an_instance_is_replaced_after_max_requests_without_a_failed_request(running: Up) -> None:
    before = running.instances("short")[0]
    stop, statuses = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            statuses.append(running.get("/short/x")[0])

    clients = [threading.Thread(target=load) for _ in range(2)]
    for client in clients:
        client.start()
    try:

        def replaced() -> bool:
            found = running.instances("short")
            return len(found) == 1 and found[0]["pid"] != before["pid"] and found[0]["state"] == "up"

        until_now(replaced, LIMIT)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert set(statuses) == {200}
    assert len(statuses) > 20
    running.says(f"{before['name']} was replaced after max_requests")
    assert not os.path.exists(before["address"].removeprefix("unix:"))


@pytest.mark.parametrize(
    ("service", "statuses", "reason"),
    [("hung", [504, 504], "has ended itself because all its threads were hung"), ("loop", [502], "exited with code 1")],
)
def test_a_hung_instance_is_ended_and_started_again(
    running: Up, service: str, statuses: list[int], reason: str
) -> None:
    found: list[int] = []
    clients = [
        threading.Thread(target=lambda: found.append(running.get(f"/{service}/hang")[0])) for _ in range(len(statuses))
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(LIMIT)
    assert found == statuses

    def started_again() -> bool:
        (instance,) = running.instances(service)
        return (instance["state"], instance["restarts"]) == ("up", 1)

    until_now(started_again, LIMIT)
    assert running.instances(service)[0]["last_end"] == reason
    assert running.get(f"/{service}/x")[0] == 200


def test_a_reload_that_changes_the_transport_replaces_the_instances(running: Up) -> None:
    (before,) = running.instances("port")
    file = Path(os.readlink(f"/proc/{running.popen.pid}/cwd")) / "gateway.yaml"
    text = file.read_text()
    file.write_text(text.replace("transport: tcp", "transport: unix"))
    running.popen.send_signal(signal.SIGHUP)
    until_now(lambda: [i["address"][:6] for i in running.instances("port")] == ["unix:/"], LIMIT)
    assert running.instances("port")[0]["pid"] != before["pid"]
    assert running.get("/port/x")[0] == 200
