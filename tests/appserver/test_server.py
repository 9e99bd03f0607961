"""The WSGI server over real sockets: framing, slow clients, timeouts, orderly stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, cast
from wsgiref.validate import validator

import pytest
import uvloop

from passerelle.appserver import gateway_peer, wsgi
from passerelle.appserver.server import WsgiConnection, WsgiServer
from passerelle.appserver.thread_stats import SIZE, ThreadStats, ThreadUse, decode
from tests.support.client import Client, chunks, head
from tests.support.wire import Closed, wait_until

Start = Callable[..., Any]
LIMIT = 10.0  # seconds


class Running:
    """Servers in one event loop, in a separate thread."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._servers: list[WsgiServer] = []
        self._clients: list[Client] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LIMIT)

    def serve(self, application: Any, **options: Any) -> WsgiServer:
        sock = socket.create_server(("127.0.0.1", 0))

        async def start() -> WsgiServer:
            server = WsgiServer(application, sock, **options)
            await server.start()
            return server

        server: WsgiServer = self.run(start())
        self._servers.append(server)
        return server

    def client(self, server: WsgiServer, **options: Any) -> Client:
        client = Client(int(server.base["SERVER_PORT"]), **options)
        self._clients.append(client)
        return client

    def connection(self, server: WsgiServer) -> WsgiConnection:
        """Return the only connection of the server."""
        wait_until(lambda: len(server.connections) == 1, "one connection")
        return next(iter(server.connections))

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for server in self._servers:
            if not server.stopping:
                self.run(server.stop(LIMIT))
            server.join(LIMIT)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT)
        self.loop.close()


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.close()


def answering(body: bytes = b"ok", status: str = "200 OK", *fields: tuple[str, str]) -> Any:
    """Return an application with one fixed response, as a list."""

    def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response(status, [("Content-Type", "text/plain"), *fields])
        return [body]

    return application


