"""Coalescing: one of many concurrent misses goes upstream, and none delays, fails or leaks to another."""

from __future__ import annotations

import threading
import tracemalloc

import pytest

from tests.support.gateways import Rig, in_flight, settle
from tests.support.upstream import Connection, Script, answering, ok
from tests.support.wire import Closed, stays, wait_until

FRESH = b"Cache-Control: max-age=60"
GET = b"GET /x HTTP/1.1\r\nHost: gw\r\n\r\n"


def gated(go: threading.Event, answer: bytes) -> Script:
    """An upstream that sends each response when the test releases it."""

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.wait(go)
            conn.send(answer)

    return script


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_misses_are_one_request_upstream(rig: Rig, count: int) -> None:
    go = threading.Event()
    upstream = rig.upstream(gated(go, ok(b"one", FRESH)))
    gateway = rig.forward(upstream, route={"cache": {}})
    clients = [rig.connect(gateway) for _ in range(count)]
    for client in clients:
        client.send(GET)
    wait_until(lambda: in_flight(gateway) == count, "all of them wait")
    go.set()
    answers = [client.read_response() for client in clients]
    assert {answer.body for answer in answers} == {b"one"}
    assert len(upstream.requests) == 1
    collapsed = [a for a in answers if a.get("cache-status") == b"passerelle; fwd=uri-miss; collapsed"]
    assert len(collapsed) == count - 1
    settle(gateway)


def test_a_leader_that_leaves_fails_no_waiter(rig: Rig) -> None:
    go = threading.Event()
    upstream = rig.upstream(gated(go, ok(b"one", FRESH)))
    gateway = rig.forward(upstream, route={"cache": {}})
    leader = rig.connect(gateway)
    leader.send(GET)
    upstream.wait_requests(1)
    followers = [rig.connect(gateway) for _ in range(10)]
    for follower in followers:
        follower.send(GET)
    wait_until(lambda: in_flight(gateway) == 11, "all of them wait")
    leader.reset()
    followers.pop().reset()
    wait_until(lambda: in_flight(gateway) == 9, "two are gone")
    go.set()
    assert [follower.read_response().body for follower in followers] == [b"one"] * 9
    assert len(upstream.requests) == 1


def test_a_request_without_waiters_ends_upstream(rig: Rig) -> None:
    def silent(conn: Connection) -> None:
        conn.read_request()

    upstream = rig.upstream(silent)
    gateway = rig.forward(upstream, route={"cache": {}})
    client = rig.connect(gateway)
    client.send(GET)
    upstream.wait_heads(1)
    client.reset()
    settle(gateway)
    upstream.wait_all_closed()


def test_an_answer_that_may_be_stored_is_fetched_to_its_end_without_its_client(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 8\r\n\r\nhalf")
        conn.wait(go)
        conn.send(b"half")

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}})
    client = rig.connect(gateway)
    client.send(GET)
    client.until(b"\r\n\r\nhalf")
    client.reset()
    settle(gateway)
    go.set()
    wait_until(lambda: gateway.snapshot()["cache"]["entries"] == 1, "it is stored")
    assert rig.connect(gateway).request("GET", "/x").body == b"halfhalf"
    assert len(upstream.requests) == 1


def test_a_leader_that_reads_slowly_delays_no_waiter(rig: Rig) -> None:
    body = b"x" * (6 << 20)
    upstream = rig.upstream(answering(ok(body, FRESH)))
    gateway = rig.forward(upstream, route={"cache": {}})
    leader = rig.connect(gateway, receive_buffer=4096)
    leader.send(GET)
    upstream.wait_requests(1)
    assert rig.connect(gateway).request("GET", "/x").body == body
    assert leader.read_response().body == body
    assert len(upstream.requests) == 1


def test_a_body_too_long_to_store_is_relayed_with_backpressure(rig: Rig) -> None:
    size = 24 << 20

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")
        conn.stream(b"10000\r\n" + b"y" * 65536 + b"\r\n", size >> 16)
        conn.send(b"0\r\n\r\n")

    upstream = rig.upstream(script, send_buffer=65536)
    gateway = rig.forward(upstream, route={"cache": {"max_body": "1MiB"}})
    client = rig.connect(gateway, receive_buffer=65536)
    client.send(GET)
    upstream.wait_requests(1)
    wait_until(lambda: upstream.connections[0].sent > 1 << 20, "it begins")
    stays(lambda: upstream.connections[0].sent < 16 << 20, "upstream is held back", 0.3)
    assert client.read_response().body == b"y" * size
    assert gateway.snapshot()["cache"]["entries"] == 0


