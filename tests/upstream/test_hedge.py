"""Hedged requests: a second instance gets the request when the first one is slow, and one response is forwarded."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from passerelle.gateway.gateway import InstanceSpec
from tests.support.client import chunks, head
from tests.support.expect import problem
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import stays, wait_until

LONG = 30.0  # the longest wait for an expected event, in seconds
PLENTY = {"retries": {"floor": 100_000}, "balance": "round_robin", "eject": {"failures": 1, "at_most": "100%"}}
ERROR = b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad"


class Pair:
    """Two instances that hold each request until :meth:`tell`. ``order`` is the order of the requests' arrival."""

    def __init__(self, rig: Rig, **service: object) -> None:
        self.rig = rig
        self.order: list[Connection] = []
        self._actions: dict[Connection, Callable[[Connection], None]] = {}
        self._changed = threading.Condition()
        self.ups = [rig.upstream(self._script) for _ in range(2)]
        self.service = {"targets": [up.url for up in self.ups], **PLENTY, **service}

    def _script(self, conn: Connection) -> None:
        while True:
            conn.read_request()
            with self._changed:
                self.order.append(conn)
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: conn in self._actions or conn.sock.fileno() < 0, LONG)
                do = self._actions.pop(conn)
            do(conn)

    def gateway(self, **route: object) -> Running:
        route = {"hedge": {"after": "200ms"}, "timeout": "60s", **route}
        return self.rig.gateway({"u": self.service}, [{"path": "/{rest*}", "service": "u", **route}])

    def wait(self, count: int) -> list[Connection]:
        wait_until(lambda: len(self.order) == count, f"{count} requests", LONG)
        return self.order

    def tell(self, conn: Connection, do: Callable[[Connection], None] | bytes) -> None:
        """Let ``conn`` respond with ``do``, or do that."""
        with self._changed:
            self._actions[conn] = (lambda c: c.send(do)) if isinstance(do, bytes) else do
            self._changed.notify_all()

    def end(self) -> None:
        """Close the connections that are still held."""
        for conn in self.order:
            self.tell(conn, Connection.close)


@pytest.fixture
def pair(rig: Rig) -> Any:
    made = Pair(rig)
    yield made
    made.end()


def seen(gateway: Running) -> dict[str, Any]:
    found: dict[str, Any] = gateway.snapshot()["services"]["u"]
    return found


def hedges(gateway: Running) -> dict[str, int]:
    found: dict[str, int] = seen(gateway)["hedges"]
    return found


def calm(rig: Rig, gateway: Running) -> None:
    """Wait until nothing is in flight, on any instance."""
    settle(gateway, LONG)
    wait_until(lambda: seen(gateway)["in_flight"] == 0, "nothing in flight", LONG)
    assert {instance["in_flight"] for instance in rig.loop.call(gateway.gateway.status)["u"]} == {0}


def states(rig: Rig, gateway: Running) -> set[str]:
    return {instance["status"] for instance in rig.loop.call(gateway.gateway.status)["u"]}


def stuck(rig: Rig) -> Upstream:
    def script(conn: Connection) -> None:
        while True:
            conn.read_request()

    return rig.upstream(script)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_slow_instance_among_fast_ones_does_not_delay_requests(rig: Rig, method: str) -> None:
    slow, *fast = stuck(rig), *(rig.upstream(answering(ok(b"" if method == "HEAD" else b"good"))) for _ in range(2))
    gateway = rig.forward(slow, *fast, service=PLENTY, route={"hedge": {"after": "50ms"}, "timeout": "60s"})
    client = rig.connect(gateway)
    assert [client.request(method, within=LONG).status for _ in range(9)] == [200] * 9
    slow.wait_all_closed(LONG)
    calm(rig, gateway)
    assert hedges(gateway) == {"won": len(slow.requests)} and slow.requests
    assert states(rig, gateway) == {"up"}  # being slower than another instance is no failure
    assert seen(gateway)["failures"] == {} and seen(gateway)["retries"] == 0


