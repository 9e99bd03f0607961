"""Configurations of nginx and HAProxy, and what became of them, answer the same requests alike.

Each folder beside this module is one migration: ``nginx.conf`` or ``haproxy.cfg``, the ``gateway.yaml`` that replaces
it, and ``requests.txt``. Both programs run with services of their own. A name between two ``@`` is an address, a port
or a folder that the test chooses.

A line of ``requests.txt`` is a method, a URL and the status that both must have. Further lines that are indented are
header fields; after ``>`` a body, after ``=`` the length of one. The scheme chooses the listener: ``http``, ``https``,
``http6`` (over IPv6) or ``proxied`` (behind the PROXY protocol). After a status with ``*`` the body is not compared:
each program wrote its own.
"""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from passerelle.system import ports
from tests.migrations.service import Service
from tests.requirements import needs, program
from tests.supervisor.up import command
from tests.support.client import Client
from tests.support.secure import Authority, SecureClient
from tests.support.wire import DEADLINE, Response, wait_until

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/gateway.yaml"))
LISTENERS = ("http", "https", "http6", "proxied")
SERVICES = ("a", "b", "c")
FEWEST_REQUESTS = 30

# The fields of a response that a client acts on.
FIELDS = (
    "location",
    "content-location",
    "content-type",
    "content-encoding",
    "content-range",
    "cache-control",
    "vary",
    "www-authenticate",
    "set-cookie",
    "strict-transport-security",
    "retry-after",
)
PREFIXES = ("access-control-", "x-")
OF_ERRORS = ("location", "www-authenticate", "set-cookie")  # where each program wrote its own body

pytestmark = [needs("nginx", "haproxy"), pytest.mark.slow, pytest.mark.long]


@dataclass
class Asked:
    """A line of ``requests.txt``."""

    method: str
    url: str
    status: int
    has_own_body: bool
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | None = None


def read(text: str) -> list[Asked]:
    """Return the requests of ``requests.txt``."""
    found: list[Asked] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            method, url, status = line.split()
            found.append(Asked(method, url, int(status.rstrip("*")), status.endswith("*")))
        elif line.strip().startswith(">"):
            found[-1].body = line.strip()[1:].strip().encode()
        elif line.strip().startswith("="):
            found[-1].body = b"x" * int(line.strip()[1:])
        else:
            name, value = line.strip().split(": ", 1)
            found[-1].fields.append((name, value))
    return found


class Side:
    """One of the two programs, with its services, in a folder of its own."""

    def __init__(self, case: str, folder: Path) -> None:
        self.folder = folder
        self.services = {name: Service(name) for name in SERVICES}
        self.ports = {name: ports.free() for name in LISTENERS}
        shutil.copytree(HERE / case, folder, dirs_exist_ok=True)
        folder.chmod(0o755)  # nginx reads files as another user
        self.authority = Authority(folder)
        self.authority.issue("site", "shop.example", "*.shop.example", "localhost")
        self._names = {
            **{name: service.address for name, service in self.services.items()},
            **{name: str(port) for name, port in self.ports.items()},
            "folder": str(folder),
            "dead": f"127.0.0.1:{ports.free()}",
        }

    def file(self, name: str) -> Path:
        """Fill in the names between two ``@`` in a file, and return its path."""
        path = self.folder / name
        text = self._filled(path.read_text())
        for included in (*self.folder.glob("*.conf"), *self.folder.glob("*/*.yaml")):
            included.write_text(self._filled(included.read_text()))
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"    {kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
        path.write_text(text.replace("\nhttp {\n", f"\nhttp {{\n{temporary}", 1))
        return path

    def _filled(self, text: str) -> str:
        return re.sub(r"@([a-z0-9]+)@", lambda match: self._names[match[1]], text)

    def wait(self, process: subprocess.Popen[bytes], text: Path) -> None:
        """Wait until all listeners that the file names accept connections."""
        named = text.read_text()
        for name, port in self.ports.items():
            if str(port) in named:
                address = ("::1", port) if name == "http6" else ("127.0.0.1", port)
                wait_until(partial(self._accepts, process, address), f"{name} accepts", 4 * DEADLINE)

    def _accepts(self, process: subprocess.Popen[bytes], address: tuple[str, int]) -> bool:
        assert process.poll() is None, "".join(each.read_text() for each in self.folder.glob("output*"))
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as found:
            return found.connect_ex(address) == 0

    def send(self, asked: Asked) -> Response:
        """Send a request on a connection of its own."""
        url = urlsplit(asked.url)
        with self._connect(url.scheme, url.hostname or "") as client:
            lines = [f"{asked.method} {url.path}{'?' if url.query else ''}{url.query} HTTP/1.1", f"Host: {url.netloc}"]
            lines += [f"{name}: {value}" for name, value in asked.fields]
            if asked.body is not None:
                lines.append(f"Content-Length: {len(asked.body)}")
            client.send("\r\n".join([*lines, "", ""]).encode() + (asked.body or b""))
            return client.read_response(asked.method)

    def _connect(self, scheme: str, host: str) -> Client:
        if scheme == "https":
            return SecureClient(self.ports[scheme], self.authority.client_context(), name=host)
        if scheme == "http6":
            return Client(self.ports[scheme], host="::1")
        client = Client(self.ports[scheme])
        if scheme == "proxied":
            client.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n")
        return client

    def close(self) -> None:
        for service in self.services.values():
            service.close()


