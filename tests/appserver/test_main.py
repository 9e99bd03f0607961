"""The process of an instance: loading, exit codes, stopping."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from passerelle.appserver import main as appserver
from passerelle.appserver.asgi import BehindGateway
from passerelle.appserver.options import ServerOptions
from passerelle.appserver.server import IDLE_TIMEOUT
from passerelle.system import linux, ports

LIMIT = 20.0  # seconds

APPS = """
import asyncio, functools, os, sys, time
from types import SimpleNamespace

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("entered")
        while not os.path.exists("go-on"):
            time.sleep(0.01)
    body = f"wsgi {environ['wsgi.url_scheme']}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            print(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        print("entered")
        while not os.path.exists("go-on"):
            await asyncio.sleep(0.01)
    body = f"asgi {scope['scheme']}".encode()
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})

async def no_lifespan(scope, receive, send):
    assert scope["type"] == "http"
    await asgi(scope, receive, send)

async def broken_lifespan(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def waiting_lifespan(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("begun")
        while not os.path.exists("go-on"):
            await asyncio.sleep(0.01)
        if os.path.exists("broken"):
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asgi(scope, receive, send)

def paths_wsgi(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode("latin-1")]

async def paths_asgi(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode() + b" of " + scope["raw_path"]})

class PathsAsgi2:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await paths_asgi(self.scope, receive, send)

def create_wsgi(config=None, other=None):
    return wsgi

def create_asgi():
    return asgi

async def create_later():
    return asgi

def with_name(name, *, length):
    def named(environ, start_response):
        start_response("200 OK", [])
        return [name.encode() * length]
    return named

class Application:
    def __call__(self):
        return self

nothing = Application()
partial_asgi = functools.partial(asgi)

async def with_state(state, scope, receive, send):
    await asgi(scope, receive, send)

partial_state = functools.partial(with_state, {})

class Container:
    inner = SimpleNamespace(app=wsgi)

number = 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a project with some applications."""
    (tmp_path / "apps.py").write_text(APPS)
    (tmp_path / "raising.py").write_text("raise ValueError('at import')\n")
    (tmp_path / "needing.py").write_text("import surely_not_installed\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from apps import wsgi as app\n")
    return tmp_path


def spawn(folder: Path, app: str, port: int, interface: str = "auto", host: str = "127.0.0.1") -> subprocess.Popen[str]:
    return subprocess.Popen(
        appserver.command(app, host, port, ServerOptions(interface)),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    end = time.monotonic() + LIMIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.02)


@contextmanager
def instance(folder: Path, app: str, interface: str = "auto") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run an instance until the end of the test, and return it with its port once it responds."""
    port = ports.free()
    process = spawn(folder, app, port, interface)
    try:
        wait_for_port(process, port)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str = "/") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def failed(folder: Path, app: str, interface: str = "auto", port: int | None = None) -> tuple[int, list[str]]:
    """Return exit code and lines of standard error of an instance that does not come up."""
    process = spawn(folder, app, port or ports.free(), interface)
    out, errors = process.communicate(timeout=LIMIT)
    assert out == ""
    return process.returncode, errors.splitlines()


