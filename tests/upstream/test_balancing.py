"""The settings for load balancing, health and retries, as clients see their effect."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest

from passerelle.upstream import request as upstream_request
from passerelle.upstream.members import InstanceSpec
from tests.support.client import Client, head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import Response, wait_until

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n%b\r\nbusy"
SECRET = "0123456789abcdef"


def named(rig: Rig, *names: bytes) -> list[Upstream]:
    return [rig.upstream(answering(ok(name))) for name in names]


def bodies(client: Client, number: int, *fields: tuple[str, str], target: str = "/") -> Counter[bytes]:
    return Counter(client.request("GET", target, *fields).body for _ in range(number))


def statuses(running: Running) -> dict[str, str]:
    listed = running._loop.call(running.gateway.status)["u"]
    return {instance["name"]: instance["status"] for instance in listed}


def hashed(by: str) -> dict[str, Any]:
    return {"balance": {"policy": "hash", "by": by}}


# Keys


@pytest.mark.parametrize(
    ("by", "same", "other"),
    [
        ("header:X-User", [("x-user", "ann")], "x-user"),
        ("cookie:id", [("Cookie", "a=b; id=ann")], "Cookie"),
    ],
)
def test_the_same_key_goes_to_the_same_instance(rig: Rig, by: str, same: list[tuple[str, str]], other: str) -> None:
    client = rig.connect(rig.forward(*named(rig, b"1", b"2", b"3"), service=hashed(by)))
    assert len(bodies(client, 10, *same)) == 1
    value = "id=" if other == "Cookie" else ""
    assert {client.request("GET", "/", (other, f"{value}{n}")).body for n in range(60)} == {b"1", b"2", b"3"}


def test_a_parameter_or_an_address_can_be_the_key(rig: Rig) -> None:
    ups = named(rig, b"1", b"2", b"3")
    by_user = rig.forward(*ups, service=hashed("param:user"), route={"path": "/user/{user}/{rest*}"})
    client = rig.connect(by_user)
    assert all(len({client.request("GET", f"/user/{u}/{n}").body for n in range(4)}) == 1 for u in range(10))
    assert {client.request("GET", f"/user/{u}/x").body for u in range(60)} == {b"1", b"2", b"3"}
    assert len(bodies(rig.connect(rig.forward(*ups, service=hashed("address"))), 10)) == 1


def test_a_sticky_cookie_keeps_a_client_at_its_instance(rig: Rig) -> None:
    one, two = named(rig, b"1", b"2")
    gateway = rig.forward(one, two, service={"balance": {"sticky": {"cookie": "at", "secret": SECRET}}})
    client = rig.connect(gateway)
    first = client.request()
    (cookie,) = first.all("set-cookie")
    found = re.fullmatch(rb"at=([0-9a-f]{22}); Path=/; HttpOnly; SameSite=Lax", cookie)
    assert found is not None
    pair = ("Cookie", f"x=y; at={found[1].decode()}")
    responses = [client.request("GET", "/", pair) for _ in range(10)]
    assert {response.body for response in responses} == {first.body}
    assert all(response.all("set-cookie") == [] for response in responses)
    # The instance is removed: another one responds, with a new cookie.
    gateway.set_instances("u", two if first.body == b"1" else one)
    moved = client.request("GET", "/", pair)
    assert moved.body != first.body and len(moved.all("set-cookie")) == 1


def test_an_invalid_token_is_ignored(rig: Rig) -> None:
    gateway = rig.forward(*named(rig, b"1", b"2"), service={"balance": {"sticky": {"cookie": "at", "secret": SECRET}}})
    response = rig.connect(gateway).request("GET", "/", ("Cookie", "at=../../etc"))
    assert response.status == 200 and len(response.all("set-cookie")) == 1


# Zones


def zones(rig: Rig, near: list[Upstream], far: list[Upstream], **service: Any) -> Running:
    groups = {
        "near": {"targets": [u.url for u in near]},
        "far": {"targets": [u.url for u in far], "priority": 1},
    }
    return rig.gateway({"u": {"zones": groups, **service}}, [{"path": "/{rest*}", "service": "u"}])


def test_a_zone_of_the_next_priority_takes_over_until_the_first_one_recovers(rig: Rig) -> None:
    near, far = named(rig, b"near", b"far")
    gateway = zones(rig, [near], [far], eject={"failures": 1, "time": "200ms", "at_most": "100%"}, slow_start="off")
    client = rig.connect(gateway)
    assert bodies(client, 20) == {b"near": 20}
    near.refuse()
    for conn in near.open_connections():
        conn.sock.shutdown(socket.SHUT_RDWR)
    assert bodies(client, 20) == {b"far": 20}
    near.listen()
    wait_until(lambda: client.request().body == b"near", "the first zone takes the requests again", 5)


def test_the_near_zone_takes_what_it_has_the_capacity_for(rig: Rig) -> None:
    one, two, far = named(rig, b"1", b"2", b"far")
    # Without `near`, the near zone would come last by priority, and have the smallest weight.
    groups = {
        "east": {"targets": [far.url], "weight": 100},
        "west": {"targets": [one.url, two.url], "priority": 2},
    }
    service = {
        "zones": groups,
        "near": "west",
        "eject": {"failures": 1, "time": "5m", "at_most": "100%"},
        "slow_start": "off",
    }
    routes = [{"path": "/{rest*}", "service": "u"}]
    gateway = rig.gateway({"u": service}, routes)
    client = rig.connect(gateway)
    assert bodies(client, 20)[b"far"] == 0
    for conn in [*one.open_connections(), *two.open_connections()]:
        conn.sock.shutdown(socket.SHUT_RDWR)
    one.refuse()
    wait_until(lambda: client.request().body == b"far", "half of the zone has the capacity for 70 %", 20)
    assert 0 < bodies(client, 100)[b"far"] < 50
    two.refuse()
    for conn in two.open_connections():
        conn.sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: bodies(client, 10) == {b"far": 10}, "an empty zone takes nothing", 20)
    gateway.reload({"u": {**service, "near": "east"}}, routes)
    assert bodies(client, 20) == {b"far": 20}


# Passive health


def refuses_then(rig: Rig) -> tuple[Upstream, Upstream]:
    bad = rig.upstream(answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"))
    return bad, rig.upstream(answering(ok(b"good")))


def test_five_failures_in_a_row_eject_an_instance(rig: Rig) -> None:
    bad, good = refuses_then(rig)
    gateway = rig.forward(bad, good, service={"balance": "round_robin"})
    client = rig.connect(gateway)
    found = [client.request().status for _ in range(30)]
    assert found.count(500) == 5 and found[-18:] == [200] * 18
    assert statuses(gateway) == {"u-1": "ejected", "u-2": "up"}


def test_neither_the_last_instance_nor_more_than_half_is_ejected(rig: Rig) -> None:
    bad = [refuses_then(rig)[0] for _ in range(3)]
    gateway = rig.forward(*bad, service={"balance": "round_robin"})
    client = rig.connect(gateway)
    assert {client.request().status for _ in range(60)} == {500}
    assert sorted(statuses(gateway).values()) == ["ejected", "up", "up"]


def test_ejection_can_be_switched_off(rig: Rig) -> None:
    gateway = rig.forward(*refuses_then(rig), service={"balance": "round_robin", "eject": "off"})
    client = rig.connect(gateway)
    assert [client.request().status for _ in range(30)].count(500) == 15
    assert set(statuses(gateway).values()) == {"up"}


def test_neither_a_client_that_leaves_nor_a_full_queue_ejects_an_instance(rig: Rig) -> None:
    release = threading.Event()

    def slow(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok())

    ups = [rig.upstream(slow), rig.upstream(slow)]
    gateway = rig.forward(*ups, service={"max_connections": 1, "max_waiting": 0, "eject": {"failures": 1}})
    first, second = rig.connect(gateway), rig.connect(gateway)
    for number, client in enumerate((first, second), 1):
        client.send(head())
        wait_until(partial(_has, ups, number), "the request arrives")
    for _ in range(5):
        response = rig.connect(gateway).request()
        problem(response, 503)
        assert response.all("retry-after") == [b"1"]
    assert set(statuses(gateway).values()) == {"up"}
    first.reset()
    wait_until(
        lambda: gateway.snapshot()["services"]["u"]["in_flight"] == 1,
        "the request of the client that left is no longer counted",
    )
    assert set(statuses(gateway).values()) == {"up"}
    release.set()
    assert second.read_response().status == 200


def _has(ups: list[Upstream], number: int) -> bool:
    return sum(len(upstream.requests) for upstream in ups) == number


def test_a_full_instance_is_skipped_while_another_has_room(rig: Rig) -> None:
    release = threading.Event()

    def slow(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok(b"slow"))

    one, two = rig.upstream(slow), rig.upstream(answering(ok(b"quick")))
    gateway = rig.forward(one, two, service={"balance": "round_robin", "max_connections": 1, "max_waiting": 0})
    waiting, client = rig.connect(gateway), rig.connect(gateway)
    wait_until(lambda: _waits(rig, gateway, waiting, one), "one request is held")
    assert bodies(client, 10) == {b"quick": 10}
    release.set()


def _waits(rig: Rig, gateway: Running, client: Client, held: Upstream) -> bool:
    """Send a request; whether the upstream that holds requests has got it."""
    client.send(head())
    if held.heads:
        return True
    try:
        client.read_response(within=0.3)
    except (OSError, AssertionError):
        return bool(held.heads)
    return False


# The circuit breaker


def test_a_breaker_opens_refuses_at_once_and_closes(rig: Rig) -> None:
    broken = threading.Event()
    broken.set()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" if broken.is_set() else ok())

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, service={"breaker": {"minimum": 4, "open": "300ms", "probes": 1}})
    client = rig.connect(gateway)
    assert [client.request().status for _ in range(4)] == [500] * 4
    response = client.request()
    problem(response, 503)
    assert response.all("retry-after") == [b"1"] and b'"breaker_open"' in response.body
    assert len(upstream.requests) == 4
    broken.clear()
    wait_until(lambda: client.request().status == 200, "the breaker closes", 5)
    assert [client.request().status for _ in range(5)] == [200] * 5


# Retries


def dies(conn: Connection) -> None:
    conn.read_request()
    conn.close()


def test_retries_have_a_budget(rig: Rig) -> None:
    upstream = rig.upstream(dies)
    settings = {"budget": "20%", "floor": 1, "backoff": "1ms"}
    gateway = rig.forward(upstream, service={"retries": settings, "eject": "off"})
    client = rig.connect(gateway)
    for _ in range(40):
        problem(client.request(), 502)
    # 20 % of 40 is 8, and 5 are allowed from the start (1 a second, in a window of 5 s)
    assert 45 <= len(upstream.requests) <= 48
    assert gateway.snapshot()["services"]["u"]["retries"] == len(upstream.requests) - 40


def test_a_client_that_leaves_during_the_backoff_ends_the_request(rig: Rig) -> None:
    upstream = rig.upstream([dies, answering(ok())])
    gateway = rig.forward(upstream, service={"retries": {"backoff": "10s", "max_backoff": "10s"}})
    client = rig.connect(gateway)
    client.send(head())
    upstream.wait_requests(1)
    wait_until(lambda: gateway.snapshot()["services"]["u"]["in_flight"] == 0, "the first attempt is no longer counted")
    client.reset()
    wait_until(lambda: gateway.snapshot()["routes"]["/{rest*}"]["in_flight"] == 0, "the request is over")
    assert len(upstream.requests) == 1


def test_the_deadline_ends_the_backoff(rig: Rig) -> None:
    upstream = rig.upstream([dies, answering(ok())])
    service = {"retries": {"backoff": "10s", "max_backoff": "10s"}}
    client = rig.connect(rig.forward(upstream, service=service, route={"timeout": "300ms"}))
    response = client.request()
    assert response.status in (200, 502, 504)  # depending on the random delay: short, over the deadline, or in between


ON_503 = {"retries": {"on_status": [503], "backoff": "1ms"}, "balance": "round_robin", "eject": "off"}


def test_a_503_is_forwarded_unless_it_is_retried(rig: Rig) -> None:
    busy, good = rig.upstream(answering(UNAVAILABLE % b"")), rig.upstream(answering(ok(b"good")))
    relayed = rig.connect(rig.forward(busy, good, service={"balance": "round_robin"}))
    assert {relayed.request().status for _ in range(2)} == {200, 503}
    retried = rig.connect(rig.forward(busy, good, service=ON_503))
    assert [retried.request().body for _ in range(6)] == [b"good"] * 6
    assert [retried.request("PUT", "/", body=b"x").body for _ in range(4)] == [b"good"] * 4
    assert {retried.request("POST", "/", body=b"x").status for _ in range(2)} == {200, 503}


def test_retry_after_is_respected_without_another_instance(rig: Rig) -> None:
    upstream = rig.upstream([answering(UNAVAILABLE % b"Retry-After: 1\r\n"), answering(ok(b"now"))])
    client = rig.connect(rig.forward(upstream, service=ON_503))
    begun = time.monotonic()
    assert client.request().body == b"now"
    assert time.monotonic() - begun >= 1.0


def test_a_response_with_retry_after_beyond_the_deadline_is_forwarded_at_once(rig: Rig) -> None:
    upstream = rig.upstream(answering(UNAVAILABLE % b"Retry-After: 60\r\n"))
    client = rig.connect(rig.forward(upstream, service=ON_503, route={"timeout": "2s"}))
    response: Response = client.request()
    assert (response.status, response.body, response.all("retry-after")) == (503, b"busy", [b"60"])
    assert len(upstream.requests) == 1


def test_methods_can_be_excluded(rig: Rig) -> None:
    upstream = rig.upstream(dies)
    client = rig.connect(rig.forward(upstream, service={"retries": {"methods": ["GET", "HEAD"]}}))
    problem(client.request("PUT", "/", body=b"x"), 502)
    assert len(upstream.requests) == 1
    problem(client.request("GET", "/"), 502)
    assert len(upstream.requests) == 3


# Instances that fail their probes


def silent(conn: Connection) -> None:
    conn.read_request()


def test_requests_at_an_instance_that_goes_down_are_retried_if_that_is_safe(rig: Rig) -> None:
    frozen, good = rig.upstream(silent), rig.upstream(answering(ok(b"good")))
    gateway = rig.forward(frozen, service={"retries": {"backoff": "1ms"}})
    get, post = rig.connect(gateway), rig.connect(gateway)
    get.send(head())
    post.send(head("POST", "/", length=1) + b"x")
    frozen.wait_requests(2)
    specs = [{"name": "u-1", "host": "127.0.0.1", "port": frozen.port, "status": "DOWN"}]
    specs += [{"name": "u-2", "host": "127.0.0.1", "port": good.port}]
    rig.loop.call(lambda: _set_instances(gateway, specs))
    assert get.read_response().body == b"good"
    assert (
        len(frozen.open_connections()) <= 1
    )  # that of the POST, which may have had an effect, so that it is not retried
    assert gateway.snapshot()["services"]["u"]["in_flight"] == 1


def _set_instances(gateway: Running, specs: list[dict[str, Any]]) -> None:
    gateway.gateway.report_health_to(lambda event, service, instance: None)
    gateway.gateway.set_instances("u", [InstanceSpec(**spec) for spec in specs])


def test_attempts_at_instances_that_turn_out_to_be_down_do_not_count(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        upstream_request, "HEALTH_REPORT_WAIT", 1.0
    )  # the time in which the test acts as the supervisor
    alive = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(ok(b"good")) if alive.is_set() else conn.close()

    ups = [rig.upstream(script) for _ in range(3)]
    gateway = rig.forward(*ups, service={"retries": {"backoff": "1ms"}})
    specs = [{"name": f"u-{n}", "host": "127.0.0.1", "port": u.port} for n, u in enumerate(ups, 1)]
    rig.loop.call(lambda: _set_instances(gateway, specs))
    client = rig.connect(gateway)
    problem(client.request(), 502)  # all are reported up: two attempts, a wait for the report, and no more
    assert sum(len(u.requests) for u in ups) == 2
    client.send(head())
    wait_until(lambda: sum(len(u.requests) for u in ups) == 4, "two more attempts")
    alive.set()
    for spec, upstream in zip(specs, ups, strict=True):
        spec["status"] = "DOWN" if upstream.connections else "UP"
    if all(spec["status"] == "DOWN" for spec in specs):
        specs[-1]["status"] = "UP"
    rig.loop.call(lambda: _set_instances(gateway, specs))
    assert client.read_response().body == b"good"
