"""Threads of the WSGI server: streams beside other requests, waiting requests, and threads that are never free."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import flask.typing
import pytest

from passerelle.appserver import main as appserver
from passerelle.appserver.thread_pool import STREAM_AFTER, STREAMS, STUCK_AFTER, ThreadPool
from passerelle.appserver.wsgi import base_environ, environ_of
from tests.appserver.test_server import Running, running
from tests.support.client import Client, head
from tests.support.wire import stays, wait_until

__all__ = ["running"]
LIMIT = 10.0


class Events:
    """A Flask application with event streams at ``/stream``, whose generators wait for ``send``."""

    def __init__(self) -> None:
        self.app = flask.Flask("events")
        self.streams: list[queue.Queue[bytes]] = []
        self.closed = 0
        self.app.route("/")(lambda: "ok")
        self.app.route("/stream", endpoint="stream")(lambda: self._stream("text/event-stream"))
        self.app.route("/download", endpoint="download")(lambda: self._stream("application/octet-stream"))

    def _stream(self, mimetype: str) -> flask.typing.ResponseReturnValue:
        waiting: queue.Queue[bytes] = queue.Queue()

        def generate() -> Iterator[bytes]:
            try:
                yield b"data: hello\n\n"
                self.streams.append(waiting)
                while (data := waiting.get()) != b"end":
                    yield data
            finally:
                self.closed += 1

        return flask.Response(generate(), mimetype=mimetype)

    def send(self, data: bytes) -> None:
        for waiting in self.streams:
            waiting.put(data)


@pytest.fixture
def events() -> Iterator[Events]:
    made = Events()
    yield made
    made.send(b"end")


def open_streams(running: Running, server: Any, events: Events, count: int, path: str = "/stream") -> list[Client]:
    before = len(events.streams)
    clients = [running.client(server) for _ in range(count)]
    for client in clients:
        client.send(head("GET", path))
    begun = before + count
    wait_until(lambda: len(events.streams) == begun, f"{count} streams", LIMIT)
    return clients


class TestStreams:
    def test_streams_leave_all_threads_to_other_requests(self, running: Running, events: Events) -> None:
        server = running.serve(events.app)
        open_streams(running, server, events, 4)
        client = running.client(server)
        assert client.request().body == b"ok"

    def test_threads_of_ended_streams_end(self, running: Running, events: Events) -> None:
        server = running.serve(events.app, threads=2)
        open_streams(running, server, events, 2)
        pool = server.pool
        wait_until(lambda: pool.threads == 4, "a thread in place of each that streams", LIMIT)
        events.send(b"end")
        wait_until(lambda: pool.threads == 2, "as many threads as before", LIMIT)
        client = running.client(server)
        assert [client.request().body for _ in range(4)] == [b"ok"] * 4

    def test_the_number_of_threads_is_bounded(
        self, running: Running, events: Events, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = running.serve(events.app, threads=1)
        for count in range(1, STREAMS + 2):
            open_streams(running, server, events, 1, "/download")
            expected = min(STREAMS, count) + 1
            wait_until(lambda: server.pool.threads == expected, "a thread", LIMIT)  # noqa: B023 - called at once
        waiting = running.client(server)
        waiting.send(head())
        wait_until(lambda: "requests wait: 1" in caplog.text, "a report", LIMIT)
        assert server.pool.threads == STREAMS + 1
        events.send(b"end")
        assert waiting.read_response().body == b"ok"

    def test_event_streams_beyond_their_bound_are_refused_and_other_requests_are_not_held_up(
        self, running: Running, events: Events, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = running.serve(events.app, threads=1, streams=2)
        open_streams(running, server, events, 2)
        assert server.pool.threads == 3, "they have threads of their own from their beginning"
        client = running.client(server)
        for _ in range(2):
            refused = client.request("GET", "/stream")
            assert (refused.status, refused.get("retry-after")) == (503, b"5")
            assert b"Service Unavailable" in refused.body
            assert client.request().body == b"ok"
        assert caplog.messages == ["a stream was refused with 503: all 2 threads for streams are busy"]
        events.send(b"end")
        wait_until(lambda: server.pool.threads == 1, "the end of the streams", LIMIT)
        open_streams(running, server, events, 1)

    def test_an_event_stream_of_known_length_is_no_stream(self, running: Running) -> None:
        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return [b"data: all\n\n"]

        client = running.client(running.serve(application, threads=1, streams=0))
        assert client.request().body == b"data: all\n\n"

    def test_the_generator_is_closed_when_it_yields_to_a_client_that_is_gone(
        self, running: Running, events: Events
    ) -> None:
        server = running.serve(events.app)
        (client,) = open_streams(running, server, events, 1)
        client.close()
        wait_until(lambda: not server.connections, "the end of the connection", LIMIT)
        assert events.closed == 0
        events.send(b"data: more\n\n")
        wait_until(lambda: events.closed == 1, "the end of the generator", LIMIT)

    def test_a_piece_without_bytes_also_ends_the_generator_of_a_client_that_is_gone(
        self, running: Running, events: Events
    ) -> None:
        server = running.serve(events.app)
        (client,) = open_streams(running, server, events, 1)
        client.close()
        wait_until(lambda: not server.connections, "the end of the connection", LIMIT)
        events.send(b"")
        wait_until(lambda: events.closed == 1, "the end of the generator", LIMIT)


class Caller:
    """A connection whose client leaves at ``gone_since``."""

    def __init__(self) -> None:
        self.streaming_since = 0.0
        self.gone_since = 0.0
        self.received = b""
        self.is_aborted = False
        self.finished = threading.Event()

    def send(self, data: bytes) -> bool:
        self.received += data
        return not self.gone_since

    def is_open(self) -> bool:
        return not self.gone_since

    def abort(self) -> None:
        self.is_aborted = True

    def begin_stream(self) -> bool:
        return True

    def finish(self, data: bytes, keep: bool) -> None:
        self.received += data
        self.finished.set()


class Pool:
    """A pool whose application waits until :meth:`release`, with a clock that is set."""

    def __init__(self, size: int) -> None:
        self.now = time.monotonic()
        self.released = threading.Event()
        self.started = 0
        self.pool = ThreadPool(self._application, size, lambda: self.now, hung_after=30.0)
        self.pool.start()

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.started += 1
        assert self.released.wait(LIMIT)
        start_response("200 OK", [])
        return [b"ok"]

    def call(self) -> Caller:
        caller = Caller()
        environ = environ_of(base_environ("127.0.0.1", 1), b"GET", b"/", "1.1", [], "127.0.0.1", 1, from_gateway=False)
        self.pool.call(environ, caller, True)
        return caller

    def busy(self, count: int) -> list[Caller]:
        callers = [self.call() for _ in range(count)]
        wait_until(lambda: self.started == count, "calls of the application", LIMIT)
        return callers


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(2)
    yield made
    made.released.set()
    made.pool.stop()
    made.pool.join(LIMIT)


class TestPool:
    def test_only_responses_that_last_get_another_thread(self, pool: Pool) -> None:
        first, _ = pool.busy(2)
        pool.pool.check()
        assert pool.pool.threads == 2
        first.streaming_since = pool.now
        pool.now += STREAM_AFTER - 0.01
        pool.pool.check()
        assert pool.pool.threads == 2
        pool.now += 0.01
        pool.pool.check()
        pool.pool.check()
        assert pool.pool.threads == 3

    def test_requests_that_wait_are_reported_at_most_every_thirty_seconds(
        self, pool: Pool, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool.busy(2)
        for _ in range(3):
            pool.call()
        for _ in range(61):
            assert not pool.pool.check()
            pool.now += 1
        lines = [record.getMessage() for record in caplog.records]
        assert lines == ["all 2 threads are busy (0 with streams), requests wait: 3"] * 2

    def test_requests_that_wait_only_for_a_moment_are_not_reported(
        self, pool: Pool, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool.busy(2)
        last = pool.call()
        pool.pool.check()
        pool.released.set()
        assert last.finished.wait(LIMIT)
        pool.pool.check()
        assert caplog.records == []

    def test_requests_of_clients_that_are_gone_leave_the_queue(self, pool: Pool) -> None:
        pool.busy(2)
        gone, here = pool.call(), pool.call()
        gone.gone_since = pool.now
        pool.pool.check()
        pool.released.set()
        assert here.finished.wait(LIMIT)
        assert gone.is_aborted
        assert not gone.finished.is_set()
        assert pool.started == 3

    def test_it_is_stuck_if_requests_wait_and_all_clients_of_the_threads_are_long_gone(self, pool: Pool) -> None:
        first, second = pool.busy(2)
        waiting = pool.call()
        first.gone_since = second.gone_since = pool.now
        pool.now += STUCK_AFTER
        assert not pool.pool.check()
        pool.now += 1
        assert pool.pool.check()
        waiting.gone_since = pool.now
        assert not pool.pool.check(), "no request waits"
        pool.call()
        second.gone_since = 0.0
        assert not pool.pool.check(), "a client waits for a response"

    def test_it_is_hung_if_each_thread_is_in_one_call_that_has_sent_nothing(self, pool: Pool) -> None:
        first, second = pool.busy(2)
        waiting = pool.call()
        pool.now += 29
        assert pool.pool.hung() == []
        pool.now += 2
        assert set(pool.pool.hung()) == {first, second}
        second.streaming_since = pool.now
        assert pool.pool.hung() == [], "one is sent a response"
        second.streaming_since = 0.0
        assert [caller for _, caller in pool.pool.take_waiting()] == [waiting]
        assert pool.pool.take_waiting() == []

    def test_a_free_thread_is_not_hung(self, pool: Pool) -> None:
        pool.busy(1)
        pool.now += 1000
        assert pool.pool.hung() == []

    def test_without_another_thread_the_stream_counts(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        (first, _) = pool.busy(2)
        first.streaming_since = 1.0

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", refuse)
            pool.pool.check()
        assert pool.pool.threads == 2
        pool.pool.check()
        assert pool.pool.threads == 3


def test_a_stuck_instance_ends_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import threading\n"
        "def app(environ, start_response):\n"
        "    print('called', flush=True)\n"
        "    threading.Event().wait()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "import passerelle.appserver.thread_pool as pool; pool.STUCK_AFTER = 0.2\n"
        "from passerelle.appserver.main import main\n"
        f"raise SystemExit(main(['stuck:app', '--port', '{port}', '--threads', '2']))"
    )
    instance = subprocess.Popen(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert instance.stdout is not None
    try:

        def accepts() -> bool:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        wait_until(accepts, "a start", 20.0)
        for _ in range(2):
            with Client(port) as leaving:
                leaving.send(head())
                assert instance.stdout.readline() == "called\n"
        stays(lambda: instance.poll() is None, "nothing waits")
        with Client(port) as waiting:
            waiting.send(head())
            assert instance.wait(LIMIT) == appserver.STUCK
            assert "and requests wait: this instance ends" in instance.stdout.read()
    finally:
        instance.kill()
        instance.wait(LIMIT)
        instance.stdout.close()