class TestLoading:
    @pytest.mark.parametrize(
        ("app", "why"),
        [
            ("apps", "'apps' is not of the form module:attribute"),
            ("apps:", "'apps:' is not of the form module:attribute"),
            (":wsgi", "':wsgi' is not of the form module:attribute"),
            ("absent:app", "there is no module 'absent' in "),
            ("package.absent:app", "there is no module 'package.absent' in "),
            ("apps:absent", "module 'apps' has no attribute 'absent'"),
            ("apps:Container.absent", "module 'apps' has no attribute 'Container.absent'"),
            ("apps:number", "'apps:number' is not an application: a int cannot be called"),
            ("apps:create_wsgi", "'apps:create_wsgi' is not an application but makes one: write apps:create_wsgi()"),
            ("apps:create_asgi", "'apps:create_asgi' is not an application but makes one: write apps:create_asgi()"),
            ("apps:create_later", "'apps:create_later' is not an application but makes one: write apps:create_later()"),
            ("apps:Application", "'apps:Application' is not an application but makes one: write apps:Application()"),
            ("apps:nothing", "'apps:nothing' is not a WSGI or ASGI application: a Application takes no request"),
            ("apps:with_name(x)", "'apps:with_name(x)' is not of the form module:factory(), with literals"),
            ("apps:create_wsgi(", "'apps:create_wsgi(' is not of the form module:factory(), with literals"),
        ],
    )
    def test_what_is_missing_is_one_line_and_exit_2(self, folder: Path, app: str, why: str) -> None:
        code, lines = failed(folder, app)
        assert code == 2
        assert len(lines) == 1 and lines[0].startswith(f"appserver: {why}")

    @pytest.mark.parametrize(
        ("file", "app"), [("json.py", "json:app"), ("json/__init__.py", "json:app"), ("json.py", "json.shop:app")]
    )
    def test_a_module_that_an_installed_one_hides_is_named(self, tmp_path: Path, file: str, app: str) -> None:
        own = tmp_path / file
        own.parent.mkdir(exist_ok=True)
        own.write_text("def app(environ, start_response): ...\n")
        code, lines = failed(tmp_path, app)
        assert code == 2 and len(lines) == 1
        assert f"'json' was loaded from {json.__file__}, and hides {own}" in lines[0]

    def test_an_installed_application_that_hides_a_file_is_served_with_a_line(self, tmp_path: Path) -> None:
        """wsgiref.simple_server:demo_app is an application of the standard library."""
        (tmp_path / "wsgiref.py").write_text("")
        port = ports.free()
        process = spawn(tmp_path, "wsgiref.simple_server:demo_app", port)
        try:
            wait_for_port(process, port)
            assert get(port).startswith(b"Hello world!")
        finally:
            process.kill()
        _, errors = process.communicate()
        (line,) = errors.splitlines()
        assert line.startswith("appserver: serving 'wsgiref.simple_server:demo_app'; 'wsgiref' was loaded from ")
        assert str(tmp_path / "wsgiref.py") in line

    @pytest.mark.parametrize(("app", "error"), [("raising:app", "ValueError"), ("needing:app", "ModuleNotFoundError")])
    def test_a_module_s_own_error_keeps_its_traceback(self, folder: Path, app: str, error: str) -> None:
        code, lines = failed(folder, app)
        assert code == 1
        assert lines[0].startswith("Traceback")
        assert lines[-1].startswith(f"appserver: {app!r} cannot be imported: {error}: ")
        # The frames of the server and of the import machinery are left out.
        assert f'File "{folder}' in lines[1] and "importlib" not in "".join(lines)

    def test_a_syntax_error_is_the_place_alone(self, folder: Path) -> None:
        (folder / "broken.py").write_text("def app(:\n")
        code, lines = failed(folder, "broken:app")
        assert code == 1
        assert lines[0] == f'  File "{folder}/broken.py", line 1'
        assert (
            lines[-1] == "appserver: 'broken:app' cannot be imported: SyntaxError: invalid syntax (broken.py, line 1)"
        )

    def test_a_taken_port_is_one_line(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            code, lines = failed(folder, "apps:wsgi", port=port)
        assert code == 1
        assert len(lines) == 1 and lines[0].startswith(f"appserver: cannot listen on 127.0.0.1:{port}: ")

    def test_a_lifespan_that_fails_is_no_start(self, folder: Path) -> None:
        code, lines = failed(folder, "apps:broken_lifespan")
        assert code != 0
        assert any("no database" in line for line in lines)

    def test_connections_are_refused_until_the_lifespan_has_started(self, folder: Path) -> None:
        port = ports.free()
        process = spawn(folder, "apps:waiting_lifespan", port)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 1)
            (folder / "go-on").touch()
            wait_for_port(process, port)
            assert get(port) == b"asgi http"
        finally:
            process.kill()
            process.communicate()

    @pytest.mark.parametrize(
        ("app", "body"),
        [
            ("apps:wsgi", b"wsgi http"),
            ("package:app", b"wsgi http"),
            ("apps:Container.inner.app", b"wsgi http"),
            ("apps:asgi", b"asgi http"),
            ("apps:no_lifespan", b"asgi http"),
            ("apps:create_wsgi()", b"wsgi http"),
            ("apps:create_asgi()", b"asgi http"),
            ("apps:with_name('ab', length=2)", b"abab"),
            ("apps:partial_asgi", b"asgi http"),
            ("apps:partial_state", b"asgi http"),
        ],
    )
    def test_what_is_there_is_served(self, folder: Path, app: str, body: bytes) -> None:
        with instance(folder, app) as (_, port):
            assert get(port) == body

    @pytest.mark.parametrize("app", ["apps:paths_wsgi", "apps:paths_asgi", "apps:PathsAsgi2"])
    def test_an_application_gets_the_segments_of_the_target(self, folder: Path, app: str) -> None:
        with instance(folder, app) as (_, port):
            for target, path in [
                ("/a%2fb/c", "/a%2Fb/c"),
                ("/%2F%2f/%20%2f", "/%2F%2F/ %2F"),
                ("/caf%C3%A9%2F", "/café%2F"),
                ("/a%20b", "/a b"),
                ("/a?b=%2F\\c", "/a"),
            ]:
                body = get(port, target).decode()
                assert body == (path if app == "apps:paths_wsgi" else f"{path} of {target.partition('?')[0]}")


