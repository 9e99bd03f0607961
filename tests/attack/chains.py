"""Servers behind the gateway in the smuggling tests: a second parser, and the last server, which records requests.

The second parser is nginx, HAProxy, or the application server of the services; in the last case the application
records.
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
from passerelle.system import ports
from tests.requirements import program
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Request, wait_until

START = 30.0
"""Seconds that a proxy may take to listen."""


def recording(conn: Connection) -> None:
    """Respond with the received request, so that a response to the wrong request is noticed."""
    while True:
        request = conn.read_request()
        body = b"%b %b" % (request.method, request.target)
        answer = ok(body)
        conn.send(answer[: -len(body)] if request.method == b"HEAD" else answer)


class Last(Protocol):
    """Last server: records the requests that reached it."""

    @property
    def heads(self) -> list[Request]:
        """Return the requests whose head arrived."""

    @property
    def requests(self) -> list[Request]:
        """Return the requests that arrived completely."""

    def check(self) -> None:
        """Fail if something malformed arrived."""


class Recorded:
    """Requests in the file of :mod:`tests.attack.recorder`. An application receives only complete requests."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0  # bytes of the file
        self._made: list[Request] = []
        file.touch()

    @property
    def requests(self) -> list[Request]:
        """Return the requests in order of arrival."""
        with open(self._file, "rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole + end)
        for text in whole.splitlines():
            said = json.loads(text)
            fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in said["fields"]]
            line, body = said["line"].encode("latin-1"), said["body"].encode("latin-1")
            self._made.append(Request(line + b" HTTP/1.1", fields, b"", body))
        return list(self._made)

    heads = requests

    def check(self) -> None:
        """Do nothing: an application receives only well-formed requests."""


@contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[int, Recorded]]:
    """Run the application server of the services; ``kind`` is ``wsgi`` or ``asgi``."""
    port = ports.free()
    record = folder / "record"
    last = Recorded(record)
    command = appserver.command(f"tests.attack.recorder:{kind}", "127.0.0.1", port)
    with running(command, port, Path(__file__).parents[2], folder, RECORD=str(record)):
        yield port, last


@contextmanager
def straight(last: Upstream, folder: Path) -> Iterator[int]:
    """Use no second parser: the gateway forwards to the last server directly."""
    yield last.port


@contextmanager
def nginx(last: Upstream, folder: Path) -> Iterator[int]:
    """Run nginx with persistent upstream connections."""
    port = ports.free()
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
    """Run HAProxy, which shares upstream connections among all clients."""
    port = ports.free()
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
    """Start a chain; yield the port for the gateway, and the last server behind it."""
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
    """Run the program during the block, from when it listens; its output goes to ``folder``."""
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
    """Return whether the port accepts connections."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
