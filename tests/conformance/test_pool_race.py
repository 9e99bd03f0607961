"""A dead pooled connection is detected, and no request is executed twice (RFC 9110 §9.2.2, RFC 9112 §9.3.1)."""

from __future__ import annotations

import random
import select
import threading
import time

import pytest

from tests.support.expect import problem
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Script, answering, ok
from tests.support.wire import wait_until

ROUNDS = 20


def leaves(how: str, after: threading.Event, together: int = 1) -> Script:
    """Respond to one request (once ``together`` of them are pending, each on its connection); close after ``after``."""
    barrier = threading.Barrier(together, timeout=5)

    def script(conn: Connection) -> None:
        conn.read_request()
        barrier.wait()
        conn.send(ok(b"first"))
        conn.wait(after)
        conn.reset() if how == "reset" else conn.close()

    return script


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_a_post_after_the_upstream_left_runs_once_and_is_answered(rig: Rig, how: str) -> None:
    for _ in range(ROUNDS):
        leave = threading.Event()
        upstream = rig.upstream([leaves(how, leave, 3)] * 3 + [answering(ok(b"second"))])
        gateway = rig.forward(upstream)
        clients = [rig.connect(gateway) for _ in range(3)]
        for client in clients:
            client.send(b"GET /fill HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert [client.read_response().body for client in clients] == [b"first"] * 3
        leave.set()
        answer = clients[0].request("POST", "/", body=b"0123456789")
        # The close of the upstream and this request cross: the request ran once or, if a byte of it was written, fails
        # with 502.
        posts = [r for r in upstream.requests if r.method == b"POST"]
        if answer.status == 200:
            assert answer.body == b"second" and [p.body for p in posts] == [b"0123456789"]
        else:
            problem(answer, 502)
            assert not posts
        gateway.stop()
        upstream.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["eof", "reset", "read"])
def test_two_hundred_rounds_in_which_no_post_runs_twice_and_no_get_fails(rig: Rig, how: str) -> None:
    """Three GETs fill the pool; then its connections close within milliseconds of the next request, a POST or a GET.

    With ``read``, that request is read instead, and its connection closes without a response.
    """
    rng = random.Random(3)
    leave = threading.Event()
    until: dict[Connection, threading.Event] = {}
    taken: set[bytes] = set()

    def serve(conn: Connection) -> None:
        while True:
            ending = until[conn] = leave
            while not select.select([conn.sock], [], [], 0.0005)[0]:
                if ending.is_set():
                    return conn.reset() if how == "reset" else conn.close()
            target = conn.read_request().target
            if how == "read" and not target.startswith(b"/fill") and target not in taken:
                taken.add(target)
                return conn.close()
            conn.send(ok(target))

    upstream = rig.upstream(serve)
    gateway = rig.forward(upstream)
    clients = [rig.connect(gateway) for _ in range(3)]
    refused = 0
    for number in range(200):
        for client in clients:
            client.send(b"GET /fill/%d HTTP/1.1\r\nHost: gw\r\n\r\n" % number)
        for client in clients:
            assert client.read_response().body == b"/fill/%d" % number
        method, target = ("GET" if number % 2 else "POST"), b"/%d" % number
        ending, leave = leave, threading.Event()
        timer = threading.Timer(rng.uniform(0, 0.004), ending.set if how != "read" else leave.is_set)
        timer.start()
        time.sleep(rng.uniform(0, 0.004))
        answer = clients[0].request(method, target.decode(), body=None if number % 2 else b"0123456789")
        timer.join()
        # One race per round: the retry budget allows no more.
        wait_until(lambda: all(conn.gone.is_set() or not end.is_set() for conn, end in list(until.items())))
        ran = sum(request.target == target for request in upstream.requests)
        if method == "GET":
            assert (answer.status, answer.body) == (200, target)
        elif answer.status == 200:
            assert ran == 1
        else:
            problem(answer, 502)
            assert ran <= (how == "read")  # a request that was read may have run, so it is not retried
            refused += 1
    assert refused == 100 if how == "read" else refused < 100


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_a_close_long_before_is_always_noticed(rig: Rig, how: str) -> None:
    leave = threading.Event()
    upstream = rig.upstream([leaves(how, leave), answering(ok(b"second"))])
    client = rig.connect(rig.forward(upstream))
    assert client.request().body == b"first"
    leave.set()
    assert upstream.connections[0].gone.wait(5)
    wait_until(lambda: client.request("GET", "/").body == b"second")  # from then on, the pool has noticed
    assert client.request("POST", "/", body=b"x").body == b"second"


