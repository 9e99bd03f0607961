"""Two gateways with one Redis: the delay of invalidations between them, and failures while Redis restarts.

``python -m benchmarks.shared_cache [SECONDS] [--json]``; SECONDS (10) is the duration of the load. Redis, both gateways
and the service (this process) are separate processes. Exit 1 if a purge took a second, or a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.shared_limits import GATEWAY, connectable, free_port, spawn

ROUNDS = 50  # for each way of invalidation
CONNECTIONS = 8  # to each gateway
ITEMS = 200
LIMIT = 1.0  # seconds until the other gateway must have invalidated
PATIENCE = 30.0  # seconds
PURGE = b"POST /cache/purge?%b HTTP/1.1\r\nHost: 127.0.0.1\r\nPasserelle-Admin: 1\r\nContent-Length: 0\r\n\r\n"


class Service:
    """Service that numbers its responses, which identifies stored ones; they are cacheable for an hour."""

    def __init__(self) -> None:
        self.answers = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"content-length: " in head.lower():
                    await reader.readexactly(_length(head))
                self.answers += 1
                body = b"%d" % self.answers
                fields = b"Cache-Control: max-age=3600\r\nContent-Length: %d" % len(body)
                writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (fields, body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


class Client:
    """One persistent connection to a loopback port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, message: bytes) -> tuple[int, bytes]:
        """Send ``message``; return the status and body. Raises ``OSError`` or ``IncompleteReadError`` without a
        response."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head))
        return int(head[9:12]), body

    async def get(self, number: int) -> bytes:
        status, body = await self.send(b"GET /item/%d HTTP/1.1\r\nHost: gw\r\n\r\n" % number)
        assert status == 200, status
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Gateways:
    """Two gateways with the same configuration, and clients of their public and admin ports."""

    def __init__(self, folder: Path, target: int, redis: int) -> None:
        self.ports, self.admin = [free_port(), free_port()], [free_port(), free_port()]
        self.processes = []
        for port, admin in zip(self.ports, self.admin, strict=True):
            settings = {
                "listen": f"127.0.0.1:{port}",
                "admin": f"127.0.0.1:{admin}",
                "access_log": "off",
                "redis": f"redis://127.0.0.1:{redis}/0",
                "services": {"u": {"targets": [f"http://127.0.0.1:{target}"]}},
                "routes": [{"path": "/item/{id}", "service": "u", "cache": {"tags": ["item:{id}"]}}],
            }
            path = folder / f"{port}.yaml"
            path.write_text(json.dumps(settings))
            self.processes.append(spawn(sys.executable, "-c", GATEWAY, "gateway", str(path)))

    async def ready(self) -> tuple[list[Client], list[Client]]:
        """Return clients of both, once each gateway is connected to Redis."""
        for port in (*self.ports, *self.admin):
            await connectable(port)
        for port in self.admin:
            await until(partial(connected, port), "connected to Redis")
        return [Client(port) for port in self.ports], [Client(port) for port in self.admin]


async def connected(admin: int) -> bool:
    """Return whether the gateway with that admin port uses Redis."""
    client = Client(admin)
    _, body = await client.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    client.close()
    return b"\npasserelle_cache_redis_connected 1" in body


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> float:
    """Wait until the condition holds; return the seconds."""
    begun = time.monotonic()
    while not await condition():
        if time.monotonic() - begun > PATIENCE:
            raise SystemExit(f"not within {PATIENCE:.0f} s: {what}")
        await asyncio.sleep(0.001)
    return time.monotonic() - begun


async def seen(way: str, clients: list[Client], admins: list[Client], number: int) -> float:
    """Invalidate item ``number`` in one gateway; return the seconds from its response until the other one has
    refetched."""
    here, there = number % 2, 1 - number % 2
    await clients[here].get(number)
    old = await clients[there].get(number)
    assert await clients[there].get(number) == old, "it is in its memory"
    if way == "PUT":
        message = b"PUT /item/%d HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n" % number
        status, _ = await clients[here].send(message)
    else:
        value = {"tag": b"tag=item:%d", "path": b"path=/item/%d"}[way] % number
        status, _ = await admins[here].send(PURGE % value)
    assert status == 200, status

    async def renewed() -> bool:
        return await clients[there].get(number) != old

    return await until(renewed, f"a {way} is seen")


async def purges(clients: list[Client], admins: list[Client]) -> list[dict[str, Any]]:
    """Measure the delay of each way of invalidation, in milliseconds."""
    found = []
    for place, way in enumerate(("tag", "path", "PUT")):
        took = [await seen(way, clients, admins, 1000 * (place + 1) + number) for number in range(ROUNDS)]
        milliseconds = {"median_ms": statistics.median(took) * 1000, "most_ms": max(took) * 1000}
        found.append({"what": f"seen after {way}", "times": ROUNDS, **milliseconds, "met": max(took) < LIMIT})
    return found


async def load(port: int, place: int, end: float, statuses: Counter[str]) -> None:
    """Send one client's requests: mostly reads, every 50th a change."""
    client = Client(port)
    number = place
    while time.monotonic() < end:
        number += 1
        item = (number * 37 + place) % ITEMS
        body = b"Content-Length: 0\r\n" if number % 50 == 0 else b""
        message = b"%b /item/%d HTTP/1.1\r\nHost: gw\r\n%b\r\n" % (b"PUT" if body else b"GET", item, body)
        try:
            status, _ = await client.send(message)
            statuses[str(status)] += 1
        except (OSError, asyncio.IncompleteReadError) as error:
            statuses[type(error).__name__] += 1
            client.close()
    client.close()


