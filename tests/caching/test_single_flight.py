"""Single flight: one of many concurrent misses is forwarded, and no client gets another client's response."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.entry import Entry
from passerelle.caching.memory_store import MemoryStore
from passerelle.caching.policy import Fresh, Miss, Store, lookup, on_response
from passerelle.caching.request import RequestView
from passerelle.caching.single_flight import Flight, Flights
from passerelle.caching.variants import VariantStore
from tests.caching.kit import DEFAULT, NOW, request, response

KEY = b"gw /r"


class Upstream:
    """Requests that were forwarded and wait for their response, in order."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[list[str], bytes], None]] = []
        self.count = 0


class Client:
    """Request through the cache: lookup and fetch, with callbacks as in the gateway."""

    def __init__(self, gate: Gate, *lines: str) -> None:
        self.gate = gate
        self.facts: RequestView = request(*lines)
        self.body: bytes | None = None
        self.failed = False
        self.ticket = 0
        self.flight: Flight[Entry] | None = None
        self.gone = False
        self.ask()

    def ask(self) -> None:
        gate = self.gate
        entry = gate.shelf.find(KEY, self.facts)
        decision = lookup(self.facts, entry, NOW, DEFAULT)
        if isinstance(decision, Fresh):
            assert entry is not None
            self.body = entry.body
            return
        assert isinstance(decision, Miss)
        slot = gate.shelf.slot(KEY, self.facts)[0]
        flight = gate.flights.get(slot)
        if gate.flights.is_solo(slot, NOW) or not decision.share:
            self.fetch(None)
        elif flight is None:
            self.fetch(gate.flights.begin(slot))
        else:
            self.flight = flight
            self.ticket = flight.wait(self.landed)
            if not self.ticket:
                self.fetch(None)

    def landed(self, entry: Entry | None) -> None:
        if entry is not None:
            self.ask()
        else:
            self.fetch(None)

    def fetch(self, flight: Flight[Entry] | None) -> None:
        gate = self.gate
        gate.upstream.count += 1

        def answered(lines: list[str], body: bytes) -> None:
            if not lines:
                if flight is not None:
                    flight.abort()
                self.failed = True
                return
            outcome = on_response(self.facts, response(*lines), None, DEFAULT)
            if isinstance(outcome, Store):
                entry = outcome.draft.complete(body)
                assert entry is not None
                gate.shelf.place(KEY, self.facts, outcome.draft.names, entry)
                if flight is not None:
                    flight.complete(entry)
            elif flight is not None:
                flight.release_uncached(NOW)
            if not self.gone:
                self.body = body

        gate.upstream.waiting.append(answered)

    def leave(self) -> None:
        self.gone = True
        if self.flight is not None and self.ticket:
            self.flight.leave(self.ticket)


class Gate:
    def __init__(self, max_waiters: int = 10_000) -> None:
        self.shelf = VariantStore(MemoryStore(10_000_000))
        self.flights: Flights[Entry] = Flights(max_waiters)
        self.upstream = Upstream()

    def answer_all(self, *lines: str) -> None:
        """Let upstream respond to all waiting requests, each with a numbered body."""
        while self.upstream.waiting:
            waiting, self.upstream.waiting = self.upstream.waiting, []
            for number, answered in enumerate(waiting):
                answered(list(lines), b"%d" % (self.upstream.count + number))


def test_a_thousand_misses_are_one_request() -> None:
    gate = Gate()
    clients = [Client(gate) for _ in range(1000)]
    assert gate.upstream.count == 1
    gate.answer_all("Cache-Control: max-age=60")
    assert gate.upstream.count == 1
    assert {client.body for client in clients} == {b"1"}
    assert len(gate.flights) == 0


def test_a_leader_that_leaves_fails_no_waiter() -> None:
    gate = Gate()
    clients = [Client(gate) for _ in range(1000)]
    clients[0].leave()
    gate.answer_all("Cache-Control: max-age=60")
    assert gate.upstream.count == 1
    assert clients[0].body is None
    assert all(client.body == b"1" for client in clients[1:])


def test_a_follower_that_leaves_is_not_called() -> None:
    gate = Gate()
    clients = [Client(gate) for _ in range(3)]
    clients[1].leave()
    gate.answer_all("Cache-Control: max-age=60")
    assert clients[1].body is None and clients[2].body == b"1"


@pytest.mark.parametrize(
    "lines",
    [
        ["Cache-Control: max-age=60", "Set-Cookie: sid=1"],
        ["Cache-Control: private, max-age=60"],
        ["Cache-Control: no-store"],
        ["Cache-Control: max-age=60", "Vary: *"],
        ["X: nothing said"],
    ],
)
def test_a_response_that_may_not_be_shared_releases_all_waiters_at_once(lines: list[str]) -> None:
    gate = Gate()
    clients = [Client(gate) for _ in range(5)]
    first = gate.upstream.waiting.pop()
    first(lines, b"the leader's own")
    assert len(gate.upstream.waiting) == 4, "all in parallel, not one after another"
    gate.answer_all(*lines)
    assert clients[0].body == b"the leader's own"
    assert all(client.body not in (None, b"the leader's own") for client in clients[1:])
    before = gate.upstream.count
    for _ in range(3):
        Client(gate)
    assert gate.upstream.count == before + 3, "the next ones do not wait for each other either"


