"""WebSockets of WSGI applications: the socket of the connection is the application's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import flask
import flask_sock
import pytest

from passerelle.appserver.raw_socket import KEY
from tests.appserver.test_server import Running, running
from tests.support.client import head
from tests.support.wire import wait_until

__all__ = ["running"]
LIMIT = 10.0  # seconds
HANDSHAKE = head(
    "GET",
    "/echo",
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
HELLO = b"\x81\x85\x00\x00\x00\x00hello"  # a text frame of a client, masked with zeros


class Echo:
    """A Flask application with flask-sock, as in its documentation. ``ended`` counts the ends of its handler."""

    def __init__(self) -> None:
        self.app = flask.Flask("echo")
        self.app.route("/")(lambda: "ok")
        self.ended = 0
        flask_sock.Sock(self.app).route("/echo")(self._echo)

    def _echo(self, connection: Any) -> None:
        try:
            while True:
                connection.send(connection.receive())
        finally:
            self.ended += 1


def open_echo(running: Running, server: Any) -> Any:
    client = running.client(server)
    client.send(HANDSHAKE)
    response = client.until(b"\r\n\r\n")
    assert b" 101 " in response.split(b"\r\n")[0]
    assert ACCEPT in response
    return client


def test_messages_are_echoed_and_the_end_of_the_client_ends_the_handler(running: Running) -> None:
    echo = Echo()
    server = running.serve(echo.app)
    client = open_echo(running, server)
    for _ in range(2):
        client.send(HELLO)
        assert client.exactly(7) == b"\x81\x05hello"
    client.close()
    wait_until(lambda: echo.ended == 1, "the end of the handler", LIMIT)
    wait_until(lambda: not server.connections, "the end of the connection", LIMIT)


def test_they_have_threads_of_their_own_up_to_a_bound(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    echo = Echo()
    server = running.serve(echo.app, threads=1, streams=2)
    open_clients = [open_echo(running, server) for _ in range(2)]
    other = running.client(server)
    assert other.request().body == b"ok"
    refused = running.client(server)
    refused.send(HANDSHAKE)
    assert refused.read_response().status == 503
    refused.assert_closed()
    assert caplog.messages == ["a stream was refused with 503: all 2 threads for streams are busy"]
    assert other.request().body == b"ok"
    open_clients[0].close()
    wait_until(lambda: server.pool.threads == 2, "a thread", LIMIT)
    open_echo(running, server)


def test_they_end_when_the_instance_stops(running: Running) -> None:
    echo = Echo()
    server = running.serve(echo.app)
    client = open_echo(running, server)
    assert running.run(server.stop(LIMIT)) is True
    client.wait_closed()
    assert echo.ended == 1


def test_an_application_that_leaves_the_socket_alone_responds_as_usual(running: Running) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"ok"]

    client = running.client(running.serve(application))
    client.send(HANDSHAKE)
    response = client.read_response()
    assert (response.status, response.body) == (200, b"ok")
    client.assert_closed()


def test_an_exception_after_the_handshake_ends_the_connection(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ[KEY].sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        raise RuntimeError("of the application")

    client = running.client(running.serve(application))
    client.send(HANDSHAKE)
    assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    client.wait_closed()
    assert "of the application" in caplog.text


def test_a_client_that_sends_before_the_handshake_is_refused(running: Running) -> None:
    called = threading.Event()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        called.set()
        start_response("200 OK", [])
        return []

    client = running.client(running.serve(application))
    client.send(HANDSHAKE + HELLO)
    assert client.read_response().status == 400
    client.assert_closed()
    assert not called.is_set()