@contextmanager
def open_folder() -> Iterator[str]:
    """Make a folder that the workers of nginx can read; as another user, they cannot read those of pytest."""
    with tempfile.TemporaryDirectory(prefix="passerelle-migration-") as name:
        Path(name).chmod(0o755)
        yield name


@contextmanager
def peer(side: Side) -> Iterator[None]:
    """Run nginx, with gunicorn behind it if there is a file for it, or HAProxy."""
    commands: list[list[str]] = []
    if (side.folder / "gunicorn.conf.py").exists():
        side.file("gunicorn.conf.py")
        commands.append([sys.executable, "-m", "gunicorn"])
    if (side.folder / "nginx.conf").exists():
        file = side.file("nginx.conf")
        own = f"daemon off; pid {side.folder}/pid; error_log {side.folder}/output;"
        commands.append([program("nginx"), "-p", str(side.folder), "-c", str(file), "-g", own])
    else:
        file = side.file("haproxy.cfg")
        commands.append([program("haproxy"), "-db", "-f", str(file)])
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with (side.folder / "output").open("ab") as output:
            for words in commands:
                processes.append(subprocess.Popen(words, cwd=side.folder, stdout=output, stderr=output))
        side.wait(processes[-1], file)
        if len(commands) > 1:
            wait_until((side.folder / "app.sock").exists, "the application server listens", 4 * DEADLINE)
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(DEADLINE)


@contextmanager
def gateway(side: Side) -> Iterator[None]:
    """Run passerelle with ``gateway.yaml``."""
    file = side.file("gateway.yaml")
    with command(side.folder, "up", "gateway.yaml") as running:
        side.wait(running.popen, file)
        running.says("listening on")
        yield
        assert running.stop() == 0, running.text


def decoded(response: Response) -> bytes:
    """Return the body without its coding: two compressors need not agree on bytes."""
    return gzip.decompress(response.body) if response.get("content-encoding") == b"gzip" else response.body


def shown(asked: Asked, response: Response, side: Side) -> dict[str, object]:
    """Return what both must have in common. Ports differ between the sides."""

    def same(value: str) -> str:
        for name, port in side.ports.items():
            value = value.replace(f":{port}", f":@{name}@")
        for name, service in side.services.items():
            value = value.replace(service.address, f"@{name}@")
        return value.removesuffix(', charset="UTF-8"')  # RFC 7617 §2.1: a hint that nginx cannot give

    def matters(name: str) -> bool:
        if asked.has_own_body:
            return name in OF_ERRORS
        return name in FIELDS or (name.startswith(PREFIXES) and name != "x-request-id")

    named = [(name.decode().lower(), same(value.decode("latin-1"))) for name, value in response.fields]
    fields = sorted((name, value) for name, value in named if matters(name))
    content = decoded(response)
    body = b"" if asked.has_own_body else content
    return {"status": response.status, "fields": fields, "body": same(body.decode("latin-1")).splitlines()}


def logged(file: Path) -> list[tuple[str, ...]]:
    """Return client, request, status and agent of the lines of an access log in the combined format."""
    pattern = re.compile(r'(\S+) - - \[[^]]+\] "([^"]*)" (\d+) \d+ "-" "([^"]*)"')
    return [found.groups() if (found := pattern.fullmatch(line)) else (line,) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("case", CASES)
def test_both_answer_alike(case: str) -> None:
    requests = read((HERE / case / "requests.txt").read_text())
    assert len(requests) >= FEWEST_REQUESTS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(open_folder()))
        old, new = (Side(case, folder / name) for name in ("peer", "gateway"))
        stack.callback(old.close)
        stack.callback(new.close)
        stack.enter_context(peer(old))
        stack.enter_context(gateway(new))
        for number, asked in enumerate(requests, 1):
            ours, theirs = shown(asked, new.send(asked), new), shown(asked, old.send(asked), old)
            line = f"request {number} of {case}: {asked.method} {asked.url} {asked.fields}"
            assert ours == theirs, line
            assert ours["status"] == asked.status, line
        logs = [side.folder / "access.log" for side in (old, new)]
        if logs[0].exists():
            wait_until(lambda: logged(logs[0]) == logged(logs[1]), "both have logged the same")