def echo(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Respond with the body of the request."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]


def described(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """Respond with the environ, one line per key."""
    lines = [f"{key}={value}" for key, value in environ.items() if not key.startswith("wsgi.")]
    lines.append(f"scheme={environ['wsgi.url_scheme']}")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\n".join(lines).encode("latin-1")]


def environ(running: Running, raw: bytes) -> dict[str, str]:
    """Return the environ of the request ``raw``."""
    client = running.client(running.serve(described))
    client.send(raw)
    body = client.read_response().body.decode("latin-1")
    return dict(line.split("=", 1) for line in body.split("\n"))


class TestRequests:
    def test_many_on_one_connection(self, running: Running) -> None:
        client = running.client(running.serve(answering()))
        for _ in range(3):
            response = client.request(target="/user/1?a=b")
            assert (response.status, response.body) == (200, b"ok")
            assert response.get("content-length") == b"2"
            assert response.get("date")
            assert response.get("connection") is None
        assert client.is_open()

    def test_the_standard_library_s_validator_finds_no_fault(self, running: Running) -> None:
        client = running.client(running.serve(validator(answering())))
        assert client.request(target="/user/1?a=b").body == b"ok"
        assert client.request("POST", "/", ("Content-Type", "text/plain"), body=b"x" * 1000).body == b"ok"
        assert client.request("HEAD").status == 200
        assert client.is_open()

    def test_pipelined_ones_are_answered_in_order(self, running: Running) -> None:
        client = running.client(running.serve(echo))
        bodies = [b"%d" % n * (n + 1) for n in range(50)]
        client.send(b"".join(head("POST", "/", length=len(body)) + body for body in bodies))
        assert [client.read_response().body for _ in bodies] == bodies

    def test_a_request_in_single_bytes(self, running: Running) -> None:
        client = running.client(running.serve(echo))
        raw = head("POST", "/a?b=c", ("X-Long", "x" * 50), length=5) + b"hello"
        client.send(*(raw[at : at + 1] for at in range(len(raw))))
        assert client.read_response().body == b"hello"

    @pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
    def test_bodies_arrive_whole_however_framed(self, running: Running, size: int) -> None:
        client = running.client(running.serve(echo))
        body = bytes(range(256)) * (size // 256 + 1)
        body = body[:size]
        assert client.request("POST", "/", body=body).body == body
        client.send(head("POST", "/", ("Transfer-Encoding", "chunked")), chunks(*([body] if body else [])))
        assert client.read_response().body == body

    def test_a_chunked_body_has_a_length_for_the_application(self, running: Running) -> None:
        raw = head("POST", "/", ("Transfer-Encoding", "chunked")) + chunks(b"abc", b"de")
        seen = environ(running, raw)
        assert seen["CONTENT_LENGTH"] == "5"
        assert "HTTP_TRANSFER_ENCODING" not in seen

    def test_a_client_that_expects_100_continue_receives_it(self, running: Running) -> None:
        client = running.client(running.serve(echo))
        client.send(head("POST", "/", ("Expect", "100-continue"), length=3))
        assert client.read_response(stop_at_100=True).status == 100
        client.send(b"abc")
        assert client.read_response().body == b"abc"

    def test_a_half_closed_client_gets_its_answer(self, running: Running) -> None:
        client = running.client(running.serve(answering()))
        client.send(head())
        client.finish()
        assert client.read_response().body == b"ok"
        client.assert_closed()

    def test_an_upgrade_is_ignored(self, running: Running) -> None:
        client = running.client(running.serve(answering()))
        client.send(head("GET", "/", ("Connection", "upgrade"), ("Upgrade", "websocket")) + b"\x81\x00")
        assert client.read_response().status == 200
        client.assert_closed()

    def test_http_1_0_is_answered_and_closed(self, running: Running) -> None:
        client = running.client(running.serve(answering()))
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        response = client.read_response()
        assert (response.body, response.get("connection")) == (b"ok", b"close")
        client.assert_closed()

    def test_close_is_honoured(self, running: Running) -> None:
        client = running.client(running.serve(answering()))
        assert client.request("GET", "/", ("Connection", "close")).get("connection") == b"close"
        client.assert_closed()

    @pytest.mark.parametrize(
        "raw",
        [
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"GET / HTTP/1.1\nHost: a\n\n",
        ],
    )
    def test_what_is_not_http_is_refused(self, running: Running, raw: bytes) -> None:
        client = running.client(running.serve(answering()))
        client.send(raw)
        response = client.read_response()
        assert (response.status, response.get("connection")) == (400, b"close")
        client.wait_closed()

    def test_a_bad_request_after_a_good_one_does_not_cost_the_good_one_its_answer(self, running: Running) -> None:
        client = running.client(running.serve(answering()))
        client.send(head() + b"nonsense\r\n\r\n")
        assert client.read_response().body == b"ok"
        client.wait_closed()

    def test_an_endless_head_is_cut(self, running: Running) -> None:
        server = running.serve(answering())
        client = running.client(server)
        client.send(b"GET / HTTP/1.1\r\nX: ")
        with contextlib.suppress(OSError):  # the connection may be closed while the test still sends
            client.send(b"x" * 1_000_000)
        wait_until(lambda: not server.connections, "the connection ends")


class TestEnviron:
    def test_the_path_is_decoded_and_the_query_is_not(self, running: Running) -> None:
        seen = environ(running, head("GET", "/a%20b/%C3%A9%2F?q=%20&r"))
        # An encoded slash stays encoded, so that the application has the segments that the gateway has routed.
        assert seen["PATH_INFO"] == "/a b/Ã©%2F"
        assert seen["QUERY_STRING"] == "q=%20&r"
        assert seen["REQUEST_URI"] == "/a%20b/%C3%A9%2F?q=%20&r"
        assert seen["SCRIPT_NAME"] == ""

    def test_an_absolute_target(self, running: Running) -> None:
        seen = environ(running, b"GET http://gw/a/b?c HTTP/1.1\r\nHost: gw\r\n\r\n")
        assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/a/b", "c")

    def test_repeated_fields_are_one_value(self, running: Running) -> None:
        raw = head("GET", "/", ("Accept", "a"), ("Accept", "b"), ("Cookie", "c=1"), ("Cookie", "d=2"))
        seen = environ(running, raw)
        assert (seen["HTTP_ACCEPT"], seen["HTTP_COOKIE"]) == ("a,b", "c=1; d=2")

    def test_a_name_with_an_underscore_cannot_pass_for_another(self, running: Running) -> None:
        seen = environ(running, head("GET", "/", ("X_User", "mallory"), ("X-User", "ada"), ("Content_Length", "9")))
        assert seen["HTTP_X_USER"] == "ada"
        assert "CONTENT_LENGTH" not in seen

    def test_the_gateway_s_scheme_is_the_application_s(self, running: Running) -> None:
        assert environ(running, head())["scheme"] == "http"
        assert environ(running, head("GET", "/", ("X-Forwarded-Proto", "https")))["scheme"] == "https"
        assert environ(running, head("GET", "/", ("X-Forwarded-Proto", "javascript")))["scheme"] == "http"

    @pytest.mark.parametrize("said", ["203.0.113.7", "203.0.113.7, 127.0.0.2", "203.0.113.7,127.0.0.2, 127.0.0.3"])
    def test_the_client_that_the_gateway_found_is_the_application_s(self, running: Running, said: str) -> None:
        seen = environ(running, head("GET", "/", ("X-Forwarded-For", said)))
        assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("203.0.113.7", "0")

    @pytest.mark.parametrize(
        ("stated", "scheme"),
        [
            ("", "http"),
            ("10.0.0.8", "http"),
            ("10.0.0.7", "https"),
            ("10.0.0.0/29", "https"),
            ("10.1.0.0/16", "http"),
            ("*", "https"),
        ],
    )
    def test_another_machine_is_the_gateway_only_if_that_is_stated(
        self, monkeypatch: pytest.MonkeyPatch, stated: str, scheme: str
    ) -> None:
        class Elsewhere:
            """A connection from another machine."""

            family = socket.AF_INET

            def get_extra_info(self, name: str) -> Any:
                return ("10.0.0.7", 4242) if name == "peername" else self

        monkeypatch.setattr(gateway_peer, "GATEWAYS", frozenset({stated}))
        fields = [(b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-For", b"203.0.113.7")]
        believed = gateway_peer.is_gateway(cast(asyncio.BaseTransport, Elsewhere()))
        seen = wsgi.environ_of(
            {"wsgi.url_scheme": "http"}, b"GET", b"/", "1.1", fields, "10.0.0.7", 4242, from_gateway=believed
        )
        assert seen["wsgi.url_scheme"] == scheme
        assert seen["REMOTE_ADDR"] == ("203.0.113.7" if scheme == "https" else "10.0.0.7")

    def test_the_rest(self, running: Running) -> None:
        seen = environ(running, head("PUT", "/", ("Content-Type", "text/x"), length=0))
        assert seen["REQUEST_METHOD"] == "PUT"
        assert seen["CONTENT_TYPE"] == "text/x"
        assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
        assert seen["REMOTE_ADDR"] == "127.0.0.1"
        assert 0 < int(seen["REMOTE_PORT"]) < 65536
        assert seen["HTTP_HOST"] == "gw"


class TestAnswers:
    def test_head_has_no_body(self, running: Running) -> None:
        client = running.client(running.serve(validator(answering(b"ok", "200 OK", ("Content-Length", "2")))))
        for _ in range(2):
            response = client.request("HEAD")
            assert (response.status, response.get("content-length")) == (200, b"2")

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    def test_some_statuses_have_no_body(self, running: Running, status: str) -> None:
        client = running.client(running.serve(answering(b"", status)))
        for _ in range(2):
            assert client.request().status == int(status[:3])

    def test_an_endless_answer_to_head_ends(self, running: Running) -> None:
        closed = threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
            start_response("200 OK", [])
            try:
                while True:
                    yield b"x"
            finally:
                closed.set()

        client = running.client(running.serve(application))
        assert client.request("HEAD").status == 200
        assert closed.wait(LIMIT)

    def test_each_piece_is_sent_before_the_next_is_produced(self, running: Running) -> None:
        go_on = threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b""
            yield b"one"
            assert go_on.wait(LIMIT)
            yield b"two"

        client = running.client(running.serve(application))
        client.send(head())
        client.until(b"3\r\none\r\n")
        go_on.set()
        client.until(b"3\r\ntwo\r\n0\r\n\r\n")
        assert client.is_open()

    def test_http_1_0_gets_no_chunks(self, running: Running) -> None:
        def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield from (b"one", b"two")

        client = running.client(running.serve(application))
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.read_response()
        assert (response.framing, response.body) == ("close", b"onetwo")

    def test_the_callable_that_start_response_gives_writes(self, running: Running) -> None:
        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            write = start_response("200 OK", [("Content-Length", "6")])
            write(b"one")
            return [b"two"]

        client = running.client(running.serve(application))
        assert client.request().body == b"onetwo"

    def test_what_follows_the_last_byte_is_done_but_not_waited_for(self, running: Running) -> None:
        answered, done = threading.Event(), threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
            start_response("200 OK", [("Content-Length", "2")])
            yield b"ok"
            assert answered.wait(LIMIT)
            done.set()

        client = running.client(running.serve(application))
        assert client.request().body == b"ok"
        answered.set()
        assert done.wait(LIMIT)

    def test_close_is_called_once_whatever_happens(self, running: Running) -> None:
        closed: list[str] = []

        class Body:
            def __init__(self, what: str) -> None:
                self.what = what

            def __iter__(self) -> Iterator[bytes]:
                yield b"1"
                if self.what == "/raises":
                    raise ValueError
                yield b"2"

            def close(self) -> None:
                closed.append(self.what)

        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            start_response("200 OK", [])
            return Body(environ["PATH_INFO"])

        server = running.serve(application)
        assert running.client(server).request(target="/ends").body == b"12"
        client = running.client(server)
        client.send(head(target="/raises"))
        with pytest.raises(Closed):
            client.read_response()
        wait_until(lambda: closed == ["/ends", "/raises"], "both are closed")


class TestApplicationErrors:
    def test_an_error_is_500_without_its_text(self, running: Running, caplog: pytest.LogCaptureFixture) -> None:
        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/late":
                start_response("200 OK", [("X-Secret", "1")])
            if environ["PATH_INFO"] == "/exit":
                raise SystemExit(3)
            raise ValueError("secret")

        client = running.client(running.serve(application))
        for path in ("/early", "/late", "/exit", "/again"):
            response = client.request(target=path)
            assert response.status == 500
            assert response.get("content-type") == b"application/problem+json"
            assert b"secret" not in response.body and response.get("x-secret") is None
        assert client.request("HEAD", "/early").status == 500
        assert caplog.text.count("ValueError: secret") == 4
        assert "GET /early failed" in caplog.text

    def test_start_response_may_replace_what_was_not_sent(self, running: Running) -> None:
        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            start_response("200 OK", [("X-First", "1")])
            try:
                raise ValueError
            except ValueError as error:
                start_response("503 Busy", [], (type(error), error, error.__traceback__))
            return [b"busy"]

        response = running.client(running.serve(application)).request()
        assert (response.status, response.body, response.get("x-first")) == (503, b"busy", None)

    @pytest.mark.parametrize(
        ("status", "fields"),
        [
            ("200 OK\r\nX: y", []),
            ("200 OK", [("X", "a\r\nSet-Cookie: b")]),
            ("200 OK", [("X", "a\nb")]),
            ("200 OK", [("X", "a\0b")]),
            ("200 OK", [("X: y\r\nZ", "a")]),
            ("200 OK", [("X Y", "a")]),
            ("200 OK", [("", "a")]),
            ("200 OK", [("Content-Length", "-1")]),
            ("200 OK", [("Content-Length", "+2")]),
            ("200 OK", [("Content-Length", "2"), ("Content-Length", "3")]),
            ("200 OK", [("X", "\u20ac")]),
            ("100 Continue", []),
            ("20 OK", []),
            ("nonsense", []),
        ],
    )
    def test_a_malformed_head_is_500(
        self, running: Running, caplog: pytest.LogCaptureFixture, status: str, fields: list[tuple[str, str]]
    ) -> None:
        client = running.client(running.serve(answering(b"ok", status, *fields)))
        response = client.request()
        assert response.status == 500
        assert response.get("set-cookie") is None
        assert client.is_open()

    def test_connection_fields_are_the_server_s(self, running: Running) -> None:
        fields = [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=1")]
        client = running.client(running.serve(answering(b"ok", "200 OK", *fields)))
        response = client.request()
        assert response.names() == ["content-type", "date", "content-length"]
        assert client.is_open()

    def test_a_body_shorter_than_promised_is_broken_off(self, running: Running, caplog: Any) -> None:
        client = running.client(running.serve(answering(b"ok", "200 OK", ("Content-Length", "3"))))
        client.send(head())
        with pytest.raises(Closed):
            client.read_response()
        assert "1 bytes shorter than its Content-Length" in caplog.text

    def test_a_body_longer_than_promised_is_cut(self, running: Running, caplog: Any) -> None:
        client = running.client(running.serve(answering(b"oklong", "200 OK", ("Content-Length", "2"))))
        assert client.request().body == b"ok"
        assert client.request().body == b"ok"
        assert "longer than its Content-Length" in caplog.text

    @pytest.mark.parametrize("body", ["text", None, [1], ["text"]])
    def test_what_is_no_body_is_500(self, running: Running, caplog: Any, body: Any) -> None:
        def application(environ: dict[str, Any], start_response: Start) -> Any:
            start_response("200 OK", [])
            return body

        assert running.client(running.serve(application)).request().status == 500

    def test_start_response_is_needed_once(self, running: Running, caplog: Any) -> None:
        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/twice":
                start_response("200 OK", [])
                start_response("200 OK", [])
            return [b"x"]

        client = running.client(running.serve(application))
        assert client.request(target="/never").status == 500
        assert client.request(target="/twice").status == 500


class TestConcurrency:
    def test_as_many_requests_run_at_once_as_there_are_threads(self, running: Running) -> None:
        together = threading.Barrier(3)

        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            together.wait(LIMIT)
            start_response("200 OK", [])
            return [b"ok"]

        server = running.serve(application, threads=3)
        clients = [running.client(server) for _ in range(3)]
        for client in clients:
            client.send(head())
        assert [client.read_response().body for client in clients] == [b"ok"] * 3

    def test_slow_uploads_hold_no_thread(self, running: Running) -> None:
        server = running.serve(echo, threads=1)
        slow = [running.client(server) for _ in range(3)]
        for client in slow:
            client.send(head("POST", "/", length=10) + b"half")
        assert running.client(server).request("POST", "/", body=b"fast").body == b"fast"
        for client in slow:
            client.send(b"-whole")
            assert client.read_response().body == b"half-whole"

    def test_an_answer_within_the_window_holds_no_thread(self, running: Running) -> None:
        server = running.serve(answering(b"x" * 200_000), threads=1)
        slow = [running.client(server, receive_buffer=4096) for _ in range(3)]
        for client in slow:
            client.send(head())
        assert running.client(server).request().status == 200
        for client in slow:
            assert len(client.read_response().body) == 200_000

    def test_a_long_answer_is_made_at_the_client_s_pace(self, running: Running) -> None:
        made = 0

        def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
            nonlocal made
            start_response("200 OK", [])
            for _ in range(640):
                made += 1
                yield b"x" * 65_536

        server = running.serve(application)
        client = running.client(server)
        client.send(head())
        connection = running.connection(server)
        wait_until(lambda: connection._writable is not None, "the thread waits for the client")
        assert made < 400, "at most the window and the kernel's buffers"
        taken, end = 0, b""
        while end != b"\r\n0\r\n\r\n":
            piece = client.sock.recv(1 << 20)
            assert piece
            taken, end = taken + len(piece), (end + piece)[-7:]
        assert made == 640 and taken > 640 * 65_536

    def test_a_client_that_leaves_ends_its_answer(self, running: Running) -> None:
        closed = threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
            start_response("200 OK", [])
            try:
                while True:
                    yield b"x" * 65_536
            finally:
                closed.set()

        server = running.serve(application, threads=1)
        client = running.client(server)
        client.send(head())
        client.until(b"\r\n\r\n")
        client.reset()
        assert closed.wait(LIMIT), "the generator is closed"
        wait_until(lambda: not server.connections)


class TestTimeouts:
    def test_an_idle_connection_is_closed(self, running: Running) -> None:
        server = running.serve(answering(), idle_timeout=0.0)
        client = running.client(server)
        assert client.request().status == 200
        client.assert_closed()

    def test_half_a_request_is_refused(self, running: Running) -> None:
        client = running.client(running.serve(answering(), read_timeout=0.0))
        client.send(b"GET / HT")
        assert client.read_response().status == 408
        client.assert_closed()

    def test_a_client_that_takes_nothing_is_cut_off(self, running: Running) -> None:
        ended = threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
            start_response("200 OK", [])
            try:
                while True:
                    yield b"x" * 65_536
            finally:
                ended.set()

        server = running.serve(application, write_timeout=0.0)
        client = running.client(server, receive_buffer=4096)
        client.send(head())
        assert ended.wait(LIMIT)

    def test_a_running_request_has_all_the_time_it_needs(self, running: Running) -> None:
        go_on = threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            assert go_on.wait(LIMIT)
            start_response("200 OK", [])
            return [b"ok"]

        server = running.serve(application, idle_timeout=0.0, read_timeout=0.0)
        client = running.client(server)
        client.send(head())
        connection = running.connection(server)
        wait_until(lambda: connection._busy)
        running.loop.call_soon_threadsafe(connection.check, running.loop.time() + 1000)
        go_on.set()
        assert client.read_response().body == b"ok"


class TestStop:
    def test_running_requests_end_and_idle_connections_close(self, running: Running) -> None:
        entered, go_on = threading.Event(), threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/slow":
                entered.set()
                assert go_on.wait(LIMIT)
            start_response("200 OK", [])
            return [b"ok"]

        server = running.serve(application)
        with running.client(server) as earlier:
            assert earlier.request().status == 200
        wait_until(lambda: not server.connections)
        idle, slow, half = running.client(server), running.client(server), running.client(server)
        assert idle.request().status == 200
        slow.send(head(target="/slow"))
        half.send(head()[:-2])
        wait_until(lambda: sum(connection._reading for connection in server.connections) == 1)
        assert entered.wait(LIMIT)
        stopping = asyncio.run_coroutine_threadsafe(server.stop(LIMIT), running.loop)
        idle.assert_closed()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(server.base["SERVER_PORT"])), LIMIT)
        half.send(b"\r\n")
        response = half.read_response()
        assert (response.status, response.get("connection")) == (200, b"close")
        half.assert_closed()
        assert not stopping.done()
        go_on.set()
        assert slow.read_response().body == b"ok"
        slow.assert_closed()
        assert stopping.result(LIMIT) is True

    def test_after_the_grace_what_still_runs_is_cut_off(self, running: Running) -> None:
        entered, go_on = threading.Event(), threading.Event()

        def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
            entered.set()
            assert go_on.wait(LIMIT)
            start_response("200 OK", [])
            return [b"ok"]

        server = running.serve(application)
        client = running.client(server)
        client.send(head())
        assert entered.wait(LIMIT)
        assert running.run(server.stop(0.0)) is False
        client.wait_closed()
        go_on.set()


def test_nothing_is_logged_when_all_is_well(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "passerelle.appserver"):
        client = running.client(running.serve(validator(answering())))
        assert client.request().status == 200
    assert caplog.records == []


def test_busy_threads_and_the_queue_are_counted(running: Running) -> None:
    release = threading.Event()

    def application(environ: dict[str, Any], start: Start) -> list[bytes]:
        assert release.wait(LIMIT)
        start("200 OK", [])
        return [b"x"]

    stats = ThreadStats(8)
    server = running.serve(application, threads=2, stats=stats)

    def use() -> ThreadUse:
        found = decode(bytes(stats.values).ljust(SIZE, b"\0"), time.monotonic())
        assert found is not None
        return found

    clients = [running.client(server) for _ in range(3)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: use().queued == 1, "one request in the queue")
    wait_until(lambda: use().longest > 0.02, "a call in progress")
    assert use().calls == 0
    release.set()
    wait_until(lambda: use().calls == 3, "the end of all calls")
    assert use().queued == 0
    assert use().longest == 0
    assert use().busy_seconds >= 0.04
    assert use().queued_seconds >= 0.02