def test_the_first_attempt_may_still_win(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    assert first.upstream is not second.upstream
    pair.tell(first, ok(b"first"))
    assert client.read_response(within=LONG).body == b"first"
    assert second.gone.is_set() or second.wait_closed(LONG)
    calm(rig, gateway)
    assert hedges(gateway) == {"lost": 1}
    assert states(rig, gateway) == {"up"}
    client.send(head())  # the connection of the winner is reused
    assert pair.wait(4)[2:]
    assert first in pair.order[2:]
    client.reset()
    calm(rig, gateway)


@pytest.mark.parametrize("cut", [False, True])
def test_a_stream_continues_from_the_hedge_that_won(rig: Rig, pair: Pair, cut: bool) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    turns = [threading.Event() for _ in range(4)]

    def stream(conn: Connection) -> None:
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, turn in enumerate(turns[:-1]):
            conn.wait(turn)
            conn.send(chunks(b"piece %d" % number, last=b""))
        conn.wait(turns[-1])
        conn.reset() if cut else conn.send(b"0\r\n\r\n")

    pair.tell(second, stream)
    client.until(b"\r\n\r\n", LONG)
    pair.tell(first, ok(b"too late"))
    for number, turn in enumerate(turns[:-1]):
        turn.set()
        client.until(b"piece %d\r\n" % number, LONG)
    turns[-1].set()
    if cut:
        assert client.wait_closed(LONG)
    else:
        client.until(b"0\r\n\r\n", LONG)
    assert b"too late" not in client.received
    calm(rig, gateway)
    assert hedges(gateway) == {"won": 1}
    kinds = seen(gateway)["failures"]
    assert sum(kinds.values()) == cut and set(kinds) <= {"truncated"}


def test_when_both_attempts_fail_the_request_fails(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    pair.tell(first, Connection.reset)
    wait_until(lambda: hedges(gateway) == {"won": 1}, "the hedge takes the place of the first attempt", LONG)
    pair.tell(second, Connection.reset)
    problem(client.read_response(within=LONG), 502)
    calm(rig, gateway)
    assert sum(seen(gateway)["failures"].values()) == 2
    assert len(pair.order) == 2


def test_when_the_hedge_fails_the_first_attempt_continues(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    pair.tell(second, Connection.reset)
    wait_until(lambda: hedges(gateway) == {"failed": 1}, "the hedge has failed", LONG)
    pair.tell(first, ok(b"first"))
    assert client.read_response(within=LONG).body == b"first"
    calm(rig, gateway)
    assert states(rig, gateway) == {"up", "ejected"}  # that was a failure


def test_a_5xx_response_does_not_win(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    pair.tell(second, ERROR)
    wait_until(lambda: hedges(gateway) == {"failed": 1}, "the hedge has failed", LONG)
    pair.tell(first, ok(b"first"))
    assert client.read_response(within=LONG).body == b"first"
    calm(rig, gateway)


@pytest.mark.parametrize("last", [ok(b"second"), ERROR])
def test_after_a_5xx_response_the_other_response_is_forwarded(rig: Rig, pair: Pair, last: bytes) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    pair.tell(first, ERROR)
    wait_until(lambda: hedges(gateway) == {"won": 1}, "the hedge takes the place of the first attempt", LONG)
    pair.tell(second, last)
    response = client.read_response(within=LONG)
    assert (response.status, response.body) == ((200, b"second") if last != ERROR else (500, b"bad"))
    calm(rig, gateway)
    assert seen(gateway)["codes"] == ({"500": 1, "200": 1} if last != ERROR else {"500": 2})


def test_a_hedge_that_is_refused_ends_without_an_effect(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway(hedge={"after": "1s"})
    client = rig.connect(gateway)
    client.send(head())
    (first,) = pair.wait(1)
    for upstream in pair.ups:
        if upstream is not first.upstream:
            upstream.refuse()
    wait_until(lambda: hedges(gateway) == {"failed": 1}, "the hedge has failed", LONG)
    pair.tell(first, ok())
    assert client.read_response(within=LONG).status == 200
    calm(rig, gateway)
    assert seen(gateway)["failures"] == {"connect_failed": 1}


def test_when_the_client_leaves_both_attempts_end(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    client.reset()
    calm(rig, gateway)
    assert first.wait_closed(LONG) and second.wait_closed(LONG)
    assert hedges(gateway) == {"cancelled": 1}
    assert seen(gateway)["failures"] == {"client_gone": 1}
    assert states(rig, gateway) == {"up"}


def test_the_deadline_is_that_of_both_attempts(rig: Rig) -> None:
    ups = [stuck(rig), stuck(rig)]
    gateway = rig.forward(*ups, service=PLENTY, route={"hedge": {"after": "50ms"}, "timeout": "2s"})
    problem(rig.connect(gateway).request(within=LONG), 504)
    assert [len(up.requests) for up in ups] == [1, 1]
    for up in ups:
        up.wait_all_closed(LONG)
    calm(rig, gateway)
    assert hedges(gateway) == {"cancelled": 1}


@pytest.mark.parametrize("what", ["POST", "PUT", "GET with a body", "upgrade"])
def test_other_requests_than_plain_reads_are_never_hedged(rig: Rig, pair: Pair, what: str) -> None:
    gateway = pair.gateway()
    client, other = rig.connect(gateway), rig.connect(gateway)
    if what == "upgrade":
        client.send(head("GET", "/", ("Upgrade", "websocket"), ("Connection", "upgrade")))
    else:
        client.send(head(what.split(" ")[0], "/", length=2) + b"hi")
    pair.wait(1)
    other.send(head())  # a plain read, hedged later: the other one would have been hedged by then
    pair.wait(3)
    assert hedges(gateway) == {}
    stays(lambda: len(pair.order) == 3, "no more requests")
    for conn in list(pair.order):
        pair.tell(conn, ok())
    assert other.read_response(within=LONG).status == 200
    assert client.read_response(within=LONG).status == 200
    calm(rig, gateway)
    assert sum(hedges(gateway).values()) == 1


def test_hedges_leave_half_of_the_budget(rig: Rig) -> None:
    """One retry a second makes five in the window of 5 s; half of that is two hedges."""
    pair = Pair(rig, retries={"budget": "0%", "floor": 1})
    gateway = pair.gateway()
    clients = [rig.connect(gateway) for _ in range(12)]
    for client in clients:
        client.send(head())
    sent = len(clients)
    wait_until(
        lambda: len(pair.order) - sent + hedges(gateway).get("unaffordable", 0) == sent, "all delays are over", LONG
    )
    assert hedges(gateway)["unaffordable"] >= 1 and len(pair.order) >= sent + 2
    for conn in list(pair.order):
        pair.tell(conn, ok())
    assert {client.read_response(within=LONG).status for client in clients} == {200}
    calm(rig, gateway)
    pair.end()


def test_a_single_instance_has_no_hedge(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway()
    gateway.set_instances("u", pair.ups[0])
    client = rig.connect(gateway)
    client.send(head())
    (first,) = pair.wait(1)
    stays(lambda: len(pair.order) == 1, "no other instance", 0.5)
    pair.tell(first, ok())
    assert client.read_response(within=LONG).status == 200
    calm(rig, gateway)
    assert hedges(gateway) == {}


def test_a_request_that_waits_for_a_connection_may_be_hedged(rig: Rig) -> None:
    slow, good = stuck(rig), rig.upstream(answering(ok(b"good")))
    service = {**PLENTY, "max_connections": 1}
    gateway = rig.forward(slow, good, service=service, route={"hedge": {"after": "50ms"}, "timeout": "60s"})
    holder = rig.connect(gateway)
    holder.send(head("POST", "/", length=0))
    clients = [rig.connect(gateway) for _ in range(6)]
    for client in clients:
        client.send(head())
    assert [client.read_response(within=LONG).body for client in clients] == [b"good"] * 6
    holder.reset()
    calm(rig, gateway)
    assert len(slow.requests) <= 1 + 6


def test_the_hedge_continues_when_the_first_attempt_is_abandoned(rig: Rig, pair: Pair) -> None:
    """``attempt_timeout`` ends the first attempt; there is no third one."""
    gateway = pair.gateway(attempt_timeout="2s", tell_deadline=True)
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    wait_until(lambda: hedges(gateway) == {"won": 1}, "the hedge takes the place of the first attempt", LONG)
    pair.tell(second, ok(b"second"))
    assert client.read_response(within=LONG).body == b"second"
    times = [request.get("passerelle-timeout-ms") for up in pair.ups for request in up.requests]
    assert len(times) == 2 and None not in times
    pair.tell(first, Connection.close)
    calm(rig, gateway)
    assert len(pair.order) == 2 and seen(gateway)["failures"] == {"timeout": 1}


def test_the_hedge_continues_when_the_first_instance_goes_down(rig: Rig, pair: Pair) -> None:
    gateway = pair.gateway()
    client = rig.connect(gateway)
    client.send(head())
    first, second = pair.wait(2)
    rig.loop.call(lambda: down(gateway, first.upstream.port))
    wait_until(lambda: hedges(gateway) == {"won": 1}, "the hedge takes the place of the first attempt", LONG)
    pair.tell(second, ok(b"second"))
    assert client.read_response(within=LONG).body == b"second"
    calm(rig, gateway)


def down(gateway: Running, port: int) -> None:
    """Set the status of the instance at ``port`` to down."""
    listed = gateway.gateway.status()["u"]
    specs = []
    for known in listed:
        host, _, at = known["address"].rpartition(":")
        specs.append(InstanceSpec(known["name"], host, int(at), status="DOWN" if int(at) == port else "UP"))
    gateway.gateway.set_instances("u", specs)


def test_parts_and_cached_responses_are_hedged_too(rig: Rig) -> None:
    slow, good = stuck(rig), rig.upstream(answering(ok(b"1", b"Content-Type: application/json")))
    services = {"u": {"targets": [slow.url, good.url], **PLENTY}}
    hedge = {"hedge": {"after": "50ms"}, "timeout": "60s"}
    parts = {"a": {"service": "u", "path": "/a"}, "b": {"service": "u", "path": "/b"}}
    routes = [
        {"path": "/all", "compose": parts, **hedge},
        {"path": "/cached/{n}", "service": "u", "cache": {"ttl": "60s"}, **hedge},
    ]
    gateway = rig.gateway(services, routes)
    client = rig.connect(gateway)
    for _ in range(3):
        assert client.request("GET", "/all", within=LONG).body == b'{"a":1,"b":1}'
    for number in [1, 2, 3, 4] * 2:
        assert client.request("GET", f"/cached/{number}", within=LONG).body == b"1"
    slow.wait_all_closed(LONG)
    calm(rig, gateway)
    assert hedges(gateway) == {"won": len(slow.requests)} and len(slow.requests) >= 3
    assert gateway.snapshot()["routes"]["/cached/{n}"]["cache"].items() >= {"miss": 4, "hit": 4}.items()


def test_a_percentile_is_measured_first(rig: Rig) -> None:
    slow = threading.Event()
    turn: list[
        int
    ] = []  # the instance that the slow request goes to first: its hedge may reach the other instance earlier

    def script(number: int) -> Callable[[Connection], None]:
        def respond(conn: Connection) -> None:
            while True:
                if conn.read_request().target == b"/slow" and [number] == turn:
                    conn.wait(slow)
                conn.send(ok())

        return respond

    ups = [rig.upstream(script(number)) for number in range(2)]
    gateway = rig.forward(*ups, service=PLENTY, route={"hedge": {"after": "p99"}, "timeout": "60s"})
    client = rig.connect(gateway)
    client.request(within=LONG)
    turn += [number for number in range(2) if ups[number].requests]
    for _ in range(99):
        client.request(within=LONG)
    assert hedges(gateway) == {}
    assert client.request("GET", "/slow", within=LONG).status == 200  # from the other instance
    assert hedges(gateway)["won"] >= 1
    slow.set()
    calm(rig, gateway)


def test_a_hedged_request_is_one_request_for_the_limit_and_the_breaker(rig: Rig) -> None:
    service = {**PLENTY, "concurrency": "adaptive", "breaker": {"minimum": 2}}
    slow, good = stuck(rig), rig.upstream(answering(ok(b"good")))
    gateway = rig.forward(slow, good, service=service, route={"hedge": {"after": "50ms"}, "timeout": "60s"})
    client = rig.connect(gateway)
    assert [client.request(within=LONG).body for _ in range(6)] == [b"good"] * 6
    calm(rig, gateway)
    assert hedges(gateway)["won"] >= 2
    assert seen(gateway)["concurrency"] == {"limit": 20, "running": 0, "waiting": 0}
    assert seen(gateway)["breaker"] == {"closed": 1}


def test_the_access_log_has_the_outcome(rig: Rig, tmp_path: Path) -> None:
    slow, good = stuck(rig), rig.upstream(answering(ok(b"good")))
    route = {"hedge": {"after": "50ms"}, "timeout": "60s"}
    log = tmp_path / "access.log"
    gateway = rig.forward(slow, good, service=PLENTY, route=route, access_log=str(log))
    client = rig.connect(gateway)
    for _ in range(4):
        client.request(within=LONG)
    gateway.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [200] * 4
    logged = [(line["attempts"], line.get("hedge")) for line in lines]
    assert set(logged) <= {(1, None), (2, "won")} and (2, "won") in logged
    assert {line["instance"] for line in lines} == {"u-2"}
