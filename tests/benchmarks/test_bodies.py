"""Clients and upstream of the scenario ``bodies``, with each other and with servers that send incorrect responses."""

import socket
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.peers import programs
from benchmarks.rig.core import Rig
from benchmarks.rig.server import RigError
from benchmarks.rig.sockets import IdleConnections, download, upload
from benchmarks.scenarios.bodies import Moved, sparse_file
from tests.requirements import needs

SIZE = 3_000_000


@pytest.fixture(scope="module")
def port():
    with sparse_file(SIZE) as file, Rig.on_this_machine() as rig:
        port = rig.port()
        program = str(Path(programs.__file__).with_name("bodies.py"))
        argv = [sys.executable, program, str(port), file.name]
        rig.start("bodies", argv, port, rig.subfolder("bodies"), ready="/1", under_test=False)
        yield port


@needs("wrk", "taskset")
def test_bodies_pass_whole_both_ways(port):
    assert download(port, f"/{SIZE}", {"X": "y"}) == SIZE
    with sparse_file(SIZE) as file:
        assert upload(port, "/sink", {}, file, SIZE) == SIZE


@needs("wrk", "taskset")
def test_a_connection_carries_several_requests(port):
    with IdleConnections(port, 5) as clients:
        assert clients.ask_each("/10", {}) == 0
        assert clients.ask_each("/20", {}) == 0


class Scripted:
    """Sends fixed bytes on each connection as soon as data arrives, and closes."""

    def __init__(self, answer):
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(self.answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.join()
        self.listener.close()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "ended after 5"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "ended within a head"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "answered with 502"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length"),
    ],
)
def test_what_is_not_a_whole_200_is_an_error(answer, complaint):
    with Scripted(answer) as server, pytest.raises(RigError, match=complaint):
        download(server.port, "/", {})


def test_an_upload_that_is_broken_off_is_an_error():
    with Scripted(b"") as server, sparse_file(50_000_000) as file, pytest.raises(RigError):
        upload(server.port, "/sink", {}, file, 50_000_000)


def test_idle_clients_count_what_was_refused():
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with Scripted(answer) as server, IdleConnections(server.port, 1) as clients:
        assert clients.ask_each("/", {}) == 1


def test_the_rate_is_bytes_a_cpu_second_and_never_divides_by_nothing():
    assert Moved(10**9, 0.5, 2.0, 0, 0, 0.0).rate == 2e9
    assert Moved(10**6, 0.0, 0.1, 0, 0, 0.0).rate == 1e8
