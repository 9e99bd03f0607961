"""What stands behind the gateway in the smuggling tests: a second parser, and the last server, which records.

The second parser is nginx, HAProxy, or the server of the services themselves: then it is the application that records.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from passerelle.appserver import main as appserver
from tests.requirements import program
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Request, wait_until

START = 30.0
"""Seconds that a proxy may take to listen."""


def recording(conn: Connection) -> None:
    """Answers with what it was asked, so that an answer that reaches the wrong request is seen to be wrong."""
    while True:
        request = conn.read_request()
        body = b"%b %b" % (request.method, request.target)
        answer = ok(body)
        conn.send(answer[: -len(body)] if request.method == b"HEAD" else answer)


class Last(Protocol):
    """The last server: what reached it."""

    @property
    def heads(self) -> list[Request]:
        """Requests whose head arrived."""

    @property
    def requests(self) -> list[Request]:
        """Requests that arrived whole."""

    def check(self) -> None:
        """Fail where something malformed arrived."""


class Recorded:
    """The requests in the file of :mod:`tests.attack.recorder`. An application hears of whole ones only."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.touch()

    @property
    def requests(self) -> list[Request]:
        """In the order in which they arrived."""
        made = []
        for text in self._file.read_text("ascii").splitlines():
            said = json.loads(text)
            fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in said["fields"]]
            line, body = said["line"].encode("latin-1"), said["body"].encode("latin-1")
            made.append(Request(line + b" HTTP/1.1", fields, b"", body))
        return made

    heads = requests

    def check(self) -> None:
        """Nothing: what an application gets is a request."""


@contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[int, Recorded]]:
    """The server that instances of services run, ``kind`` is ``wsgi`` or ``asgi``."""
    port = free_port()
    record = folder / "record"
    last = Recorded(record)
    command = appserver.command(f"tests.attack.recorder:{kind}", "127.0.0.1", port)
    with running(command, port, Path(__file__).parents[2], folder, RECORD=str(record)):
        yield port, last


@contextmanager
def straight(last: Upstream, folder: Path) -> Iterator[int]:
    """No second parser: the gateway asks the last server itself."""
    yield last.port


@contextmanager
def nginx(last: Upstream, folder: Path) -> Iterator[int]:
    """nginx with kept-alive upstream connections."""
    port = free_port()
    file = folder / "nginx.conf"
    temporary = "\n".join(f"{k}_temp_path {folder}/{k};" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file.write_text(
        f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
{"user root;" if os.geteuid() == 0 else ""}
events {{ worker_connections 256; }}
http {{
  access_log off;
  {temporary}
  upstream last {{ server 127.0.0.1:{last.port}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://last; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""
    )
    with running([program("nginx"), "-p", str(folder), "-c", str(file), "-e", "stderr"], port, folder, folder):
        yield port


@contextmanager
def haproxy(last: Upstream, folder: Path) -> Iterator[int]:
    """HAProxy, which reuses upstream connections for everybody."""
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(
        f"""global
  maxconn 256
defaults
  mode http
  timeout connect 30s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend last
backend last
  server last 127.0.0.1:{last.port}
"""
    )
    with running([program("haproxy"), "-db", "-f", str(file)], port, folder, folder):
        yield port


_PROXIES = {"straight": straight, "nginx": nginx, "haproxy": haproxy}


@contextmanager
def chain(kind: str, folder: Path) -> Iterator[tuple[int, Last]]:
    """The port that the gateway asks, and the last server behind it."""
    if kind in ("wsgi", "asgi"):
        with served(kind, folder) as made:
            yield made
        return
    last = Upstream(recording)
    try:
        with _PROXIES[kind](last, folder) as port:
            yield port, last
    finally:
        last.close()


@contextmanager
def running(command: list[str], port: int, cwd: Path, folder: Path, **env: str) -> Iterator[None]:
    """The program until it listens, and then for as long as the block runs; its output is kept in ``folder``."""
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env={**os.environ, **env})
    try:
        wait_until(lambda: process.poll() is not None or listens(port), f"{command[0]} listens", START)
        assert process.poll() is None, (folder / "output").read_text()
        yield
        assert process.poll() is None, (folder / "output").read_text()
    finally:
        process.terminate()
        try:
            process.wait(START)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether something accepts connections."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
