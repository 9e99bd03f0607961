#!/usr/bin/env python3
"""Try to reach guarded handlers by the spelling of a path.

    .venv/bin/python scripts/attacks/paths.py [--requests N] [--seed N] [--servers wsgi,asgi,...]

Starts `passerelle up` over one application, served by passerelle's own servers (wsgi, asgi, flask) and by uvicorn,
gunicorn and waitress where they are installed. Each has guarded, open, rewritten and composed routes. Then sends
thousands of spellings of guarded paths without a credential: encodings and double encodings in both cases, overlong
UTF-8, dot segments, separators of other systems, parameters of segments, NUL, and absolute targets.

A fault is a response of a handler that the chosen route does not lead to (each route names itself in a header), or of a
guarded handler. Prints one line for each server. Exit: 0 no fault, 1 faults, 2 a server could not be started.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
START_SECONDS = 60.0
TIMEOUT = 30.0
MOST_SHOWN = 20

# The command of each server; passerelle runs the applications without one itself.
SERVERS: dict[str, tuple[str, list[str] | None]] = {
    "wsgi": ("applications:wsgi", None),
    "asgi": ("applications:asgi", None),
    "flask": ("applications:flask()", None),
    "uvicorn": ("applications:asgi", ["uvicorn", "--log-level", "error", "--port", "{port}"]),
    "gunicorn": ("applications:wsgi", ["gunicorn", "--log-level", "error", "--bind", "127.0.0.1:{port}"]),
    "waitress": ("applications:wsgi", ["waitress", "--listen", "127.0.0.1:{port}"]),
}

# The handlers that each route leads to. Only "key" routes are guarded, and no request has a key.
REACHES = {
    "open": {"open"},
    "kept": {"open"},
    "rewritten": {"internal"},
    "composed": {"internal"},
}

SEPARATORS = [
    *("/", "//", "///", "/./", "/x/../", "/%2e/", "/%2E/", "/x/%2e%2e/", "/x/.%2E/", "/x/%2e./", "/x//../", "/x/..//"),
    *("%2f", "%2F", "/%2f", "%2F/", "%2f%2F", "%252f", "%252F", "%25252f", "%%32%66", "%2%66", "%u002f", "%u2215"),
    *("\\", "%5c", "%5C", "%255c", "/\\", "\\/", "..\\", "x\\..\\", "/x%5c..%5c", "%5C%5C"),
    *("%c0%af", "%C0%AF", "%e0%80%af", "%f0%80%80%af", "%c1%9c", "%ef%bc%8f", "%e2%88%95", "\uff0f"),
    *("/;/", ";/", "/;x=1/", "/..;/", "/x/..;/", "/x/..;a=b/", "/%3b/", "/x/..%3B/", "/.;/", "/..%2f", "%2f..%2f"),
    *("/x%2f../", "/x%2F%2e%2e/", "/x/..%2F", "%2f.%2f", "/%252e%252e/", "/x/%252e%252e/", "/..%00/", "/.%00./"),
    *(
        "%00",
        "/%00/",
        "%00/",
        "/%00",
        "%09",
        "%0a",
        "%0d%0a",
        "/%20/",
        "%20/",
        "/%20",
        " ",
        "\t",
        "\x00",
        "\xa0",
        "%a0",
    ),
    *("?/", "#/", "%3f/", "%23/", "/?", "/#", ":/", "/:", "/~/", "/*/", "|", "%7c", "/.../", "/..../", "/%2e%2e%2e/"),
]
TAILS = [
    *("", "/", "//", "/.", "/./", "/x/..", "/x/../", "%2f", "%2F", "/%2e", "%2f%2e", ";", ";x", ";a=b", "/;x", "%3b"),
    *(
        "?",
        "?x=1",
        "?/../admin",
        "?x=\\admin",
        "#",
        "#x",
        "%00",
        "%00.js",
        ".json",
        ".",
        "..",
        "%2e",
        "%20",
        "%09",
        "%0a",
    ),
    *(
        "\\",
        "%5c",
        "%c0%ae",
        "%c0%af",
        "*",
        "~",
        "%7e",
        ",",
        "'",
        '"',
        "`",
        "^",
        "|",
        "{}",
        "[]",
        "%ff",
        "%",
        "%2",
        "%zz",
    ),
]
PREFIXES = [
    *("", "/open", "/open/x", "/kept", "/kept/x", "/user", "/user/1", "/both", "/both/1", "/login", "/nowhere"),
    *("http://{host}", "HTTP://{host}", "http://{host}/open", "http://{host}:80", "http://{host}/kept", "//{host}"),
    *(
        "http://{host}/user/1",
        "/http://{host}",
        "{host}",
        "*",
        ".",
        "..",
        "\\",
        "%2f",
        "%5c",
        ";",
        "/;",
        "?",
        "/?",
        "%00",
    ),
]
TARGETS = [
    ("admin",),
    ("admin", "secret"),
    ("verify",),
    ("internal", "1"),
    ("internal", "1", "delete"),
    ("1", "delete"),
]


def respelled(word: str) -> list[str]:
    """Return ``word`` in spellings that some reader takes for the same."""
    first, code = word[0], ord(word[0])
    return [
        word,
        *(word[:i] + f"%{ord(c):02x}" + word[i + 1 :] for i, c in enumerate(word)),
        "".join(f"%{ord(c):02X}" for c in word),
        "".join(f"%25{ord(c):02x}" for c in word),
        word.upper(),
        word.capitalize(),
        f"%25{code:02x}{word[1:]}",
        f"%c1%{0x80 | (code & 0x3F):02x}{word[1:]}" if code >= 0x40 else f"%c0%{0x80 | (code & 0x3F):02x}{word[1:]}",
        f"%u00{code:02x}{word[1:]}",
        chr(0xFF00 + code - 0x20) + word[1:],
        first + "%00" + word[1:],
        f".{word}",
        f"{word}.",
        f"%20{word}",
        f"{word}%20",
        f"./{word}",
        f"%2e%2f{word}",
        f"{word};x",
        f";x{word}",
    ]


def spellings(number: int, seed: int) -> Iterator[str]:
    """Yield ``number`` spellings: first each part by itself, then combinations that ``seed`` selects."""
    plain = ["/" + "/".join(target) for target in TARGETS]
    single = [prefix + path for prefix, path in product(PREFIXES, plain)]
    for target in TARGETS:
        for separator in SEPARATORS:
            single += [
                prefix + separator + separator.join(target) for prefix in ("", "/open", "/kept", "/user", "/both")
            ]
            single.append("/" + separator.join(target))
        single += ["/" + "/".join([word, *target[1:]]) for word in respelled(target[0])]
        single += ["/" + "/".join(target) + tail for tail in TAILS]
    yield from list(dict.fromkeys(single))[:number]
    rng = random.Random(seed)
    for _ in range(number - len(dict.fromkeys(single))):
        words = [rng.choice(respelled(word)) if rng.random() < 0.4 else word for word in rng.choice(TARGETS)]
        joined = rng.choice(SEPARATORS)
        text = words[0]
        for word in words[1:]:
            text += (joined if rng.random() < 0.5 else rng.choice(SEPARATORS)) + word
        yield rng.choice(PREFIXES) + rng.choice(SEPARATORS) + text + rng.choice(TAILS)


def configuration(servers: list[str], port: int, folder: Path) -> dict[str, Any]:
    """Return a configuration with the routes for each server at the host of its name."""
    services: dict[str, Any] = {}
    routes: list[dict[str, Any]] = []
    for name in servers:
        application, command = SERVERS[name]
        service: dict[str, Any] = {"cwd": str(FOLDER)}
        if command is None:
            service["app"] = application
        else:
            service["run"] = [sys.executable, "-m", *command, application]
        services[name] = service
        routes += routes_of(name, name)
        if command is None:
            # passerelle's own servers leave encoded slashes encoded, so even an open route may keep them.
            routes += routes_of(name, f"keeping.{name}", encoded_slashes="keep")
    return {
        "listen": f"127.0.0.1:{port}",
        "admin": "off",
        "access_log": "off",
        "keys": {"store": str(folder / "keys.db")},
        "sessions": {"store": str(folder / "sessions.db"), "insecure": True},
        "services": services,
        "routes": routes,
    }


def routes_of(service: str, host: str, **options: str) -> list[dict[str, Any]]:
    """Return the routes to ``service`` at ``host``; the ``options`` are those of the open route."""
    routes: dict[str, dict[str, Any]] = {
        "open": {"path": "/{rest*}", "service": service, **options},
        "key": {"path": "/admin/{rest*}", "service": service, "auth": ["key"]},
        "key-internal": {"path": "/internal/{rest*}", "service": service, "auth": ["key"]},
        "key-verify": {"path": "/verify/{rest*}", "service": service, "auth": ["key"]},
        "session": {"path": "/session", "service": service, "auth": ["session"]},
        "kept": {"path": "/kept/{rest*}", "service": service, "encoded_slashes": "keep"},
        "rewritten": {"path": "/user/{id}", "service": service, "rewrite": "/internal/{id}"},
        "composed": {"path": "/both/{id}", "compose": {"one": {"service": service, "path": "/internal/{id}"}}},
        "login": {"path": "/login", "login": {"service": service, "path": "/verify"}},
    }
    return [{"host": host, "response_headers": {"set": {"X-Route": name}}, **route} for name, route in routes.items()]


class Client:
    """A persistent connection that sends any bytes as a target."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._read = b""

    def get(self, target: bytes, host: str) -> tuple[int, str, bytes]:
        """Return the status, the route that was chosen, and the body."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._read = b""
        self._socket.sendall(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host.encode()))
        while b"\r\n\r\n" not in self._read:
            self._receive()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        length = int(fields[b"content-length"])
        while len(self._read) < length:
            self._receive()
        body, self._read = self._read[:length], self._read[length:]
        if fields.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split(b" ")[1]), fields.get(b"x-route", b"").decode(), body

    def _receive(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the gateway closed the connection without a response")
        self._read += data

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass
class Result:
    """What the requests to one host led to."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, target: bytes, status: int, route: str, body: bytes) -> None:
        """Judge one response."""
        self.statuses[status] += 1
        if status >= 500 and status != 501:
            self.faults.append(f"{target!r}: status {status} on route {route or '(none)'}")
        if status != 200:
            return
        handlers = handlers_in(body)
        if not handlers or not handlers <= REACHES.get(route, set()):
            self.faults.append(f"{target!r}: route {route or '(none)'} reached {body.decode()}")