@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_an_idempotent_request_that_got_no_answer_is_sent_once_more_on_a_new_connection(
    rig: Rig, how: str, method: str
) -> None:
    def dies(conn: Connection) -> None:
        conn.read_request()
        conn.send(ok(b"first"))
        conn.read_request()
        conn.reset() if how == "reset" else conn.close()

    upstream = rig.upstream([dies, answering(ok(b"second"))])
    client = rig.connect(rig.forward(upstream))
    assert client.request().body == b"first"
    answer = client.request(method, "/again", body=b"x" if method == "PUT" else None)
    assert answer.status == 200 and answer.body in (b"second", b"")
    assert [(r.method, r.target) for r in upstream.requests[1:]] == [(method.encode(), b"/again")] * 2
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "WEIRD"])
def test_a_request_that_may_have_run_is_never_sent_again(rig: Rig, how: str, method: str) -> None:
    def dies(conn: Connection) -> None:
        conn.read_request()
        conn.reset() if how == "reset" else conn.close()

    upstream = rig.upstream([dies, answering(ok(b"again"))])
    client = rig.connect(rig.forward(upstream))
    problem(client.request(method, "/once", body=b"0123456789"), 502)
    assert client.request("GET", "/").body == b"again"
    assert [r.target for r in upstream.requests] == [b"/once", b"/"]


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_a_get_is_tried_twice_and_no_more(rig: Rig, how: str) -> None:
    def dies(conn: Connection) -> None:
        conn.read_request()
        conn.reset() if how == "reset" else conn.close()

    upstream = rig.upstream(dies)
    client = rig.connect(rig.forward(upstream))
    problem(client.request("GET", "/"), 502)
    assert len(upstream.requests) == 2


def test_the_second_try_goes_to_another_instance(rig: Rig) -> None:
    def dies(conn: Connection) -> None:
        conn.read_request()
        conn.close()

    bad, good = rig.upstream(dies), rig.upstream(answering(ok(b"good")))
    client = rig.connect(rig.forward(bad, good, service={"balance": "round_robin"}))
    for _ in range(6):
        assert client.request("GET", "/").body == b"good"


def test_a_refused_connection_is_tried_elsewhere_even_for_a_post(rig: Rig) -> None:
    down, good = rig.upstream(answering(ok(b"never"))), rig.upstream(answering(ok(b"good")))
    down.refuse()
    client = rig.connect(rig.forward(down, good, service={"balance": "round_robin"}))
    for _ in range(4):
        assert client.request("POST", "/", body=b"x").body == b"good"
    assert [r.body for r in good.requests] == [b"x"] * 4


def test_no_answer_at_all_is_a_502_or_504_never_an_empty_reply(rig: Rig) -> None:
    down = rig.upstream(answering(ok()))
    down.refuse()
    client = rig.connect(rig.forward(down))
    problem(client.request("GET", "/"), 502)
    problem(client.request("POST", "/", body=b"x"), 502)


def test_an_answer_begun_is_not_tried_again(rig: Rig) -> None:
    def dies(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        conn.close()

    upstream = rig.upstream([dies, answering(ok(b"second"))])
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("GET", "/"), 502)


def test_a_slow_upstream_is_a_504_at_the_routes_deadline_and_not_tried_again(rig: Rig) -> None:
    def sleeps(conn: Connection) -> None:
        conn.read_request()

    upstream = rig.upstream(sleeps)
    client = rig.connect(rig.forward(upstream, route={"timeout": "200ms"}))
    problem(client.request("POST", "/", body=b"x"), 504)
    upstream.wait_all_closed()
    assert len(upstream.requests) == 1


def test_attempts_1_means_no_second_try(rig: Rig) -> None:
    def dies(conn: Connection) -> None:
        conn.read_request()
        conn.close()

    upstream = rig.upstream(dies)
    client = rig.connect(rig.forward(upstream, route={"attempts": 1}))
    problem(client.request("GET", "/"), 502)
    assert len(upstream.requests) == 1
