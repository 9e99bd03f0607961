"""Concurrent misses cause one upstream request, and private responses are not shared (RFC 9111 §4, §5.2.2, §7.3)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.client import Client, head
from tests.support.gateways import Rig, in_flight, settle
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Closed, wait_until

PATIENCE = 20.0
FRESH = b"Cache-Control: max-age=60"
COUNT = 5

# Header fields that make a response private to one client.
OWN: dict[str, tuple[bytes, ...]] = {
    "Set-Cookie": (FRESH, b"Set-Cookie: sid=%d"),
    "Set-Cookie, public": (b"Cache-Control: public, max-age=60", b"Set-Cookie: sid=%d"),
    "private": (b"Cache-Control: private, max-age=60",),
    "no-store": (b"Cache-Control: no-store",),
    "no-store, max-age": (b"Cache-Control: no-store, max-age=60",),
    "Vary: *": (FRESH, b"Vary: *"),
    "Vary: *, X": (FRESH, b"Vary: X, *"),
    "nothing said": (),
    "targeted no-store": (FRESH, b"CDN-Cache-Control: no-store"),
    "Vary by the way": (FRESH, b"Vary: X-Forwarded-For"),
    "a body too long": (FRESH, b"X-Padding: " + b"x" * 40_000),
}


class Gate:
    """An upstream that numbers its responses. The test releases the first one, and then all others."""

    def __init__(self, rig: Rig, *fields: bytes, status: int = 200, answers: bool = True) -> None:
        self.first, self.others = threading.Event(), threading.Event()
        self._fields = fields
        self._status = status
        self._answers = answers
        self._lock = threading.Lock()
        self._count = 0
        self.upstream: Upstream = rig.upstream(self._serve)

    def _serve(self, conn: Connection) -> None:
        while True:
            conn.read_request()
            with self._lock:
                self._count += 1
                number = self._count
            assert (self.first if number == 1 else self.others).wait(PATIENCE)
            if not self._answers and number == 1:
                conn.close()
                return
            fields = [field % number if b"%d" in field else field for field in self._fields]
            raw = ok(b"%d" % number, *fields)
            conn.send(raw.replace(b"200 OK", b"%d X" % self._status, 1))

    def start(self, rig: Rig, targets: list[str] | None = None, **route: Any) -> list[Client]:
        """Start clients that request the same target (or ``targets``) at once; the first of them leads."""
        self.gateway = rig.forward(self.upstream, route={"cache": {}, "attempts": 1, **route})
        clients = [rig.connect(self.gateway) for _ in range(COUNT)]
        for number, client in enumerate(clients):
            client.send(head("GET", targets[number] if targets else "/r", *self.fields(number)))
            if number == 0:
                self.upstream.wait_heads(1, PATIENCE)
        wait_until(lambda: in_flight(self.gateway) == COUNT, "all of them wait", PATIENCE)
        return clients

    def fields(self, number: int) -> list[tuple[str, str]]:
        return []


def bodies(clients: list[Client]) -> list[bytes]:
    return [client.read_response("GET", PATIENCE).body for client in clients]


@pytest.mark.parametrize("name", OWN)
def test_clients_of_private_responses_are_forwarded_at_once_each(rig: Rig, name: str) -> None:
    gate = Gate(rig, *OWN[name])
    clients = gate.start(rig, cache={"max_body": "0B"} if name == "a body too long" else {})
    assert len(gate.upstream.heads) == 1, "they wait for one"
    gate.first.set()
    # No request has a response yet, so all of them are in flight at once.
    gate.upstream.wait_heads(COUNT, PATIENCE)
    gate.others.set()
    answers = [client.read_response("GET", PATIENCE) for client in clients]
    assert sorted(answer.body for answer in answers) == [b"%d" % number for number in range(1, COUNT + 1)]
    for answer in answers:
        assert answer.all("set-cookie") == ([b"sid=" + answer.body] if "Set-Cookie" in name else [])
    settle(gate.gateway)


@pytest.mark.parametrize("shared", [{}, {"heuristic": False}])
def test_a_shareable_response_goes_to_all_waiters(rig: Rig, shared: dict[str, Any]) -> None:
    gate = Gate(rig, FRESH)
    clients = gate.start(rig, cache=shared)
    gate.first.set()
    assert bodies(clients) == [b"1"] * COUNT
    assert len(gate.upstream.heads) == 1


def test_a_response_with_a_cookie_is_shared_only_if_the_route_allows_it(rig: Rig) -> None:
    gate = Gate(rig, FRESH, b"Set-Cookie: sid=%d")
    clients = gate.start(rig, cache={"store_set_cookie": True})
    gate.first.set()
    answers = [client.read_response("GET", PATIENCE) for client in clients]
    assert [answer.all("set-cookie") for answer in answers] == [[b"sid=1"]] * COUNT


def test_a_cookie_that_a_directive_takes_out_stays_with_the_one(rig: Rig) -> None:
    gate = Gate(rig, b'Cache-Control: max-age=60, no-cache="Set-Cookie"', b"Set-Cookie: sid=%d")
    clients = gate.start(rig)
    gate.first.set()
    answers = [client.read_response("GET", PATIENCE) for client in clients]
    assert [answer.body for answer in answers] == [b"1"] * COUNT
    assert [answer.all("set-cookie") for answer in answers] == [[b"sid=1"]] + [[]] * (COUNT - 1)


class Who(Gate):
    """Clients that identify themselves with the field ``name``."""

    name = "Cookie"
    values = ("sid=0", "sid=1", "sid=2", "sid=3", "sid=4")

    def fields(self, number: int) -> list[tuple[str, str]]:
        return [(self.name, self.values[number])]


class Bearer(Who):
    name = "Authorization"
    values = ("Bearer 0", "Bearer 1", "Bearer 2", "Bearer 3", "Bearer 4")


WHO: dict[str, tuple[type[Who], tuple[bytes, ...]]] = {
    "Vary: Cookie": (Who, (FRESH, b"Vary: Cookie")),
    "heuristic, with cookies": (Who, (b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT",)),
    "with Authorization": (Bearer, (FRESH,)),
    "Vary: Authorization, public": (Bearer, (b"Cache-Control: public, max-age=60", b"Vary: Authorization")),
}


@pytest.mark.parametrize("name", WHO)
def test_clients_with_different_credentials_do_not_share(rig: Rig, name: str) -> None:
    kind, fields = WHO[name]
    gate = kind(rig, *fields)
    clients = gate.start(rig)
    gate.first.set()
    gate.upstream.wait_heads(COUNT, PATIENCE)
    gate.others.set()
    assert sorted(bodies(clients)) == [b"%d" % number for number in range(1, COUNT + 1)]
    asked = {request.get(kind.name) for request in gate.upstream.requests}
    assert asked == {value.encode() for value in kind.values}


class Mixed(Bearer):
    """The first client has credentials, the others have none."""

    def fields(self, number: int) -> list[tuple[str, str]]:
        return super().fields(number)[: number == 0]


def test_clients_without_credentials_do_not_get_a_response_to_credentials(rig: Rig) -> None:
    gate = Mixed(rig, FRESH)
    clients = gate.start(rig)
    gate.first.set()
    gate.upstream.wait_heads(2, PATIENCE)
    gate.others.set()
    answers = bodies(clients)
    assert answers[0] == b"1" and b"1" not in answers[1:]


@pytest.mark.parametrize("status", [500, 503, 404, 429, 302])
def test_an_error_without_a_lifetime_is_not_shared(rig: Rig, status: int) -> None:
    gate = Gate(rig, status=status)
    clients = gate.start(rig)
    gate.first.set()
    gate.upstream.wait_heads(COUNT, PATIENCE)
    gate.others.set()
    assert sorted(bodies(clients)) == [b"%d" % number for number in range(1, COUNT + 1)]


def test_an_upstream_that_fails_one_fails_no_other(rig: Rig) -> None:
    gate = Gate(rig, FRESH, answers=False)
    clients = gate.start(rig)
    gate.first.set()
    gate.others.set()
    answers = [client.read_response("GET", PATIENCE) for client in clients]
    assert [answer.status for answer in answers] == [502] + [200] * (COUNT - 1)


def test_a_first_client_that_leaves_fails_no_waiter(rig: Rig) -> None:
    gate = Gate(rig, FRESH)
    clients = gate.start(rig)
    clients[0].reset()
    wait_until(lambda: in_flight(gate.gateway) == COUNT - 1, "it is gone", PATIENCE)
    gate.first.set()
    assert bodies(clients[1:]) == [b"1"] * (COUNT - 1)
    assert len(gate.upstream.heads) == 1


def test_a_first_client_that_leaves_within_the_body_fails_no_waiter(rig: Rig) -> None:
    half, rest = threading.Event(), threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        assert half.wait(PATIENCE)
        conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhello")
        assert rest.wait(PATIENCE)
        conn.send(b"world")

    gate = Gate(rig)
    gate.upstream = rig.upstream(script)
    clients = gate.start(rig)
    half.set()
    clients[0].until(b"hello", PATIENCE)
    clients[0].reset()
    wait_until(lambda: in_flight(gate.gateway) == COUNT - 1, "it is gone", PATIENCE)
    rest.set()
    assert bodies(clients[1:]) == [b"helloworld"] * (COUNT - 1)
    assert len(gate.upstream.heads) == 1


def test_a_truncated_response_goes_to_the_first_client_only(rig: Rig) -> None:
    cut = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        if conn.index == 0:
            assert cut.wait(PATIENCE)
            conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhello")
            conn.close()
        else:
            conn.send(ok(b"whole", FRESH))

    gate = Gate(rig)
    gate.upstream = rig.upstream(script)
    clients = gate.start(rig)
    cut.set()
    with pytest.raises(Closed):
        clients[0].read_response("GET", PATIENCE)
    assert bodies(clients[1:]) == [b"whole"] * (COUNT - 1)


def test_other_uris_and_unsafe_methods_share_nothing(rig: Rig) -> None:
    gate = Gate(rig, FRESH)
    clients = gate.start(rig, ["/r", "/r?", "/r?x=1", "/R", "/r/"])
    gate.upstream.wait_heads(COUNT, PATIENCE)
    poster = rig.connect(gate.gateway)
    for client in (poster, rig.connect(gate.gateway)):
        client.send(head("POST", "/r", length=0))
    gate.upstream.wait_heads(COUNT + 2, PATIENCE)
    gate.first.set()
    gate.others.set()
    assert sorted(bodies(clients)) == [b"%d" % number for number in range(1, COUNT + 1)]


PART = {"service": "u", "path": "/p"}
COMPOSED = {
    "a cached part": {"compose": {"a": {**PART, "cache": {}}}},
    "a cached whole": {"compose": {"a": PART}, "cache": {"ttl": "1m"}},
}


@pytest.mark.parametrize("route", COMPOSED)
@pytest.mark.parametrize("name", ["Set-Cookie", "private", "no-store", "Vary: *"])
def test_compositions_share_nothing_of_it_either(rig: Rig, name: str, route: str) -> None:
    gate = Gate(rig, b"Content-Type: application/json", *OWN[name])
    gate.gateway = rig.gateway({"u": {"targets": [gate.upstream.url]}}, [{"path": "/c", **COMPOSED[route]}])
    clients = [rig.connect(gate.gateway) for _ in range(COUNT)]
    for client in clients:
        client.send(head("GET", "/c"))
    wait_until(lambda: in_flight(gate.gateway) == COUNT, "all of them wait", PATIENCE)
    gate.first.set()
    gate.upstream.wait_heads(COUNT, PATIENCE)
    gate.others.set()
    assert len(set(bodies(clients))) == COUNT, "each is of an answer of its own"