def handlers_in(body: bytes) -> set[str]:
    """Return the handlers that a body names, whether of one response or of a composition."""
    content = json.loads(body)
    return {part["handler"] for part in ([content] if "handler" in content else content.values())}


def attack(client: Client, host: str, number: int, seed: int) -> Result:
    """Send ``number`` spellings to ``host``."""
    result = Result()
    for spelling in spellings(number, seed):
        target = spelling.replace("{host}", host).encode("utf-8")
        try:
            result.add(target, *client.get(target, host))
        except (OSError, ValueError, KeyError) as error:
            result.faults.append(f"{target!r}: {error!r}")
            client.close()
    return result


@contextlib.contextmanager
def gateway(servers: list[str]) -> Iterator[int]:
    """Run the gateway and all servers; yield the port when each of them responds."""
    with tempfile.TemporaryDirectory(prefix="passerelle-") as name:
        folder = Path(name)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        file = folder / "gateway.yaml"
        file.write_text(json.dumps(configuration(servers, port, folder)))
        with (folder / "log").open("w+b") as log:
            command = [sys.executable, "-m", "passerelle", "up", str(file)]
            environ = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environ)
            try:
                wait_until_up(process, port, servers, folder / "log")
                yield port
            finally:
                process.terminate()
                process.wait(TIMEOUT)


