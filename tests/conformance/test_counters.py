"""The gateway's counters equal the work in flight, however it ends (policy)."""

from __future__ import annotations

import threading

import pytest

from tests.support.client import Client, head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running, in_flight, settle
from tests.support.upstream import Connection, Script, Upstream, answering, ok
from tests.support.wire import wait_until

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
UPGRADE = head("GET", "/ws", ("Upgrade", "x"), ("Connection", "Upgrade"))


def tunnels_or_answers(conn: Connection) -> None:
    while True:
        request = conn.read_head()
        if request.all("upgrade"):
            conn.send(SWITCH)
            return
        conn.send(ok())


def upgraded(rig: Rig, gateway: Running) -> Client:
    client = rig.connect(gateway)
    client.send(UPGRADE)
    assert client.read_response().status == 101
    return client


def open_work(gateway: Running) -> int:
    """Return the requests in flight that the balancer counts for the service."""
    return int(gateway.snapshot()["services"]["u"]["in_flight"])


def quiet(gateway: Running) -> None:
    """Whether both views are back at zero, with no pool connection counted twice or lost."""
    settle(gateway)
    wait_until(lambda: open_work(gateway) == 0, "the balancer's counters are back to 0")


def test_refused_connections_leave_no_count_behind(rig: Rig) -> None:
    one, two = rig.upstream(answering(ok(b"one"))), rig.upstream(answering(ok(b"two")))
    gateway = rig.forward(one, two, service={"balance": "least_inflight", "eject": "off"})
    client = rig.connect(gateway)
    two.refuse()
    assert [client.request().body for _ in range(20)] == [b"one"] * 20
    quiet(gateway)
    two.listen()
    seen = set()
    for _ in range(20):
        seen.add(client.request().body)
    assert seen == {b"one", b"two"}, "the instance that came back gets nothing"
    quiet(gateway)


def test_tunnels_are_counted_until_they_end(rig: Rig) -> None:
    one, two = rig.upstream(tunnels_or_answers), rig.upstream(tunnels_or_answers)
    gateway = rig.forward(one, two, service={"balance": "least_inflight"})
    tunnels = [upgraded(rig, gateway) for _ in range(10)]
    assert (in_flight(gateway), open_work(gateway)) == (10, 10)
    assert (len(one.heads), len(two.heads)) == (5, 5)
    for tunnel in tunnels[:5]:
        tunnel.reset()
    wait_until(lambda: (in_flight(gateway), open_work(gateway)) == (5, 5), "five tunnels counted")
    for tunnel in tunnels[5:]:
        tunnel.close()
    quiet(gateway)


def test_an_instance_that_joins_takes_the_next_ones(rig: Rig) -> None:
    one, two, three = (rig.upstream(tunnels_or_answers) for _ in range(3))
    gateway = rig.forward(one, two, service={"balance": "least_inflight", "slow_start": "off"})
    first = [upgraded(rig, gateway) for _ in range(6)]
    gateway.set_instances("u", one, two, three)
    assert open_work(gateway) == 6
    more = [upgraded(rig, gateway) for _ in range(3)]
    assert (len(one.heads), len(two.heads), len(three.heads)) == (3, 3, 3)
    for tunnel in first + more:
        tunnel.reset()
    quiet(gateway)


def test_an_instance_that_leaves_finishes_its_work_and_comes_back_with_it(rig: Rig) -> None:
    go = threading.Event()

    def slow(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
            conn.wait(go)
            conn.send(b"cd")

    one, two = rig.upstream(answering(ok(b"one"))), rig.upstream(slow)
    gateway = rig.forward(two, service={"balance": "least_inflight"})
    streams = [rig.connect(gateway) for _ in range(2)]
    for client in streams:
        client.send(head())
        client.until(b"ab")
    gateway.set_instances("u", one)
    assert open_work(gateway) == 2, "the work of an instance that left is not counted"
    other = rig.connect(gateway)
    assert [other.request().body for _ in range(5)] == [b"one"] * 5
    gateway.set_instances("u", one, two)
    # "two" still has two requests in flight: the next ones go to the instance with none.
    assert [other.request().body for _ in range(5)] == [b"one"] * 5
    go.set()
    for client in streams:
        assert client.until(b"cd") == b"cd"
    quiet(gateway)


def test_removing_every_instance_is_a_503(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream)
    client = rig.connect(gateway)
    assert client.request().status == 200
    gateway.set_instances("u")
    response = client.request()
    problem(response, 503)
    assert response.get("retry-after")
    gateway.set_instances("u", upstream)
    assert client.request().status == 200
    quiet(gateway)


def closes(conn: Connection) -> None:
    conn.read_request()
    conn.close()


def truncates(conn: Connection) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    conn.close()


def babbles(conn: Connection) -> None:
    conn.read_request()
    conn.send(b"nonsense\r\n\r\n")


def early(conn: Connection) -> None:
    conn.read_head()
    conn.send(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    conn.close()


def silent(conn: Connection) -> None:
    conn.read_request()


def refusing_upgrade(conn: Connection) -> None:
    conn.read_head()
    conn.send(b"HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("script", [closes, truncates, babbles, early, silent, refusing_upgrade, answering(ok())])
@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize(
    "raw", [head(), head("POST", "/", length=5) + b"hello", head("POST", "/", length=9) + b"half", UPGRADE]
)
def test_every_way_to_end_returns_the_counters(rig: Rig, script: Script, leave: bool, raw: bytes) -> None:
    upstream: Upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"timeout": "300ms"}, service={"max_connections": 2})
    clients = [rig.connect(gateway) for _ in range(4)]
    for client in clients:
        client.send(raw)
    if leave:
        for client in clients:
            client.reset()
    else:
        for client in clients[:2]:
            client.finish()
        for client in clients:
            client.sock.settimeout(0.01)
    quiet_after(gateway, clients, leave)


def quiet_after(gateway: Running, clients: list[Client], leave: bool) -> None:
    """Wait for the counters to settle; the remaining clients disconnect at the end."""
    if not leave:
        wait_until(lambda: in_flight(gateway) <= len(clients), "no count is above the open work")
        for client in clients:
            client.reset()
    quiet(gateway)


def test_counters_match_the_requests(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway({"u": {"targets": [upstream.url]}}, [{"path": "/in", "service": "u", "methods": ["GET"]}])
    client = rig.connect(gateway)
    for _ in range(7):
        client.request("GET", "/in")
    for _ in range(3):
        client.request("GET", "/out")
    client.request("POST", "/in", body=b"")
    shot = gateway.snapshot()
    assert shot["services"]["u"]["codes"] == {"200": 7}
    total = sum(n for route in shot["routes"].values() for codes in route["codes"].values() for n in codes.values())
    assert total == 11
    (inside,) = (r for r in shot["routes"].values() if r["codes"].get("GET", {}).get("200") == 7)
    assert inside["in_flight"] == 0
    quiet(gateway)
