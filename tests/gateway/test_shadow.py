"""Shadow requests: the client's response is neither delayed nor changed, bounds hold, and differences are found."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from passerelle.crossing.report import merge_reports
from passerelle.observability.metrics import merge
from passerelle.observability.prometheus import render
from passerelle.upstream.shadow import _EXECUTOR, QUEUE
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, ok
from tests.support.wire import DEADLINE, wait_until

JSON = b"Content-Type: application/json"
BIG = b"x" * (1 << 16)


def replies(make: Callable[[], Any], *fields: bytes) -> Callable[[Connection], None]:
    """Return a script that responds to each request with the JSON of ``make()``."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(json.dumps(make()).encode(), b"\r\n".join((JSON, *fields))))

    return script


def same(conn: Connection) -> None:
    replies(lambda: {"name": "ada"})(conn)


class Pair:
    """A gateway whose route has a shadow, and the two services."""

    def __init__(self, rig: Rig, old: Any, new: Any, route: dict[str, Any] | None = None, **shadow: Any) -> None:
        self.old, self.new = rig.upstream(old), rig.upstream(new)
        self.running: Running = rig.gateway(
            {"old": {"targets": [self.old.url]}, "new": {"targets": [self.new.url]}},
            [{"path": "/{rest*}", "service": "old", "shadow": {"service": "new", **shadow}, **(route or {})}],
        )
        self.client = rig.connect(self.running)
        self._rig = rig

    def report(self) -> dict[str, Any]:
        """Return the report of the route."""
        return merge_reports([self._rig.loop.call(self.running.gateway.shadows)])["/{rest*}"]

    def get(self, *fields: tuple[str, str], path: str = "/a") -> bytes:
        answer = self.client.request("GET", path, *fields)
        assert answer.status == 200
        return answer.body

    def wait(self, key: str, number: int) -> dict[str, Any]:
        """Return the report as soon as it counts ``number`` of ``key``."""
        wait_until(lambda: total(self.report()[key]) >= number, lambda: f"{key}: {self.report()}")  # type: ignore[arg-type]
        assert total(self.report()[key]) == number
        return self.report()


def total(value: Any) -> int:
    return sum(value.values()) if isinstance(value, dict) else int(value)


# ---- what is compared


def test_equal_responses_are_counted_and_the_second_service_receives_the_same_request(rig: Rig) -> None:
    pair = Pair(rig, same, same, control="0%")
    assert pair.get(("X-Own", "1"), path="/a?b=c") == b'{"name": "ada"}'
    report = pair.wait("compared", 1)
    assert report["verdict"] == "1 responses are the same"
    (of_old,), (of_new,) = pair.old.requests, pair.new.requests
    assert of_new.start == of_old.start == b"GET /a?b=c HTTP/1.1"
    assert of_new.get("x-own") == b"1"
    assert of_new.get("x-request-id") == of_old.get("x-request-id")
    assert (of_old.get("passerelle-shadow"), of_new.get("passerelle-shadow")) == (None, b"1")


def test_a_difference_is_reported_without_its_value(rig: Rig) -> None:
    pair = Pair(rig, replies(lambda: {"price": 12.5}), replies(lambda: {"price": "12.50"}), control="0%")
    pair.get()
    report = pair.wait("compared", 1)
    (finding,) = report["findings"]
    assert (finding["path"], finding["kind"], finding["times"], finding["noise"]) == ("/price", "type", 1, False)
    assert "12.5" not in json.dumps(report)
    assert report["differing"] == 1


def test_rules_decide_what_is_the_same(rig: Rig) -> None:
    rules = {"ignore": "/at", "unordered": ["/tags"], "tolerance": {"/price": 0.01}, "numbers_as_text": True}
    old = {"at": 1, "tags": [1, 2], "price": 1.0, "n": 5}
    new = {"at": 2, "tags": [2, 1], "price": 1.01, "n": "5"}
    pair = Pair(rig, replies(lambda: old), replies(lambda: new), control="0%", compare=rules)
    pair.get()
    assert pair.wait("compared", 1)["findings"] == []


def test_a_time_and_a_request_id_in_the_response_show_no_difference(rig: Rig) -> None:
    numbers = itertools.count()
    noisy = replies(lambda: {"name": "ada", "at": next(numbers), "id": f"{next(numbers):x}"})
    pair = Pair(rig, noisy, noisy, control="100%")
    for _ in range(12):
        pair.get()
    pair.wait("compared", 12)
    report = pair.wait("controls", 12)
    assert report["differing"] == 0
    assert {(each["path"], each["noise"]) for each in report["findings"]} == {("/at", True), ("/id", True)}
    assert report["verdict"] == "12 responses are the same"