def test_a_websocket_has_the_segments_of_its_target_too() -> None:
    seen: list[Any] = []

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["path"])

    for raw, path in ((b"/a%2fb%20c", "/a%2Fb c"), (b"/a%20b", "/a b"), (None, "/a b")):
        scope = {"type": "websocket", "path": "/a b", "raw_path": raw}
        asyncio.run(BehindGateway(application)(scope, None, None))
        assert seen.pop() == path


class TestDetection:
    def test_wsgi(self) -> None:
        from flask import Flask

        def function(environ: Any, start_response: Any) -> list[bytes]:
            return []

        class Old:
            def __init__(self, environ: Any, start_response: Any) -> None:
                pass

        class New:
            def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
                return []

            def method(self, environ: Any, start_response: Any) -> list[bytes]:
                return []

        class Middleware:
            def __call__(self, *arguments: Any) -> list[bytes]:
                return []

        partial: Any = functools.partial(lambda x, environ, start_response: [], 1)
        for application in (function, Old, New(), New().method, Middleware(), partial, Flask("x"), Flask("x").wsgi_app):
            assert appserver.detect(application) == "wsgi", application

    def test_asgi(self) -> None:
        async def function(scope: Any, receive: Any, send: Any) -> None:
            pass

        def returns_awaitable(scope: Any, receive: Any, send: Any) -> Any:
            return function(scope, receive, send)

        class Framework:
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                pass

            async def method(self, scope: Any, receive: Any, send: Any) -> None:
                pass

        class Version2:
            def __init__(self, scope: Any) -> None:
                pass

        @functools.wraps(function)
        async def wrapped(*arguments: Any) -> None:
            pass

        async def of_four(state: Any, scope: Any, receive: Any, send: Any) -> None:
            pass

        partials: list[Any] = [functools.partial(function), functools.partial(of_four, 1)]
        partials += [functools.partial(Framework()), functools.partial(partials[1])]
        for application in (function, returns_awaitable, Framework(), Framework().method, Version2, wrapped, *partials):
            assert appserver.detect(application) == "asgi", application

    def test_the_interface_can_be_configured(self, folder: Path) -> None:
        (folder / "odd.py").write_text(
            textwrap.dedent("""
                from apps import wsgi

                def app(*arguments, more=None):
                    return wsgi(*arguments)
            """)
        )
        with instance(folder, "odd:app", "wsgi") as (_, port):
            assert get(port) == b"wsgi http"


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("app", ["apps:wsgi", "apps:asgi"])
    def test_a_running_request_ends_first_and_the_code_is_0(
        self, folder: Path, app: str, number: signal.Signals
    ) -> None:
        with instance(folder, app) as (process, port):
            assert get(port)
            client = socket.create_connection(("127.0.0.1", port), LIMIT)
            with client:
                client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
                assert process.stdout is not None
                while process.stdout.readline() != "entered\n":
                    pass
                process.send_signal(number)
                end = time.monotonic() + LIMIT
                while True:  # until the instance has stopped listening
                    try:
                        socket.create_connection(("127.0.0.1", port), 1).close()
                    except OSError:
                        break
                    assert time.monotonic() < end
                    time.sleep(0.01)
                (folder / "go-on").touch()
                answer = b""
                while piece := client.recv(65_536):
                    answer += piece
                assert answer.endswith(app[5:].encode() + b" http")
            assert process.wait(LIMIT) == 0
            rest, errors = process.communicate()
            assert "Traceback" not in errors
            assert app != "apps:asgi" or "lifespan.shutdown" in rest

    @pytest.mark.parametrize("app", ["apps:wsgi", "apps:asgi"])
    def test_idle_connections_do_not_hold_it(self, folder: Path, app: str) -> None:
        with instance(folder, app) as (process, port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
            connection.request("GET", "/")
            connection.getresponse().read()
            started = time.monotonic()
            process.terminate()
            assert process.wait(LIMIT) == 0
            assert time.monotonic() - started < 5
            connection.close()

    def test_it_ends_with_its_parent(self, folder: Path) -> None:
        port = ports.free()
        program = f"""
            import subprocess, sys, time
            child = subprocess.Popen({appserver.command("apps:wsgi", "127.0.0.1", port)!r})
            print(child.pid, flush=True)
            time.sleep({LIMIT})
        """
        parent = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            end = time.monotonic() + LIMIT
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.02)
        finally:
            parent.kill()
            parent.communicate()
        while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
            assert time.monotonic() < end, "it outlived its parent"
            time.sleep(0.02)