def wait_until_up(process: subprocess.Popen[bytes], port: int, servers: list[str], log: Path) -> None:
    """Wait until every server responds; exit with 2 if one does not."""
    deadline = time.monotonic() + START_SECONDS
    for host in servers:
        while True:
            client = Client(port)
            with contextlib.suppress(OSError, KeyError):
                if client.get(b"/", host)[0] == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                print(f"{host} does not respond:\n{log.read_text()[-2000:]}", file=sys.stderr)
                raise SystemExit(2)
            time.sleep(0.1)
        client.close()


def main() -> int:
    """Attack the servers that the arguments name."""
    parser = argparse.ArgumentParser(description="Try to reach guarded handlers by the spelling of a path.")
    parser.add_argument("--requests", type=int, default=5000, help="number of requests to each host")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--servers", default=",".join(SERVERS), help="comma-separated")
    options = parser.parse_args()
    servers = []
    for name in options.servers.split(","):
        module = {"flask": "flask"}.get(name) or (SERVERS[name][1] or [""])[0]
        if module and importlib.util.find_spec(module) is None:
            print(f"{name:18}not installed")
        else:
            servers.append(name)
    faults: list[str] = []
    total, begun = 0, time.monotonic()
    with gateway(servers) as port:
        for host in [*servers, *(f"keeping.{name}" for name in servers if SERVERS[name][1] is None)]:
            client = Client(port)
            started = time.monotonic()
            result = attack(client, host, options.requests, options.seed)
            client.close()
            count = sum(result.statuses.values())
            total += count
            statuses = ", ".join(f"{status}: {times}" for status, times in sorted(result.statuses.items()))
            seconds = time.monotonic() - started
            print(f"{host:18}{count} requests, {seconds:.1f} s, {len(result.faults)} faults; {statuses}")
            faults += [f"{host}: {fault}" for fault in result.faults]
    for fault in faults[:MOST_SHOWN]:
        print(f"FAULT {fault}")
    print(f"{total} requests, {time.monotonic() - begun:.1f} s, {len(faults)} faults")
    return 1 if faults or not total else 0


if __name__ == "__main__":
    sys.exit(main())