@pytest.mark.parametrize("framing", [b"Content-Length: 4194304", b"Transfer-Encoding: chunked"])
def test_a_body_that_the_store_can_never_take_is_not_gathered(rig: Rig, framing: bytes) -> None:
    """The largest stored response is a sixteenth of 1 MiB, so 64 KiB, whatever ``max_body`` allows."""
    begun, go = b"y" * (4194304 - 10), threading.Event()
    chunked = framing.startswith(b"T")

    def script(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n%b\r\n\r\n" % framing)
        conn.send(b"400000\r\n" if chunked else b"", begun)
        conn.wait(go)
        conn.send(b"y" * 10, b"\r\n0\r\n\r\n" if chunked else b"")

    gateway = rig.forward(rig.upstream(script), route={"cache": {}}, cache={"memory": "1MiB"})
    client = rig.connect(gateway)
    tracemalloc.start()
    try:
        client.send(GET)
        got = 0
        while got < len(begun):
            got += len(client.sock.recv(65536))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1 << 20
    go.set()
    settle(gateway)
    assert gateway.snapshot()["cache"]["entries"] == 0


def test_what_has_grown_too_long_to_be_stored_takes_the_place_of_what_was_stored(rig: Rig) -> None:
    long = ok(b"y" * 1000_000, b"Cache-Control: max-age=60")
    short = ok(b"short", b"Cache-Control: max-age=0, stale-while-revalidate=600", b'ETag: "1"')

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(short if len(upstream.requests) == 1 else long)

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}}, cache={"memory": "1MiB"})
    client = rig.connect(gateway)
    assert client.request("GET", "/x").body == b"short"
    assert client.request("GET", "/x").body == b"short"  # stale, and revalidated in the background
    wait_until(lambda: gateway.snapshot()["cache"]["entries"] == 0, "the old answer is gone")
    assert len(client.request("GET", "/x").body) == 1000_000


@pytest.mark.parametrize("field", [b"Cache-Control: no-store", b"Cache-Control: private", b"Vary: *"])
def test_what_may_not_be_shared_sends_each_upstream_for_its_own(rig: Rig, field: bytes) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.wait(go)
            conn.send(ok(request.get("x-who") or b"", field))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}})
    clients = [rig.connect(gateway) for _ in range(8)]
    for number, client in enumerate(clients):
        client.send(b"GET /x HTTP/1.1\r\nHost: gw\r\nX-Who: %d\r\n\r\n" % number)
    wait_until(lambda: in_flight(gateway) == 8, "all of them wait")
    go.set()
    assert [client.read_response().body for client in clients] == [b"%d" % number for number in range(8)]
    assert len(upstream.requests) == 8


def test_variants_are_not_mixed_up_by_a_shared_flight(rig: Rig) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            conn.wait(go)
            conn.send(ok(request.get("accept-language") or b"", FRESH, b"Vary: Accept-Language"))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}})
    languages = [b"fr", b"de", b"en"] * 5
    clients = [rig.connect(gateway) for _ in languages]
    for language, client in zip(languages, clients, strict=True):
        client.send(b"GET /x HTTP/1.1\r\nHost: gw\r\nAccept-Language: %b\r\n\r\n" % language)
    wait_until(lambda: in_flight(gateway) == 15, "all of them wait")
    go.set()
    assert [client.read_response().body for client in clients] == languages
    assert len(upstream.requests) == 3


def test_a_leader_whose_upstream_breaks_off_does_not_fail_the_others(rig: Rig) -> None:
    go = threading.Event()

    def broken(conn: Connection) -> None:
        conn.read_request()
        conn.wait(go)
        conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\ncut")
        conn.close()

    upstream = rig.upstream([broken, answering(ok(b"whole", FRESH))])
    gateway = rig.forward(upstream, route={"cache": {}, "attempts": 1})
    leader = rig.connect(gateway)
    leader.send(GET)
    upstream.wait_requests(1)
    followers = [rig.connect(gateway) for _ in range(3)]
    for follower in followers:
        follower.send(GET)
    wait_until(lambda: in_flight(gateway) == 4, "all of them wait")
    go.set()
    assert [follower.read_response().body for follower in followers] == [b"whole"] * 3
    with pytest.raises(Closed):
        leader.read_response()


def test_a_waiter_for_another_request_s_head_waits_no_longer_than_its_route_allows(rig: Rig) -> None:
    go = threading.Event()
    upstream = rig.upstream(gated(go, ok(b"one", FRESH)))
    gateway = rig.forward(upstream, route={"cache": {}, "timeout": "300ms"})
    leader, waiter = rig.connect(gateway), rig.connect(gateway)
    leader.send(GET)
    upstream.wait_requests(1)
    waiter.send(GET)
    assert waiter.read_response().status == 504
    assert leader.read_response().status == 504
    go.set()


