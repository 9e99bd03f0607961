"""The concurrency limit of a service with real instances: requests run, wait, or are refused, and are counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.client import Client, head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import wait_until

ONE = {"concurrency": {"min": 1, "max": 2, "initial": 1}, "max_waiting": 1}


def concurrency(gateway: Running) -> dict[str, int]:
    found: dict[str, int] = gateway.snapshot()["services"]["u"]["concurrency"]
    return found


def wait_for(gateway: Running, **expected: int) -> None:
    wait_until(lambda: expected.items() <= concurrency(gateway).items(), str(expected), 20)


def held(rig: Rig) -> tuple[Upstream, threading.Event]:
    """Return an instance that does not respond before the event is set, and the event."""
    release = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            assert release.wait(60)
            conn.send(ok(request.body or b"ok"))

    return rig.upstream(script), release


class Workers:
    """A service that works on ``count`` requests at once, and queues the others."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.busy = 0
        self.free = threading.Condition()

    def __call__(self, conn: Connection) -> None:
        while True:
            conn.read_request()
            with self.free:
                self.free.wait_for(lambda: self.busy < self.count)
                self.busy += 1
            threading.Event().wait(0.01)  # the work
            with self.free:
                self.busy -= 1
                self.free.notify()
            conn.send(ok())


