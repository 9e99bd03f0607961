"""The script for wrk, and the parsing of its report."""

import socket
import threading

import pytest

from benchmarks.rig import wrk
from benchmarks.rig.server import RigError
from benchmarks.rig.wrk import BROWSER, Load
from tests.requirements import needs

REPORT = """Running 3s test @ http://127.0.0.1:1
  1 threads and 64 connections
WRK-JSON {"requests":1500,"microseconds":3000000,"bytes":300000,"p50":950.0,"p99":2100.5,"errors":%s}
Requests/sec: 500
"""
NO_ERRORS = '{"connect":0,"read":0,"write":0,"timeout":0,"status":0}'


def test_a_report_is_read_exactly():
    answers = wrk.parse(REPORT % NO_ERRORS)
    assert (answers.requests, answers.seconds, answers.bytes, answers.rps) == (1500, 3.0, 300_000, 500.0)
    assert (answers.p50_us, answers.p99_us, answers.errors) == (950.0, 2100.5, 0)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "timeout", "status"])
def test_every_kind_of_error_counts(kind):
    assert wrk.parse(REPORT % NO_ERRORS.replace(f'"{kind}":0', f'"{kind}":7')).errors == 7


def test_without_a_report_the_output_is_shown():
    with pytest.raises(RigError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_browser_sends_ten_headers():
    assert len(BROWSER) == 10


def test_a_script_quotes_what_lua_would_read():
    assert wrk.script(Load("/", headers={"X": 'a"b\\c'})).splitlines()[1] == r'wrk.headers["X"] = "a\"b\\c"'


class Recorder:
    """Server that responds to every request with ``status`` and records the heads."""

    def __init__(self, status=b"200 OK"):
        self.answer = b"HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\nok" % status
        self.heads = []
        self.bodies = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.serve(connection)

    def serve(self, connection):
        pending = b""
        try:
            while data := connection.recv(65536):
                pending += data
                head, end, rest = pending.partition(b"\r\n\r\n")
                length = next((int(f[15:]) for f in head.split(b"\r\n") if f.lower().startswith(b"content-length")), 0)
                if not end or len(rest) < length:
                    continue
                self.heads.append(head)
                self.bodies += length
                pending = b""
                connection.sendall(self.answer)
        except OSError:
            return  # wrk closes at the end of its run

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


def run(load, tmp_path, status=b"200 OK"):
    with Recorder(status) as server:
        return wrk.run(load, server.port, 1, 0, tmp_path), server


@needs("wrk", "taskset")
def test_varying_changes_path_and_trace_with_every_request_and_nothing_else(tmp_path):
    answers, server = run(Load("/api/{}/of/{}", varying=True, connections=1), tmp_path)
    assert answers.requests > 10 and answers.errors == 0
    numbers = []
    rests = set()
    for head in server.heads:
        first, *fields = head.split(b"\r\n")
        method, path, version = first.split(b" ")
        _, _, one, of, two = path.split(b"/")
        trace = next(field for field in fields if field.startswith(b"X-Trace: "))
        assert (method, of, version, one) == (b"GET", b"of", b"HTTP/1.1", two)
        assert trace == b"X-Trace: %032x" % int(one)
        numbers.append(int(one))
        rests.add(tuple(sorted(field for field in fields if field != trace)))
    assert len(set(numbers)) == len(numbers)
    assert len(rests) == 1
    assert len(next(iter(rests))) == 10  # nine of the browser's, and Host


@needs("wrk", "taskset")
def test_a_spread_comes_round(tmp_path):
    _, server = run(Load("/{}", varying=True, spread=3, connections=1), tmp_path)
    assert {head.split(b" ", 2)[1] for head in server.heads} == {b"/1", b"/2", b"/3"}


@needs("wrk", "taskset")
def test_a_hot_part_is_requested_nine_times_of_ten(tmp_path):
    answers, server = run(Load("/{}/{}", varying=True, spread=100, hot=10, wrap=7, connections=1), tmp_path)
    numbers = [tuple(map(int, head.split(b" ", 2)[1][1:].split(b"/"))) for head in server.heads]
    assert all(1 <= n <= 100 and other == n % 7 + 1 for n, other in numbers)
    hot = sum(n <= 10 for n, _ in numbers) / len(numbers)
    assert len(numbers) >= answers.requests > 200
    assert 0.75 < hot < 0.99
    assert {n for n, _ in numbers} >= set(range(1, 11))


@needs("wrk", "taskset")
def test_a_fixed_load_sends_the_same_and_an_upload_its_body(tmp_path):
    answers, server = run(Load("/sink", method="PUT", body=5000, connections=1), tmp_path)
    assert len(set(server.heads)) == 1 and server.heads[0].startswith(b"PUT /sink HTTP/1.1\r\n")
    assert server.bodies == 5000 * len(server.heads) >= 5000 * answers.requests > 0


@needs("wrk", "taskset")
def test_an_error_status_is_an_error(tmp_path):
    answers, _ = run(Load("/", connections=1), tmp_path, b"502 Bad Gateway")
    assert answers.errors == answers.requests > 0
