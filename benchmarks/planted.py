"""``python -m benchmarks.planted [--runs N] [KIND...]``: plant bottlenecks, and count how often they are named first.

Each run starts ``passerelle up`` with real processes, sends requests, and gets the verdicts on the last seconds from
the admin port. Exit code 1 if a bottleneck was not named first with the right resource, or if a healthy system has one.
A machine that other programs keep busy is named as well, and rightly, but never counts as the planted bottleneck.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_APPS = """
import sqlite3
import threading
import time

local = threading.local()


def response(start, *fields):
    start("200 OK", [("Content-Type", "application/json"), *fields])
    return [b'{"id": 1}']


def user(environ, start):
    time.sleep(0.02)
    return response(start)


def steady(environ, start):
    time.sleep(0.03)
    return response(start)


def product(environ, start):
    if not hasattr(local, "db"):
        local.db = sqlite3.connect(":memory:")
        local.db.create_function("slow", 1, lambda value: time.sleep(0.1) or value)
    began = time.perf_counter()
    local.db.execute("select slow(1)").fetchone()
    took = (time.perf_counter() - began) * 1000
    return response(start, ("Server-Timing", f"db;dur={took:.1f}"))


def fast(environ, start):
    return response(start)


def any_variant(environ, start):
    return response(start, ("Vary", "*"))