@pytest.mark.parametrize("field", [FRESH, b'Cache-Control: no-cache\r\nETag: "1"'])
def test_a_waiter_for_another_request_s_body_bypasses_the_cache_when_its_time_is_up(rig: Rig, field: bytes) -> None:
    """The timeout of a route holds for the head alone, which arrives at once. Also with a stale stored response."""
    go = threading.Event()

    def trickling(conn: Connection) -> None:
        while True:
            conn.read_request()
            if field != FRESH and len(upstream.requests) == 1:
                conn.send(ok(b"old", field))
                continue
            conn.send(b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 2\r\n\r\na" % FRESH)
            conn.wait(go)
            conn.send(b"b")

    upstream = rig.upstream(trickling)
    gateway = rig.forward(upstream, route={"cache": {}, "timeout": "300ms"})
    leader, waiter = rig.connect(gateway), rig.connect(gateway)
    if field != FRESH:
        assert leader.request("GET", "/x").body == b"old"
    leader.send(GET)
    leader.until(b"\r\n\r\na")
    before = len(upstream.requests)
    waiter.send(GET)
    head = waiter.until(b"\r\n\r\na", 20.0)
    assert head.startswith(b"HTTP/1.1 200 ") and b"collapsed" not in head
    assert len(upstream.requests) == before + 1
    go.set()
    assert leader.exactly(1) == waiter.exactly(1) == b"b"
    assert rig.connect(gateway).request("GET", "/x").body == b"ab"
    settle(gateway)
    assert len(upstream.requests) == before + 1


def test_a_waiter_for_a_body_that_cannot_be_shared_gets_its_full_timeout_again(rig: Rig) -> None:
    """That a body is too long, or incomplete, is known only after a while."""
    broken, go = threading.Event(), threading.Event()

    def script(conn: Connection) -> None:
        conn.read_request()
        if conn.index == 0:
            conn.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nwho")
            conn.wait(broken)
            conn.close()
        else:
            conn.wait(go)
            conn.send(ok(b"whole one"))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}, "timeout": "30s"})
    leader, waiter = rig.connect(gateway), rig.connect(gateway)
    leader.send(GET)
    leader.until(b"\r\n\r\nwho")
    (deadlines,) = gateway.gateway._deadlines.values()
    waiter.send(GET)
    wait_until(lambda: len(deadlines) == 1, "it waits")
    began = next(iter(deadlines.entries.values()))
    broken.set()
    upstream.wait_requests(2)
    rig.loop.call(lambda: deadlines.expire(began + 30.0))
    go.set()
    assert waiter.read_response().body == b"whole one"


@pytest.mark.parametrize(
    "field", [b"Content-Type: text/event-stream", b"content-type: Text/Event-Stream; charset=utf-8"]
)
def test_events_are_neither_stored_nor_shared(rig: Rig, field: bytes) -> None:
    go = threading.Event()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\n%b\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n" % (field, FRESH))
            conn.send(b"9\r\ndata: %d\n\n\r\n" % len(upstream.requests))
            conn.wait(go)
            conn.send(b"0\r\n\r\n")

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {"ttl": "60s"}})
    clients = []
    for number in range(1, 4):
        client = rig.connect(gateway)
        client.send(GET)
        client.until(b"data: %d\n\n\r\n" % number)
        clients.append(client)
    go.set()
    for client in clients:
        assert client.until(b"0\r\n\r\n") == b"0\r\n\r\n"
    settle(gateway)
    assert gateway.snapshot()["cache"]["entries"] == 0


def test_a_waiter_in_vain_has_its_deadline_before_later_requests(rig: Rig) -> None:
    """The request enters every queue after the others, but its time started before theirs."""
    first, later = threading.Event(), threading.Event()

    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.wait(first if len(upstream.requests) == 1 else later)
            conn.send(ok(b"one", b"Cache-Control: no-store"))

    upstream = rig.upstream(script)
    gateway = rig.forward(upstream, route={"cache": {}, "timeout": "30s"})
    leader, waiter = rig.connect(gateway), rig.connect(gateway)
    leader.send(GET)
    upstream.wait_requests(1)
    waiter.send(GET)
    wait_until(lambda: in_flight(gateway) == 2, "both are there")
    younger = rig.connect(gateway)
    younger.send(b"GET /y HTTP/1.1\r\nHost: gw\r\n\r\n")
    upstream.wait_requests(2)
    first.set()
    assert leader.read_response().status == 200
    upstream.wait_requests(3)
    # As the gateway's own check of deadlines would: both wait, and the time of the waiter ends first.
    (deadlines,) = gateway.gateway._deadlines.values()
    began = sorted(deadlines.entries.values())
    assert len(began) == 2
    rig.loop.call(lambda: deadlines.expire((began[0] + began[1]) / 2 + 30.0))
    assert waiter.read_response().status == 504
    later.set()
    assert younger.read_response().status == 200
