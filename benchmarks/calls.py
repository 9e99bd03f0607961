"""``python -m benchmarks.calls [--where]``: count the calls of passerelle's own functions that one request makes.

Unlike a time, the count is the same on every machine and in every run, so a test holds it. The gateway, its upstream
and its client share one event loop in this process; the connection is kept alive and the access log is on. ``--where``
lists the functions.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvloop

import passerelle
from passerelle.config import load_text
from passerelle.gateway.gateway import Gateway

# Nothing is sampled, so nothing is sent there.
_TRACING: Mapping[str, Any] = {"tracing": {"endpoint": "http://127.0.0.1:9/v1/traces", "sample": "0%"}}
# Each kind of request: the path, whether a route of the configuration is cached, and further keys of the file.
KINDS: Mapping[str, tuple[bytes, bool, Mapping[str, Any]]] = {
    "forward": (b"/plain", False, {}),
    "forward, traced but not sampled": (b"/plain", False, _TRACING),
    "forward beside a cached route": (b"/plain", True, {}),
    "hit": (b"/cached", True, {}),
    "composition of two cached parts": (b"/both/1/2", True, {}),
    "composition of two parts": (b"/both/1/2", False, {}),
}
WARM_UP = 5
REQUESTS = 21

_SOURCE = str(Path(passerelle.__file__).parent)
_FIELDS = b"Host: gateway.example\r\nUser-Agent: calls\r\nAccept: */*\r\n"
_BODY = b'{"id": 1, "name": "' + b"x" * 80 + b'"}'
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 30 Nov 2026 09:00:00 GMT\r\n"
    b"Content-Length: %d\r\n\r\n%b"
) % (len(_BODY), _BODY)


class _Upstream(asyncio.Protocol):
    """Answers every request with the same response."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_RESPONSE * data.count(b"\r\n\r\n"))


class Counting:
    """Counts the calls of functions of passerelle while it is entered, by file, line and name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Counting:
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(_SOURCE):
            place = code.co_filename.removeprefix(_SOURCE + "/")
            self.calls[f"{place}:{code.co_firstlineno} {code.co_qualname}"] += 1


def _configuration(upstream_ports: Sequence[int], log: Path, cached: bool, more: Mapping[str, Any]) -> str:
    cache = {"cache": {"ttl": "1h"}} if cached else {}
    parts = {
        "user": {"service": "api", "path": "/user/{user_id}", **cache},
        "product": {"service": "api", "path": "/product/{product_id}", **cache},
    }
    routes = [
        {"path": "/plain", "service": "api"},
        {"path": "/cached", "service": "api", **cache},
        {"path": "/both/{user_id}/{product_id}", "compose": parts},
    ]
    services = {"api": {"targets": [f"http://127.0.0.1:{port}" for port in upstream_ports]}}
    own = {"listen": "127.0.0.1:0", "access_log": str(log), "services": services, "routes": routes}
    return json.dumps(own | dict(more))


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: bytes) -> None:
    writer.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (path, _FIELDS))
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"unexpected response: {head!r}")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def _count(path: bytes, cached: bool, more: Mapping[str, Any], folder: Path) -> Counter[str]:
    loop = asyncio.get_running_loop()
    upstreams = [await loop.create_server(_Upstream, "127.0.0.1", 0) for _ in range(2)]
    ports = [upstream.sockets[0].getsockname()[1] for upstream in upstreams]
    text = _configuration(ports, folder / "access.log", cached, more)
    gateway = Gateway(load_text(text))
    host, port = await gateway.start()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for _ in range(WARM_UP):
            await _request(reader, writer, path)
        counted = []
        for _ in range(REQUESTS):
            with Counting() as counting:
                await _request(reader, writer, path)
            counted.append(counting.calls)
    finally:
        writer.close()
        await gateway.stop(1.0)
        for upstream in upstreams:
            upstream.close()
    # Timers of the gateway (its clock, its sweep, its log) run during some of the requests, not during the least one.
    return min(counted, key=Counter.total)


def count(kind: str) -> Counter[str]:
    """Count the calls that one request of ``kind`` (a key of :data:`KINDS`) makes: how often each function runs."""
    path, cached, more = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_count(path, cached, more, Path(folder)))


def main(argv: Sequence[str]) -> None:
    """Print a line for each kind of request; with ``--where``, the functions too."""
    for kind in KINDS:
        calls = count(kind)
        print(f"{kind:32} {calls.total():4}")
        if "--where" in argv:
            for place, times in sorted(calls.items()):
                print(f"    {times:2} {place}")


if __name__ == "__main__":
    main(sys.argv[1:])