@contextmanager
def load(gateway: Running, clients: int) -> Iterator[list[int]]:
    """Run ``clients`` clients that send requests all the time; yield the list of the statuses that they get."""
    stop, statuses = threading.Event(), []

    def send_requests() -> None:
        with gateway.connect() as client:
            while not stop.is_set():
                statuses.append(client.request(within=60).status)

    threads = [threading.Thread(target=send_requests) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_the_limit_falls_for_an_overloaded_service_and_rises_again(rig: Rig) -> None:
    workers = Workers(2)
    gateway = rig.forward(rig.upstream(workers), service={"concurrency": {"initial": 16}})
    with load(gateway, 16) as statuses:
        wait_until(lambda: concurrency(gateway)["limit"] <= 8, "the limit falls", 60)
        with workers.free:
            workers.count = 100
            workers.free.notify_all()
        wait_until(lambda: concurrency(gateway)["limit"] >= 16, "the limit rises again", 60)
    settle(gateway, 20)
    assert set(statuses) == {200}  # the others waited
    assert concurrency(gateway) | {"limit": 0} == {"limit": 0, "running": 0, "waiting": 0}


def test_beyond_the_limit_some_requests_wait_and_the_others_are_refused_at_once(rig: Rig) -> None:
    upstream, release = held(rig)
    gateway = rig.forward(upstream, service=ONE)
    first, second, third = (rig.connect(gateway) for _ in range(3))
    first.send(head())
    wait_for(gateway, running=1)
    second.send(head("POST", "/", length=4) + b"wait")
    wait_for(gateway, waiting=1)
    refused = third.request(within=20)
    problem(refused, 503)
    assert int(refused.get("retry-after") or b"0") >= 1
    assert gateway.snapshot()["services"]["u"]["limited"] == 1
    assert gateway.snapshot()["routes"]["/{rest*}"]["failures"] == {"overloaded": 1}
    release.set()
    assert first.read_response(within=20).body == b"ok"
    assert second.read_response("POST", 20).body == b"wait"
    assert len(upstream.requests) == 2
    settle(gateway, 20)
    assert concurrency(gateway) == {"limit": 1, "running": 0, "waiting": 0}


def test_a_client_that_leaves_while_waiting_frees_its_place_in_the_queue(rig: Rig) -> None:
    upstream, release = held(rig)
    gateway = rig.forward(upstream, service=ONE)
    first, second, third = (rig.connect(gateway) for _ in range(3))
    first.send(head())
    wait_for(gateway, running=1)
    second.send(head())
    wait_for(gateway, waiting=1)
    second.reset()
    wait_for(gateway, waiting=0)
    third.send(head())
    wait_for(gateway, waiting=1)
    first.reset()  # the running one: its place goes to the waiting one
    upstream.wait_requests(2, 20)
    release.set()
    assert third.read_response(within=20).status == 200
    settle(gateway, 20)
    assert concurrency(gateway) == {"limit": 1, "running": 0, "waiting": 0}
    assert len(upstream.requests) == 2


def test_a_request_that_waits_until_its_deadline_is_never_sent(rig: Rig) -> None:
    upstream, release = held(rig)
    routes: list[dict[str, Any]] = [
        {"path": "/slow", "service": "u"},
        {"path": "/quick", "service": "u", "timeout": "100ms"},
    ]
    gateway = rig.gateway({"u": {"targets": [upstream.url], **ONE}}, routes)
    first, second = rig.connect(gateway), rig.connect(gateway)
    first.send(head("GET", "/slow"))
    wait_for(gateway, running=1)
    response = second.request("GET", "/quick", within=20)
    problem(response, 503)
    assert response.get("retry-after")
    release.set()
    assert first.read_response(within=20).status == 200
    assert len(upstream.requests) == 1
    assert concurrency(gateway)["waiting"] == 0


def test_a_stream_that_has_begun_does_not_count(rig: Rig) -> None:
    release = threading.Event()

    def script(conn: Connection) -> None:
        request = conn.read_request()
        if request.target == b"/events":
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            conn.wait(release)
            conn.close()
        else:
            conn.send(ok())

    gateway = rig.forward(rig.upstream(script), service=ONE)
    stream, other = rig.connect(gateway), rig.connect(gateway)
    stream.send(head("GET", "/events"))
    wait_until(lambda: gateway.snapshot()["services"]["u"]["in_flight"] == 1, "the stream is open", 20)
    wait_for(gateway, running=0)
    assert other.request(within=20).status == 200
    release.set()
    settle(gateway, 20)


@pytest.mark.parametrize("what", ["breaker", "no instance"])
def test_many_waiting_requests_that_fail_at_once_are_all_settled(rig: Rig, what: str) -> None:
    """Hundreds of requests that end as soon as they are admitted: one after the other, without recursion."""
    upstream, release = held(rig)
    service = {**ONE, "max_waiting": 600, "breaker": {"minimum": 1}}
    gateway = rig.forward(upstream, service=service, route={"attempts": 1})
    first = rig.connect(gateway)
    first.send(head())
    wait_for(gateway, running=1)
    others = [rig.connect(gateway) for _ in range(400)]
    for client in others:
        client.send(head())
    wait_for(gateway, waiting=400)
    if what == "no instance":
        gateway.set_instances("u")
        release.set()
    else:
        upstream.connections[0].reset()
    first.rest_or_response()
    for client in others:
        problem(client.read_response(within=20), 503)
    settle(gateway, 20)
    assert concurrency(gateway) == {"limit": 1, "running": 0, "waiting": 0}


def test_requests_of_forward_auth_do_not_count(rig: Rig) -> None:
    upstream, release = held(rig)
    routes: list[dict[str, Any]] = [
        {"path": "/auth", "service": "u"},
        {"path": "/guarded", "service": "v", "forward_auth": {"service": "u", "path": "/check", "timeout": "30s"}},
    ]
    services = {"u": {"targets": [upstream.url], **ONE}, "v": {"targets": [rig.upstream(answering(ok(b"in"))).url]}}
    gateway = rig.gateway(services, routes)
    first, second, guarded = (rig.connect(gateway) for _ in range(3))
    first.send(head("GET", "/auth"))
    wait_for(gateway, running=1)
    second.send(head("GET", "/auth"))
    wait_for(gateway, waiting=1)
    guarded.send(head("GET", "/guarded"))
    upstream.wait_requests(2, 20)
    assert {request.target for request in upstream.requests} == {b"/auth", b"/check"}
    assert concurrency(gateway) == {"limit": 1, "running": 1, "waiting": 1}
    release.set()
    assert guarded.read_response(within=20).body == b"in"
    assert [client.read_response(within=20).status for client in (first, second)] == [200, 200]
    settle(gateway, 20)


def test_a_reload_keeps_the_limit_unless_its_settings_change(rig: Rig) -> None:
    upstream, release = held(rig)
    gateway = rig.forward(upstream, service=ONE)
    routes = [{"path": "/{rest*}", "service": "u"}]
    clients: list[Client] = [rig.connect(gateway) for _ in range(2)]
    clients[0].send(head())
    wait_for(gateway, running=1)
    clients[1].send(head())
    wait_for(gateway, waiting=1)
    gateway.reload({"u": {"targets": [upstream.url], **ONE, "keepalive": "3s"}}, routes)
    assert concurrency(gateway) == {"limit": 1, "running": 1, "waiting": 1}
    gateway.reload({"u": {"targets": [upstream.url], "concurrency": "adaptive"}}, routes)
    assert concurrency(gateway) == {"limit": 20, "running": 0, "waiting": 0}
    gateway.reload({"u": {"targets": [upstream.url]}}, routes)
    assert concurrency(gateway) == {}
    release.set()
    assert [client.read_response(within=20).status for client in clients] == [200, 200]
    settle(gateway, 20)


def test_with_retries_and_attempt_timeouts_each_request_has_one_place(rig: Rig) -> None:
    def stuck(conn: Connection) -> None:
        while True:
            conn.read_request()

    gateway = rig.forward(
        rig.upstream(stuck),
        rig.upstream(answering(ok())),
        service={"concurrency": "adaptive", "balance": "round_robin", "eject": "off"},
        route={"attempt_timeout": "100ms"},
    )
    client = rig.connect(gateway)
    assert [client.request(within=20).status for _ in range(6)] == [200] * 6
    assert gateway.snapshot()["services"]["u"]["retries"] >= 2
    settle(gateway, 20)
    assert concurrency(gateway) == {"limit": 20, "running": 0, "waiting": 0}
