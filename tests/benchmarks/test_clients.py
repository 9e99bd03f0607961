"""Clients that record the time and status of every response, and their use by scenarios."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.rig.clients import Answer, Steady, offer, p99
from benchmarks.scenarios import chaos, overload
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import wait_until

LONG = 30.0


class Server(Upstream):
    """Closes for ``/lost``; responds to ``/full`` with 503, to ``/last`` with 200 and a close, to others with 200."""

    def __init__(self) -> None:
        super().__init__(self._serve)

    def _serve(self, conn: Connection) -> None:
        while True:
            target = conn.read_request().target
            if target == b"/lost":
                return conn.close()
            if target == b"/full":
                conn.send(b"HTTP/1.1 503 Full\r\nRetry-After: 1\r\n", b"Content-Length: 2\r\n\r\n", b"no")
            elif target == b"/last":
                conn.send(ok(b"bye", b"Connection: close"))
                return conn.close()
            else:
                conn.send(ok())


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()
        server.check()


def test_steady_clients_send_requests_without_end_and_in_turn() -> None:
    with serving() as server:
        begun = time.monotonic()
        with Steady(server.port, ["/a", "/full", "/last", "/lost"], 4) as load:
            wait_until(lambda: len(load.answers) >= 400, "many answers", LONG)
            some = load.between(begun, begun + LONG)
        counts = {status: sum(answer.status == status for answer in some) for status in (200, 503, 0)}
        assert sum(counts.values()) == len(some) >= 400
        # One of four paths is lost, and a close after a response is not a failure.
        assert abs(counts[0] - len(some) / 4) <= 4 and abs(counts[200] - len(some) / 2) <= 4
        assert all(answer.retry_after == (answer.status == 503) for answer in some)
        assert load.between(begun - 10, begun) == []


def test_refused_connections_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Steady(port, ["/"], 2) as load:
        wait_until(lambda: len(load.answers) >= 4, "failures", LONG)
    assert {answer.status for answer in load.answers} == {0}
    assert {answer.status for answer in offer(port, "/", 100, 0.1)} == {0}


def test_a_rate_is_kept_whatever_is_answered() -> None:
    with serving() as server:
        answers = offer(server.port, "/full", 200, 1.0)
        assert len(answers) == 200 and {(a.status, a.retry_after) for a in answers} == {(503, True)}
        assert max(a.at for a in answers) - min(a.at for a in answers) > 0.9
        assert len(server.requests) == 200


def test_the_paced_service_works_on_so_many_at_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paced = subprocess.Popen([sys.executable, str(overload.PROGRAM), "0.05", "2", str(port)])
    try:
        wait_until(lambda: _connects(port), "it listens", LONG)
        begun = time.monotonic()
        with Steady(port, ["/"], 6) as load:
            wait_until(lambda: len(load.answers) >= 20, "answers", LONG)
        # Two at a time: at least ten in sequence.
        assert load.answers[19].end - begun > 10 * 0.05 * 0.9
        assert {answer.status for answer in load.answers} == {200}
    finally:
        paced.kill()
        paced.wait()


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_percentiles() -> None:
    assert p99([float(n) for n in range(1000)]) == 990
    assert p99([3.0]) == 3.0
    assert p99([]) != p99([])
    assert Answer(1.0, 0.5, 200, False).end == 1.5


def test_overload_is_judged_by_goodput_and_by_refusals() -> None:
    rounds = [
        overload.Round(600, 570, 1800, 3600, 4.0, 60.0, 40.0, 0, 0.0),
        overload.Round(600, 510, 1800, 3600, 12.0, 60.0, 40.0, 2, 0.5),
        overload.Round(600, 540, 1800, 3600, 8.0, 60.0, 40.0, 0, 0.0),
    ]
    goodput, refusals = overload.figures(rounds)
    assert goodput.line()["ours_rps"] == 540 and goodput.line()["ratio"] == 0.9 and goodput.met
    assert goodput.errors == 2 and goodput.noisy
    assert refusals.line()["ours_p99_ms"] == 8.0 and refusals.met and refusals.line()["refused"] == 10_800


def test_an_event_is_judged_by_failures_and_by_what_came_after() -> None:
    seen = [chaos.Seen(1000, 0, 50_000, 60_000, 900_000, 1.0, 0.0), chaos.Seen(1000, 1, 50_000, 150_000, 1e6, 1.0, 0.0)]
    line = chaos.figure("one frozen", seen).line()
    assert (line["ratio"], line["errors"], line["met"], line["requests"]) == (2.1, 1, False, 2000)
    assert chaos.figure("one frozen", seen[:1]).met