def test_another_status_is_a_difference(rig: Rig) -> None:
    def fails(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")

    pair = Pair(rig, same, fails, control="0%")
    pair.get()
    (finding,) = pair.wait("compared", 1)["findings"]
    assert finding["kind"] == "status"


def test_a_slower_service_is_reported(rig: Rig) -> None:
    def slow(conn: Connection) -> None:
        while True:
            conn.read_request()
            threading.Event().wait(0.05)
            conn.send(ok(b'{"name": "ada"}', JSON))

    pair = Pair(rig, same, slow, control="0%")
    for _ in range(30):
        pair.get()
    report = pair.wait("compared", 30)
    assert report["latency"]["new"]["p50"] >= 0.05 > report["latency"]["old"]["p50"]
    assert "times as slow" in report["verdict"]


# ---- which requests, and what of them


def test_unsafe_methods_have_no_shadow_unless_they_are_named(rig: Rig) -> None:
    pair = Pair(rig, same, same, control="0%")
    assert pair.client.request("POST", "/a", body=b"x").status == 200
    pair.get()
    pair.wait("compared", 1)
    assert [request.start for request in pair.new.requests] == [b"GET /a HTTP/1.1"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_sent_to_both(rig: Rig, chunked: bool) -> None:
    pair = Pair(rig, same, same, control="100%", methods=["POST"])
    if chunked:
        pair.client.send(
            b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert pair.client.read_response().status == 200
    else:
        assert pair.client.request("POST", "/a", body=b"abcde").status == 200
    pair.wait("compared", 1)
    assert [request.body for request in pair.new.requests] == [b"abcde"]
    assert len(pair.old.requests) == 1, "an unsafe request is never sent twice to the first service"


def test_a_body_that_is_too_long_is_counted_and_not_sent(rig: Rig) -> None:
    pair = Pair(rig, same, same, control="0%", methods=["POST"])
    assert pair.client.request("POST", "/a", body=BIG * 2).status == 200
    pair.wait("dropped", 1)
    assert pair.report()["dropped"] == {"too_large": 1}
    assert pair.new.requests == []


@pytest.mark.parametrize("credentials", [False, True])
def test_credentials_are_sent_only_when_the_route_states_it(rig: Rig, credentials: bool) -> None:
    pair = Pair(rig, same, same, control="0%", credentials=credentials)
    given = (("Authorization", "Bearer x"), ("Cookie", "a=b"), ("X-Own", "1"))
    pair.get(*given)
    pair.wait("compared", 1)
    (request,) = pair.new.requests
    names = {name.lower() for name, _ in request.fields}
    assert b"x-own" in names
    wanted = {b"authorization", b"cookie"}
    assert names & wanted == (wanted if credentials else set())


def test_a_share_of_the_requests_is_sampled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = itertools.cycle([0.05, 0.15])
    monkeypatch.setattr("passerelle.upstream.shadow.random", lambda: next(draws))
    pair = Pair(rig, same, same, sample="10%", control="0%", methods=["POST"])
    for _ in range(6):
        assert pair.client.request("POST", "/a", body=b"x").status == 200
    pair.wait("compared", 3)


# ---- whatever the second service does


def resets(conn: Connection) -> None:
    conn.read_request()
    conn.reset()


def hangs(conn: Connection) -> None:
    conn.read_request()


def endless(conn: Connection) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    conn.stream(BIG, 1_000_000_000 // len(BIG))


def announces_much(conn: Connection) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")


def garbage(conn: Connection) -> None:
    conn.read_request()
    conn.send(b"\0\1\2\r\n\r\n")


@pytest.mark.parametrize(
    ("new", "key", "reason"),
    [
        (resets, "failed", "reset"),
        (hangs, "failed", "timeout"),
        (garbage, "failed", "response"),
        (endless, "not_compared", "too long"),
        (announces_much, "not_compared", "too long"),  # before its time is up
    ],
)
def test_a_second_service_that_misbehaves_changes_no_response(rig: Rig, new: Any, key: str, reason: str) -> None:
    pair = Pair(rig, same, new, control="0%", timeout="300ms")
    for _ in range(3):
        assert pair.get() == b'{"name": "ada"}'
    report = pair.wait(key, 3)
    assert all(reason in name for name in report[key]), report[key]


def test_a_second_service_that_is_gone_changes_no_response(rig: Rig) -> None:
    pair = Pair(rig, same, same, control="0%")
    pair.new.refuse()
    for _ in range(3):
        pair.get()
    assert sum(pair.wait("failed", 3)["failed"].values()) == 3


def test_shadow_requests_beyond_the_bounds_are_dropped_and_counted(rig: Rig) -> None:
    pair = Pair(rig, same, hangs, control="0%", concurrency=2, timeout="20s")
    for _ in range(2 + QUEUE + 5):
        pair.get()
    assert pair.wait("dropped", 5)["dropped"] == {"overflow": 5}
    assert pair.report()["sent"] == 2


def test_what_waits_is_sent_when_one_in_flight_has_ended(rig: Rig) -> None:
    go = threading.Event()

    def held(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.wait(go)
            conn.send(ok(b'{"name": "ada"}', JSON))

    pair = Pair(rig, same, held, control="0%", concurrency=1, timeout="20s")
    for _ in range(10):
        pair.get()
    go.set()
    assert pair.wait("compared", 10)["dropped"] == {}


def test_a_response_that_is_too_long_is_relayed_and_counted(rig: Rig) -> None:
    def big(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(BIG))

    pair = Pair(rig, big, same, control="0%", max_body="1KiB")
    assert pair.get() == BIG
    assert pair.wait("dropped", 1)["dropped"] == {"too_large": 1}
    assert pair.new.requests == []


def test_a_client_that_leaves_has_no_shadow(rig: Rig) -> None:
    def begins(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    pair = Pair(rig, begins, same, control="0%")
    pair.client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: bool(pair.old.requests), "the request arrived")
    pair.client.reset()  # a client that only ends its side still reads
    wait_until(lambda: pair.old.connections[0].gone.is_set(), "the gateway has closed")
    assert pair.report()["sent"] == 0


def test_cached_responses_have_no_shadow_and_fetches_have_one(rig: Rig) -> None:
    pair = Pair(rig, replies(lambda: {"a": 1}, b"Cache-Control: max-age=60"), same, route={"cache": {}}, control="0%")
    for _ in range(3):
        pair.get()
    pair.wait("compared", 1)
    assert len(pair.new.requests) == 1


# ---- reloads


def test_a_reload_keeps_the_counts_and_a_reset_clears_them(rig: Rig) -> None:
    pair = Pair(rig, same, same, control="0%")
    pair.get()
    pair.wait("compared", 1)
    services = {"old": {"targets": [pair.old.url]}, "new": {"targets": [pair.new.url]}}
    routes = [{"path": "/{rest*}", "service": "old", "shadow": {"service": "new", "control": "0%", "sample": "50%"}}]
    pair.running.reload(services, routes)
    assert pair.report()["compared"] == 1
    rig.loop.call(lambda: pair.running.gateway.shadows(reset=True))
    assert pair.report()["compared"] == 0


def test_the_counts_of_workers_are_added(rig: Rig) -> None:
    pair = Pair(rig, replies(lambda: {"a": 1}), replies(lambda: {"a": 2}), control="0%")
    pair.get()
    pair.wait("compared", 1)
    part = rig.loop.call(pair.running.gateway.shadows)
    assert json.loads(json.dumps(part)) == part
    report = merge_reports([part, part])["/{rest*}"]
    assert (report["compared"], report["differing"], report["findings"][0]["times"]) == (2, 2, 2)


def test_long_responses_are_compared_beside_the_event_loop(rig: Rig) -> None:
    """A long comparison runs in a thread; its result counts like any other."""
    old = [{"id": number, "name": "x" * 20} for number in range(3000)]
    new = [*old[:-1], {"id": 2999, "name": "y"}]
    pair = Pair(rig, replies(lambda: old), replies(lambda: new), control="0%")
    assert json.loads(pair.get()) == old
    (finding,) = pair.wait("compared", 1)["findings"]
    assert (finding["path"], finding["kind"]) == ("/*/name", "value")


def test_documents_that_cannot_be_compared_are_counted(rig: Rig) -> None:
    deep = json.loads("[" * 200 + "]" * 200)
    pair = Pair(rig, replies(lambda: deep), replies(lambda: [deep]), control="0%")
    pair.get()
    assert pair.wait("not_compared", 1)["not_compared"] == {"too deep": 1}


def test_comparisons_that_wait_hold_their_places(rig: Rig) -> None:
    """Otherwise a fast service with long responses would fill the memory with comparisons that wait for the thread."""
    go = threading.Event()
    blocked = _EXECUTOR.submit(go.wait, DEADLINE)
    old, new = [{"id": number} for number in range(2000)], [{"id": -number} for number in range(2000)]
    pair = Pair(rig, replies(lambda: old), replies(lambda: new), control="0%", concurrency=2)
    try:
        for _ in range(6):
            pair.get()
        wait_until(lambda: len(pair.new.requests) == 2, "two are in flight")
        assert pair.report()["sent"] == 2
    finally:
        go.set()
    assert blocked.result(DEADLINE)
    pair.wait("compared", 6)


def test_metrics_count_the_outcomes_and_a_reset_does_not_decrease_them(rig: Rig) -> None:
    pair = Pair(rig, replies(lambda: {"n": 1}), replies(lambda: {"n": 2}), control="0%")
    for number in range(3):
        pair.get()
        pair.wait("compared", number + 1)

    def samples() -> dict[str, float]:
        text = render(merge([rig.loop.call(pair.running.gateway.snapshot)]))[0].decode()
        found = re.findall(r"^passerelle_shadow_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE)
        assert all('route="/{rest*}"' in labels for _, labels, _ in found)
        outcomes = [re.search(r'outcome="(\w+)"', labels) for _, labels, _ in found]
        return {
            outcome[1] if outcome is not None else name: float(value)
            for (name, _, value), outcome in zip(found, outcomes, strict=True)
        }

    assert samples() == {"compared": 3, "not_compared": 0, "dropped": 0, "failed": 0, "differing": 3}
    rig.loop.call(lambda: pair.running.gateway.shadows(reset=True))
    assert samples() == {"compared": 3, "not_compared": 0, "dropped": 0, "failed": 0, "differing": 0}
    pair.new.close()
    pair.get()
    pair.wait("failed", 1)
    assert samples()["failed"] == 1