def test_keys_are_shared_again_after_a_while() -> None:
    flights: Flights[bytes] = Flights()
    flights.begin(KEY).release_uncached(NOW)
    assert flights.is_solo(KEY, NOW + 9.9) and not flights.is_solo(KEY, NOW + 10.0)
    assert not flights.is_solo(b"other", NOW)
    for number in range(20_000):
        flights.remember_solo(b"%d" % number, NOW)
    assert not flights.is_solo(b"0", NOW) and flights.is_solo(b"19999", NOW)


def test_long_keys_are_not_held_after_their_flight() -> None:
    flights: Flights[int] = Flights()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(3000):
            key = b"%d" % number + bytes(30_000)
            flights.begin(key).release_uncached(NOW)
            assert flights.is_solo(key, NOW)
        held = tracemalloc.get_traced_memory()[0] - before
        del key
    finally:
        tracemalloc.stop()
    assert held < 1_500_000


def test_expired_solo_keys_are_removed_when_new_ones_come() -> None:
    flights: Flights[int] = Flights()
    tracemalloc.start()
    try:
        for number in range(9000):
            flights.remember_solo(b"%d" % number, NOW)
        most = tracemalloc.get_traced_memory()[0]
        flights.remember_solo(b"later", NOW + 10.0)
        assert tracemalloc.get_traced_memory()[0] < most / 2
    finally:
        tracemalloc.stop()
    assert flights.is_solo(b"later", NOW + 19.9)


def test_a_clock_that_is_set_back_does_not_keep_keys_apart_for_longer() -> None:
    flights: Flights[int] = Flights()
    flights.remember_solo(KEY, NOW)
    assert not flights.is_solo(KEY, NOW - 3600.0)


def test_a_response_that_varies_answers_only_those_it_fits() -> None:
    gate = Gate()
    clients = [Client(gate, f"Cookie: sid={n % 3}") for n in range(9)]
    assert gate.upstream.count == 1
    gate.answer_all("Cache-Control: max-age=60", "Vary: Cookie")
    assert gate.upstream.count == 3, "one request for each variant"
    for value in range(3):
        assert len({client.body for client in clients[value::3]}) == 1
    assert len({client.body for client in clients}) == 3


def test_after_a_failure_every_waiter_forwards_its_own_request() -> None:
    gate = Gate()
    clients = [Client(gate) for _ in range(5)]
    gate.upstream.waiting.pop()([], b"")
    assert clients[0].failed and len(gate.upstream.waiting) == 4
    gate.answer_all("Cache-Control: max-age=60")
    assert all(client.body is not None for client in clients[1:])


def test_waiters_are_capped() -> None:
    gate = Gate(max_waiters=10)
    for _ in range(20):
        Client(gate)
    assert gate.upstream.count == 10, "the leader and the nine that found the flight full"


def test_a_callback_may_make_another_waiter_leave() -> None:
    flights: Flights[int] = Flights()
    flight = flights.begin(KEY)
    called: list[str] = []
    tickets: list[int] = []

    def first(result: int | None) -> None:
        called.append("first")
        flight.leave(tickets[1])

    tickets.append(flight.wait(first))
    tickets.append(flight.wait(lambda result: called.append("second")))
    flight.complete(1)
    assert called == ["first"]


def test_a_callback_may_start_the_next_flight() -> None:
    flights: Flights[int] = Flights()
    flight = flights.begin(KEY)
    flight.wait(lambda result: flights.begin(KEY))
    flight.abort()
    following = flights.get(KEY)
    assert following is not None and following is not flight
    flight.complete(1)
    assert flights.get(KEY) is following, "a flight that is over ends no other"
    assert flight.wait(lambda result: None) == 0, "and accepts no waiter"


@given(
    st.lists(st.sampled_from(["wait", "leave", "land", "scatter", "fail"]), max_size=30),
)
def test_every_waiter_is_called_once_or_left(steps: list[str]) -> None:
    flights: Flights[int] = Flights(max_waiters=5)
    flight = flights.begin(KEY)
    calls: dict[int, int] = {}
    left: set[int] = set()
    for step in steps:
        if step == "wait":
            box: list[int] = []

            def callback(result: int | None, box: list[int] = box) -> None:
                calls[box[0]] = calls.get(box[0], 0) + 1

            ticket = flight.wait(callback)
            box.append(ticket)
            if ticket:
                calls[ticket] = 0
        elif step == "leave":
            for ticket in [t for t, n in calls.items() if not n and t not in left][:1]:
                flight.leave(ticket)
                left.add(ticket)
        elif step == "land":
            flight.complete(1)
        elif step == "scatter":
            flight.release_uncached(NOW)
        else:
            flight.abort()
    flight.abort()
    assert all(n == (0 if ticket in left else 1) for ticket, n in calls.items())
    assert len(flights) == 0