@pytest.mark.parametrize("app", ["apps:wsgi", "apps:asgi"])
def test_a_method_that_the_parser_does_not_know_is_501(folder: Path, app: str) -> None:
    def status(line: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
            client.sendall(line + b"\r\nHost: a\r\n\r\n")
            answer = b""
            while piece := client.recv(65_536):
                answer += piece
            return answer.partition(b"\r\n")[0]

    with instance(folder, app) as (_, port):
        for method in (b"LIST", b"BAN", b"get"):
            assert status(method + b" /ban HTTP/1.1") == b"HTTP/1.1 501 Not Implemented"
        for junk in (b"\x16\x03\x01", b"LI(ST /", b"LIST", b"LIST  / HTTP/1.1"):
            assert status(junk) == b"HTTP/1.1 400 Bad Request"


def test_a_body_that_cannot_be_stored_is_507_and_one_line(folder: Path) -> None:
    (folder / "reading.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'%d' % len(environ['wsgi.input'].read())]\n"
    )
    port = ports.free()
    limited = ["bash", "-c", 'ulimit -f 400; exec "$@"', "-", *appserver.command("reading:app", "127.0.0.1", port)]
    process = subprocess.Popen(limited, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_port(process, port)
        answers = []
        for size in (1_000_000, 410_000, 300_000, 1000):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
            connection.request("POST", "/", body=b"x" * size)
            response = connection.getresponse()
            answers.append((response.status, response.read()))
            connection.close()
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=LIMIT)
    refused = b'{"type":"about:blank","title":"Insufficient Storage","status":507}'
    assert answers == [(507, refused), (507, refused), (200, b"300000"), (200, b"1000")]
    line = "ERROR passerelle.appserver: the body of a request cannot be stored: File too large"
    assert errors.splitlines() == [line] * 2


class TestProcess:
    @pytest.mark.parametrize("app", ["apps:wsgi", "apps:asgi"])
    def test_it_has_no_children(self, folder: Path, app: str) -> None:
        with instance(folder, app) as (process, port):
            get(port)
            assert linux.descendants(process.pid) == set()

    @pytest.mark.parametrize("app", ["apps:wsgi", "apps:asgi"])
    def test_connections_are_kept(self, folder: Path, app: str) -> None:
        with instance(folder, app) as (_, port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
            connection.connect()
            sock = connection.sock
            for _ in range(3):
                connection.request("GET", "/", headers={"X-Forwarded-Proto": "https"})
                assert connection.getresponse().read() == app[5:].encode() + b" https"
                assert connection.sock is sock
            connection.close()

    def test_the_gateway_closes_an_idle_connection_first(self) -> None:
        from passerelle.config.models.config import Service

        keepalive = Service.model_fields["keepalive"].default
        assert keepalive * 10 <= IDLE_TIMEOUT, "or a request could meet a connection that is being closed"

    def test_the_command_is_this_python(self) -> None:
        assert appserver.command("users:app", "127.0.0.1", 5001, ServerOptions("wsgi")) == [
            sys.executable,
            "-P",
            "-m",
            "passerelle.appserver.main",
            "users:app",
            "--host",
            "127.0.0.1",
            "--port",
            "5001",
            "--interface",
            "wsgi",
        ]

    def test_it_listens_on_ipv6_too(self) -> None:
        if not os.path.exists("/proc/net/if_inet6"):
            pytest.skip("this machine has no IPv6")
        with appserver.bind("::1", 0) as sock:
            assert sock.getsockname()[0] == "::1"