"""
_TAIL = b"\r\nHost: planted.example\r\n\r\n"
WARM_UP = 2.0  # seconds of load before the seconds that are judged
SECONDS = 5
_START = 60.0


@dataclass(frozen=True, slots=True)
class Plant:
    """A system with a bottleneck, or a healthy one (``expected`` is None).

    ``services`` are functions of the application, each with one instance. ``pause`` is the time between the requests of
    a connection in seconds; ``pipelined`` is how many are sent at once.
    """

    about: str
    services: Sequence[str]
    routes: str
    paths: Sequence[str]
    expected: tuple[str, str] | None
    connections: int
    pause: float = 0.0
    pipelined: int = 1


_USER = "  - {path: /user, service: user}\n"
KINDS = {
    "few-instances": Plant("too few user instances", ["user"], _USER, ["/user"], ("user", "threads"), 12),
    "slow-database": Plant(
        "100 ms a query",
        ["product"],
        "  - {path: /product, service: product}\n",
        ["/product"],
        ("product", "database"),
        3,
    ),
    "useless-cache": Plant(
        "Vary: * on a cached route",
        ["any_variant"],
        "  - {path: /api, service: any_variant, cache: {ttl: 1m}}\n",
        ["/api"],
        ("cache", "/api"),
        4,
        0.05,
    ),
    "busy-gateway": Plant(
        "the gateway at 100 % CPU",
        ["fast"],
        "  - {path: /fast, service: fast, cache: {ttl: 1m}}\n",
        ["/fast"],
        ("gateway", "cpu"),
        16,
        pipelined=200,  # so many that the gateway never waits for the clients, also on a busy machine
    ),
    "one-connection": Plant(
        "a client that waits",
        ["steady"],
        "  - {path: /steady, service: steady}\n",
        ["/steady"],
        ("client", "concurrency"),
        1,
    ),
    "healthy-service": Plant("a service with room", ["user"], _USER, ["/user"], None, 4, 0.1),
    "healthy-cache": Plant(
        "a cache that hits",
        ["fast"],
        "  - {path: /fast, service: fast, cache: {ttl: 1m}}\n",
        ["/fast"],
        None,
        4,
        0.05,
    ),
    "healthy-mix": Plant(
        "two services and a composition",
        ["user", "fast"],
        _USER
        + "  - path: /both\n    compose:\n      user: {service: user, path: /}\n      fast: {service: fast, path: /}\n",
        ["/user", "/both"],
        None,
        4,
        0.1,
    ),
}


def _configuration(plant: Plant) -> str:
    services = "".join(f"  {name}: {{app: 'planted:{name}', instances: 1}}\n" for name in plant.services)
    return (
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 1\naccess_log: off\n"
        f"services:\n{services}routes:\n{plant.routes}"
    )


@contextlib.contextmanager
def _system(plant: Plant, folder: Path) -> Iterator[tuple[int, int]]:
    """Run the system; yields the port of the gateway and that of its admin."""
    (folder / "planted.py").write_text(_APPS)
    (folder / "gateway.yaml").write_text(_configuration(plant))
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from passerelle.cli.main import main; main()", "up"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + _START
        while True:
            text = output.read_text(errors="replace")
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+) · admin http://127\.0\.0\.1:(\d+)", text)
            if found is not None:
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the system did not start:\n{text}")
            time.sleep(0.05)
        yield int(found[1]), int(found[2])
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


class _Load:
    """Closed-loop clients: each sends the next requests when it has the responses, after the pause of the plant."""

    def __init__(self, plant: Plant, port: int) -> None:
        self._plant = plant
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(plant.connections)]

    def __enter__(self) -> _Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self, number: int) -> None:
        plant = self._plant
        path = plant.paths[number % len(plant.paths)].encode()
        message = (b"GET %b HTTP/1.1" % path + _TAIL) * plant.pipelined
        self._stop.wait(plant.pause * number / plant.connections)  # not all at the same time
        with socket.create_connection(("127.0.0.1", self._port), 10) as client:
            while not self._stop.is_set():
                client.sendall(message)
                _read(client, plant.pipelined)
                if plant.pause:
                    self._stop.wait(plant.pause)


def _read(client: socket.socket, count: int) -> None:
    """Read ``count`` responses, which end with the body of the application, alone or as a part."""
    data = b""
    while data.count(b"HTTP/1.1 200") < count or not data.endswith(b"}"):
        piece = client.recv(262_144)
        if not piece:
            raise RuntimeError(f"the gateway closed the connection after {data[:200]!r}")
        data += piece
        if b"HTTP/1.1 5" in data:
            raise RuntimeError(f"unexpected response: {data[:200]!r}")


def _verdicts(port: int, seconds: int) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", f"/diagnose?seconds={seconds}")
        found: list[dict[str, Any]] = json.loads(connection.getresponse().read())["verdicts"]
        return found
    finally:
        connection.close()


def run(plant: Plant, seconds: int = SECONDS) -> list[dict[str, Any]]:
    """Run one system under its load, and return the verdicts."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _system(plant, Path(folder)) as (port, admin),
        _Load(plant, port),
    ):
        time.sleep(WARM_UP + seconds)
        return _verdicts(admin, seconds)


def is_right(plant: Plant, verdicts: list[dict[str, Any]]) -> bool:
    """Return whether the planted bottleneck is named first, or no resource of a healthy system."""
    if plant.expected is not None:
        return (verdicts[0]["component"], verdicts[0]["resource"]) == plant.expected
    return not any(verdict["is_bottleneck"] for verdict in verdicts if verdict["component"] != "machine")


def main(arguments: Sequence[str], show: Callable[[str], None] = print) -> int:
    """Run all kinds, or those named, and return the exit code."""
    words = list(arguments)
    runs = 3
    if "--runs" in words:
        place = words.index("--runs")
        runs = int(words[place + 1])
        del words[place : place + 2]
    right = total = 0
    for name in words or KINDS:
        for _ in range(runs if KINDS[name].expected is not None else 1):
            verdicts = run(KINDS[name])
            good = is_right(KINDS[name], verdicts)
            right, total = right + good, total + 1
            show(f"{'right' if good else 'WRONG'}  {name:16}  {verdicts[0]['text']}")
            for verdict in verdicts[1:] if not good else ():
                show(f"{'':25}{verdict['text']}")
    show(f"{right} of {total}")
    return 0 if right == total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
