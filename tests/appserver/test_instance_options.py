"""Options of an instance, in processes of their own: hung calls, a number of requests, a start hook, a Unix socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.appserver import main as appserver
from passerelle.appserver.options import ServerOptions
from passerelle.appserver.request_limit import with_jitter
from passerelle.system import ports
from tests.support.client import Client, head
from tests.support.wire import Closed, Wire, wait_until

LIMIT = 20.0  # seconds

APPS = """
import threading, time

ready = []

def prepare():
    ready.append("prepared")

async def prepare_later():
    pass

def fail():
    raise RuntimeError("no database")

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        print("hangs")
        threading.Event().wait()
    start_response("200 OK", [])
    return [" ".join(ready).encode()]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/hang":
        print("hangs")
        time.sleep(1000)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


class Instance:
    """A process with the applications above."""

    def __init__(self, folder: Path, app: str, options: ServerOptions, where: str = "") -> None:
        (folder / "apps.py").write_text(APPS)
        self.port = 0 if where else ports.free()
        self.where = where
        command = appserver.command(f"apps:{app}", where or "127.0.0.1", self.port, options)
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def started(self) -> Instance:
        wait_until(self._accepts, "a start", LIMIT)
        return self

    def _accepts(self) -> bool:
        assert self.process.poll() is None, self.output.read()
        with contextlib.suppress(OSError), self.connect():
            return True
        return False

    def connect(self) -> socket.socket:
        if not self.where:
            return socket.create_connection(("127.0.0.1", self.port))
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self.where)
        except OSError:
            sock.close()
            raise
        return sock

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(LIMIT)
        return code, self.output.read()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Instance]]:
    made: list[Instance] = []

    class Started(Instance):
        def __init__(self, app: str, options: ServerOptions, where: str = "") -> None:
            super().__init__(tmp_path, app, options, where)
            made.append(self)

    yield Started
    for each in made:
        each.process.kill()
        each.process.communicate()


def test_requests_of_a_hung_wsgi_instance_are_504_and_those_that_wait_may_be_retried(start) -> None:
    instance = start("wsgi", ServerOptions(threads=2, worker_timeout=1.0)).started()
    with contextlib.ExitStack() as stack:
        one, two, get, post = (stack.enter_context(Client(instance.port)) for _ in range(4))
        for client, method in ((one, "GET"), (two, "POST")):
            client.send(head(method, "/hang", length=0))
            assert instance.output.readline() == "hangs\n"
        get.send(head("GET", "/waits"))
        post.send(head("POST", "/waits", length=0))
        assert [each.read_response(within=LIMIT).status for each in (one, two, post)] == [504] * 3
        with pytest.raises(Closed):
            get.read_response(within=LIMIT)
    code, output = instance.ended()
    assert code == appserver.HUNG
    assert "each thread has been in one call for over 1 s (worker_timeout): this instance ends" in output
    assert "in wsgi\n" in output, "the stacks of its threads"


def test_an_instance_whose_event_loop_is_blocked_ends_with_its_stack(start) -> None:
    instance = start("asgi", ServerOptions(worker_timeout=1.0)).started()
    with Client(instance.port) as client:
        assert client.request().body == b"ok"
        client.send(head("GET", "/hang"))
        assert instance.output.readline() == "hangs\n"
        with pytest.raises(Closed):
            client.read_response(within=LIMIT)
    code, output = instance.ended()
    assert code == 1
    assert output.startswith("Timeout (0:00:01)!\n")
    assert "in asgi\n" in output


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_without_a_supervisor_an_instance_ends_after_max_requests_and_finishes_them(start, app: str) -> None:
    instance = start(app, ServerOptions(max_requests=3, max_requests_jitter=0)).started()
    with Client(instance.port) as client:
        for _ in range(3):
            assert client.request().status == 200
    assert instance.ended()[0] == 0


def test_a_function_is_called_before_the_instance_accepts_requests(start) -> None:
    instance = start("wsgi", ServerOptions(on_start="apps:prepare")).started()
    with Client(instance.port) as client:
        assert client.request().body == b"prepared"
    instance.process.send_signal(signal.SIGTERM)
    assert instance.ended()[0] == 0


@pytest.mark.parametrize(
    ("function", "code", "reason"),
    [
        ("apps:fail", 1, "appserver: on_start 'apps:fail' failed: RuntimeError: no database"),
        ("apps:nothing", 2, "appserver: on_start: module 'apps' has no function 'nothing'"),
        (
            "apps:prepare_later",
            2,
            "appserver: on_start: 'apps:prepare_later' is a coroutine function; use the lifespan of the application",
        ),
        ("nowhere:f", 2, "appserver: on_start: there is no module 'nowhere'"),
    ],
)
def test_a_start_function_that_fails_ends_the_instance(start, function: str, code: int, reason: str) -> None:
    found, output = start("wsgi", ServerOptions(on_start=function)).ended()
    assert (found, output.splitlines()[-1]) == (code, reason)


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_an_instance_listens_on_a_unix_socket(start, tmp_path: Path, app: str) -> None:
    path = os.fspath(tmp_path / "s")
    instance = start(app, ServerOptions(), path).started()
    with instance.connect() as sock:
        client = Wire(sock)
        client.send(head("GET", "/"))
        assert client.read_response().status == 200
    instance.process.send_signal(signal.SIGTERM)
    assert instance.ended()[0] == 0


def test_the_jitter_is_a_tenth_unless_it_is_given() -> None:
    assert with_jitter(1000, None, lambda least, most: most) == 1100
    assert with_jitter(1000, 7, lambda least, most: most) == 1007
    assert with_jitter(1000, None, lambda least, most: least) == 1000