async def comes_and_goes(
    gateways: Gateways, start: Callable[[], subprocess.Popen[bytes]], redis: subprocess.Popen[bytes], seconds: float
) -> tuple[dict[str, Any], subprocess.Popen[bytes]]:
    """Kill and restart Redis twice under load; return the result, and the Redis that is left."""
    statuses: Counter[str] = Counter()
    end = time.monotonic() + seconds
    clients = [load(port, place, end, statuses) for port in gateways.ports for place in range(CONNECTIONS)]
    running = asyncio.gather(*clients)
    for _ in range(2):
        await asyncio.sleep(seconds / 5)
        redis.kill()
        redis.wait()
        await asyncio.sleep(seconds / 5)
        redis = start()
    await running
    for admin in gateways.admin:
        await until(partial(connected, admin), "they use Redis again")
    failed = statuses.total() - statuses["200"]
    line = {"what": "Redis killed and started twice", "seconds": seconds, "requests": statuses.total()}
    return {**line, "failed": failed, "met": failed == 0}, redis


async def run(seconds: float) -> list[dict[str, Any]]:
    """Return all figures, one line each."""
    server = await asyncio.start_server(Service(), "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", name]

        def start() -> subprocess.Popen[bytes]:
            return spawn("redis-server", *arguments)

        redis = start()
        gateways: Gateways | None = None
        try:
            await connectable(port)
            gateways = Gateways(Path(name), target, port)
            clients, admins = await gateways.ready()
            found = await purges(clients, admins)
            line, redis = await comes_and_goes(gateways, start, redis, seconds)
            again = await purges(clients, admins)
            for client in (*clients, *admins):
                client.close()
            found += [line, *({**each, "what": f"{each['what']}, Redis back"} for each in again)]
        finally:
            for process in [redis, *(gateways.processes if gateways is not None else ())]:
                process.kill()
                process.wait()
    server.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_cache", description="Two gateways, one Redis.")
    parser.add_argument("seconds", nargs="?", type=float, default=10.0, help="how long the load lasts (default 10)")
    parser.add_argument("--json", action="store_true", help="one line of JSON a figure")
    options = parser.parse_args()
    found = asyncio.run(run(options.seconds))
    for line in found:
        rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in line.items()}
        print(json.dumps(rounded) if options.json else "  ".join(f"{key} {value}" for key, value in rounded.items()))
    return 0 if all(line["met"] for line in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
